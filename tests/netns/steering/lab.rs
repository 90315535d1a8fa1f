//! Two namespaces joined by a veth pair: the node, where a program is attached, and its peer.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millrace_dataplane::xdp::{
    AttachedMode, Attachment, ProgramKind, SteeringCounters, SteeringProgram, XdpMode, interface_index,
};
use rustix::net::sockopt;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, SendFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub(crate) const NOT_A_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 7);
pub(crate) const TUNNEL_PORT: u16 = 8472;
pub(crate) const PLAIN_PORT: u16 = 5000;
/// The node's end of the veth pair, and the number of queues on either end.
pub(crate) const UPLINK: &str = "up0";
pub(crate) const QUEUES: u32 = 2;
/// Longer than any packet takes to arrive; short enough to wait for one that must not.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Two namespaces joined by a veth pair, gone with the value, also when a test panics.
pub(crate) struct Lab {
    pub(crate) node: String,
    pub(crate) peer: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let lab = Self {
            node: format!("steer-{id}-n"),
            peer: format!("steer-{id}-p"),
        };
        for namespace in [&lab.node, &lab.peer] {
            ip(&format!("netns add {namespace}"));
            // So that nothing but the test's own packets is counted.
            inside(namespace, || {
                std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap()
            });
            inside(namespace, || {
                std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap()
            });
        }
        let queues = format!("numrxqueues {QUEUES} numtxqueues {QUEUES}");
        ip(&format!(
            "-n {} link add {UPLINK} address 02:00:00:00:00:01 {queues} type veth \
             peer name p0 netns {} address 02:00:00:00:00:02 {queues}",
            lab.node, lab.peer
        ));
        for (namespace, device, own, other, other_mac) in [
            (&lab.node, UPLINK, "192.0.2.1", "192.0.2.2", "02:00:00:00:00:02"),
            (&lab.peer, "p0", "192.0.2.2", "192.0.2.1", "02:00:00:00:00:01"),
        ] {
            ip(&format!("-n {namespace} addr add {own}/24 dev {device}"));
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} link set {device} up"));
            ip(&format!(
                "-n {namespace} neigh replace {other} lladdr {other_mac} nud permanent dev {device}"
            ));
        }
        ip(&format!("-n {} route add 10.244.0.0/16 via {NODE}", lab.peer));
        lab
    }

    pub(crate) fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.node, work)
    }

    pub(crate) fn on_peer<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.peer, work)
    }

    pub(crate) fn ifindex(&self) -> u32 {
        self.on_node(|| interface_index(UPLINK).unwrap())
    }

    /// Sends `count` datagrams of `length` bytes from the peer, each from a port of its own.
    pub(crate) fn send_udp(&self, to: Ipv4Addr, port: u16, count: usize, length: usize) {
        self.on_peer(|| {
            for _ in 0..count {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(&vec![0xa5; length], (to, port)).unwrap();
            }
        });
    }

    /// Sends `count` IP-in-IP packets from the peer.
    pub(crate) fn send_ipip(&self, count: usize) {
        self.on_peer(|| {
            let protocol = rustix::net::ipproto::IPIP;
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(protocol)).unwrap();
            for _ in 0..count {
                let to = SocketAddr::from((NODE, 0));
                rustix::net::sendto(&socket, &[0x45; 40], SendFlags::empty(), &to).unwrap();
            }
        });
    }

    pub(crate) fn ping(&self, count: u32) -> bool {
        let arguments = format!(
            "netns exec {} ping -n -q -c {count} -i 0.05 -W 2 {NODE}",
            self.peer
        );
        Command::new("ip")
            .args(arguments.split(' '))
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    /// A megabyte there and back over TCP.
    pub(crate) fn talk_tcp(&self, port: u16) {
        let listener = self.on_node(|| TcpListener::bind((NODE, port)).unwrap());
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; 1 << 20];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        self.on_peer(|| {
            let mut stream = TcpStream::connect_timeout(&(NODE, port).into(), PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let sent: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
            stream.write_all(&sent).unwrap();
            let mut received = vec![0; sent.len()];
            stream.read_exact(&mut received).unwrap();
            assert!(received == sent, "TCP changed the bytes");
        });
        echo.join().unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.peer] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .stderr(Stdio::null())
                .status();
        }
    }
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `work` on a thread inside a namespace. What it opens stays there.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A UDP socket of the node's kernel.
pub(crate) struct Listener(UdpSocket);

impl Listener {
    pub(crate) fn new(lab: &Lab, port: u16) -> Self {
        Self(lab.on_node(|| UdpSocket::bind((NODE, port)).unwrap()))
    }

    /// How many datagrams came, when none comes for a while.
    pub(crate) fn received(&self) -> usize {
        self.0.set_read_timeout(Some(SILENCE)).unwrap();
        let mut buffer = [0; 65536];
        std::iter::from_fn(|| self.0.recv(&mut buffer).ok()).count()
    }
}

/// An AF_XDP socket that is bound and has no frame to receive into: it counts what it is handed.
pub(crate) struct Sink {
    pub(crate) socket: OwnedFd,
    /// Registered with the kernel, which holds its pages.
    _memory: Vec<u8>,
}

impl Sink {
    const FRAME: usize = 4096;
    const RING: u32 = 64;

    pub(crate) fn new(lab: &Lab, queue: u32) -> Self {
        let ifindex = lab.ifindex();
        lab.on_node(|| {
            let socket = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
            let memory = vec![0_u8; 5 * Self::FRAME];
            let start = (memory.as_ptr() as usize).next_multiple_of(Self::FRAME);
            let registration = XdpUmemReg {
                addr: start as u64,
                len: 4 * Self::FRAME as u64,
                chunk_size: Self::FRAME as u32,
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            };
            sockopt::set_xdp_umem_reg(&socket, registration).unwrap();
            sockopt::set_xdp_umem_fill_ring_size(&socket, Self::RING).unwrap();
            sockopt::set_xdp_umem_completion_ring_size(&socket, Self::RING).unwrap();
            sockopt::set_xdp_rx_ring_size(&socket, Self::RING).unwrap();
            let address = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, ifindex, queue);
            let deadline = Instant::now() + PATIENCE;
            // A queue that has just been freed is busy for a moment.
            while let Err(error) = rustix::net::bind(&socket, &address) {
                assert!(
                    error == rustix::io::Errno::BUSY && Instant::now() < deadline,
                    "bind: {error}"
                );
                std::thread::sleep(Duration::from_millis(10));
            }
            Self {
                socket,
                _memory: memory,
            }
        })
    }

    pub(crate) fn received(&self) -> u64 {
        sockopt::xdp_statistics(&self.socket)
            .unwrap()
            .rx_fill_ring_empty_descs
            .unwrap()
    }
}

/// The uplink's program with its tables filled.
pub(crate) fn uplink_program() -> SteeringProgram {
    let mut program = SteeringProgram::load(ProgramKind::Uplink, QUEUES).unwrap();
    program.set_local_addresses(&[NODE.into()]).unwrap();
    program.set_tunnel_ports(&[TUNNEL_PORT]).unwrap();
    program.set_pod_prefixes(&[(IpAddr::from(POD), 24)]).unwrap();
    program.set_ipip(true).unwrap();
    program
}

pub(crate) fn attach(lab: &Lab, program: &SteeringProgram, mode: XdpMode) -> Attachment {
    let ifindex = lab.ifindex();
    lab.on_node(|| program.attach(ifindex, mode)).unwrap()
}

/// Waits until the program has seen as many packets as expected, and checks that they were counted so, and no
/// more.
pub(crate) fn expect_counters(program: &SteeringProgram, expected: SteeringCounters) {
    let deadline = Instant::now() + PATIENCE;
    while program.counters().unwrap().seen() < expected.seen() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(program.counters().unwrap(), expected);
}

pub(crate) const MODES: [(XdpMode, AttachedMode); 3] = [
    (XdpMode::Auto, AttachedMode::Native),
    (XdpMode::Native, AttachedMode::Native),
    (XdpMode::Generic, AttachedMode::Generic),
];
