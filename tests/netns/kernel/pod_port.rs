//! Pod ports.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use millrace::kernel::sysctl::{Family, Setting};
use millrace::kernel::{
    Kernel, KernelError, OWN_ROUTE_PROTOCOL, PodPortSpec, pod_interface_name, within_namespace,
};

use nix::sys::socket;

use super::host_port::offloads_on;
use super::namespaces::Namespace;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn spec(netns_path: PathBuf) -> PodPortSpec {
    PodPortSpec {
        host_ifname: pod_interface_name("default", "web-0"),
        pod_ifname: "eth0".to_owned(),
        netns_path,
        mac_host: Some([2, 0, 0, 0, 2, 1]),
        mac_pod: Some([2, 0, 0, 0, 2, 2]),
        addresses: ips(&["10.244.1.7"]),
        gateways: ips(&["10.244.1.1"]),
        mtu: 1450,
        queues: 2,
    }
}

/// A pod's namespace as a container runtime hands it over: with nothing up.
fn new_pod() -> Namespace {
    let pod = Namespace::new();
    pod.ip("link set lo down");
    pod
}

fn is_up(namespace: &Namespace, interface: &str) -> bool {
    namespace
        .ip(&format!("-o link show dev {interface}"))
        .contains(",UP")
        || namespace
            .ip(&format!("-o link show dev {interface}"))
            .contains("<UP")
}

fn words(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn a_pod_gets_a_working_end() {
    let (node, pod) = (Namespace::new(), new_pod());
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let spec = spec(pod.path());
        let port = kernel.attach_pod(&spec).await.unwrap();
        kernel.set_up(&spec.host_ifname, true).await.unwrap();
        let host_end = kernel.link_by_name(&spec.host_ifname).await.unwrap();
        assert_eq!(
            (port.ifindex, port.mac_host, port.mac_pod),
            (host_end.ifindex, spec.mac_host, spec.mac_pod)
        );
        assert!(
            host_end.up && host_end.running && host_end.mtu == 1450 && host_end.peer_elsewhere,
            "{host_end:?}"
        );
        assert_eq!(kernel.peer_of(&host_end).await.unwrap(), None);
        assert_eq!(kernel.channel_count(&host_end.name).await.unwrap().receiving(), 2);
        let disabled = Setting::of_interface(Family::V6, &host_end.name, "disable_ipv6").unwrap();
        assert_eq!(disabled.read().unwrap().as_deref(), Some("1"));

        let pod_end = pod.ip("-o -d link show dev eth0");
        for part in [
            "mtu 1450",
            "02:00:00:00:02:02",
            "numtxqueues 2",
            "numrxqueues 2",
            "LOWER_UP",
        ] {
            assert!(pod_end.contains(part), "{part}: {pod_end}");
        }
        assert!(is_up(&pod, "lo"));
        assert!(
            pod.ip("-o addr show dev eth0")
                .contains("inet 10.244.1.7/32 scope global eth0")
        );
        assert!(!pod.ip("-o addr show dev eth0").contains("inet6"));
        assert_eq!(
            words(&pod.ip(&format!("route show proto {OWN_ROUTE_PROTOCOL}"))),
            [
                "default via 10.244.1.1 dev eth0 onlink",
                "10.244.1.1 dev eth0 scope link"
            ]
        );
        assert_eq!(offloads_on(&pod, "eth0"), Vec::<String>::new());

        assert!(kernel.detach_pod(&spec.host_ifname).await.unwrap());
        assert!(
            !kernel.detach_pod(&spec.host_ifname).await.unwrap(),
            "a second time is no error"
        );
        assert_eq!(node.interfaces(), ["lo"]);
        assert_eq!(pod.interfaces(), ["lo"]);
    });
}

#[test]
fn a_pod_of_two_families_gets_both() {
    let (node, pod) = (Namespace::new(), new_pod());
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let mut spec = spec(pod.path());
        spec.addresses = ips(&["10.244.1.7", "fd00:244:1::7"]);
        spec.gateways = ips(&["10.244.1.1", "fd00:244:1::1"]);
        spec.mac_pod = None;
        let port = kernel.attach_pod(&spec).await.unwrap();
        kernel.set_up(&spec.host_ifname, true).await.unwrap();
        assert!(port.mac_pod.is_some());
        let addresses = pod.ip("-o -6 addr show dev eth0 scope global");
        assert!(
            addresses.contains("fd00:244:1::7/128") && !addresses.contains("tentative"),
            "{addresses}"
        );
        assert_eq!(
            words(&pod.ip(&format!("-6 route show proto {OWN_ROUTE_PROTOCOL}"))),
            [
                "fd00:244:1::1 dev eth0 metric 1024 pref medium",
                "default via fd00:244:1::1 dev eth0 metric 1024 onlink pref medium",
            ]
        );
    });
}

#[test]
fn what_leaves_a_pod_is_finished_and_fits() {
    // The node's end stands in for the switch: it answers ARP for the gateway and takes the packets in.
    let (node, pod) = (Namespace::new(), new_pod());
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let spec = spec(pod.path());
        let port = kernel.attach_pod(&spec).await.unwrap();
        kernel.set_up(&spec.host_ifname, true).await.unwrap();
        kernel.set_gro(&spec.host_ifname, false).await.unwrap();
        node.ip(&format!("addr add 10.244.1.1/32 dev {}", spec.host_ifname));
        node.ip(&format!("route add 10.244.1.7/32 dev {}", spec.host_ifname));
        pod.sh("ping -c 1 -W 2 10.244.1.1");

        let tap = Tap::open(port.ifindex);
        let listener = std::net::TcpListener::bind("10.244.1.1:7777").unwrap();
        let path = pod.path();
        let sent = within_namespace(&path, |_| async {
            let mut stream = std::net::TcpStream::connect("10.244.1.1:7777").unwrap();
            stream.write_all(&[0x5a; BURST_BYTES]).unwrap();
            let datagram = std::net::UdpSocket::bind("10.244.1.7:0").unwrap();
            datagram.send_to(b"all of a datagram", "10.244.1.1:7778").unwrap();
            Ok(stream)
        });
        let received = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
            bytes.len()
        });
        drop(sent.await.unwrap());
        assert_eq!(received.join().unwrap(), BURST_BYTES);

        let (mut bytes, mut datagrams) = (0, 0);
        for frame in tap.frames() {
            let packet = &frame[14..];
            if frame[12..14] != [8, 0] || packet[12..16] != [10, 244, 1, 7] {
                continue;
            }
            assert!(packet.len() <= 1450, "a frame of {} bytes", packet.len());
            assert_eq!(
                transport_sum(packet),
                0xffff,
                "an unfinished checksum in {packet:02x?}"
            );
            match packet[9] {
                6 => bytes += packet.len() - 20 - usize::from(packet[32] >> 4) * 4,
                17 => datagrams += 1,
                _ => {}
            }
        }
        assert_eq!((bytes, datagrams), (BURST_BYTES, 1));
    });
}

/// Bytes written at once: several segments, and few enough for the tap's buffer.
const BURST_BYTES: usize = 30_000;

/// A packet socket that sees what arrives on an interface, with checksums as they are.
struct Tap {
    socket: OwnedFd,
    ifindex: usize,
}

impl Tap {
    fn open(ifindex: u32) -> Self {
        let (kind, flags) = (socket::SockType::Raw, socket::SockFlag::SOCK_NONBLOCK);
        let all = socket::SockProtocol::EthAll;
        let socket = socket::socket(socket::AddressFamily::Packet, kind, flags, all).unwrap();
        socket::setsockopt(&socket, socket::sockopt::RcvBufForce, &(1 << 20)).unwrap();
        Self {
            socket,
            ifindex: usize::try_from(ifindex).unwrap(),
        }
    }

    /// What has arrived so far.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while let Ok((length, Some(from))) =
            socket::recvfrom::<socket::LinkAddr>(self.socket.as_raw_fd(), &mut buffer)
        {
            if from.ifindex() == self.ifindex {
                frames.push(buffer[..length].to_vec());
            }
        }
        frames
    }
}

/// The ones' complement sum over pseudo-header and transport of an IPv4 packet without options: all ones if
/// right.
fn transport_sum(packet: &[u8]) -> u16 {
    let transport = &packet[20..usize::from(u16::from_be_bytes([packet[2], packet[3]]))];
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum()
    };
    if packet[9] == 1 {
        return 0xffff;
    }
    let mut sum = words(&packet[12..20])
        + u32::from(packet[9])
        + u32::try_from(transport.len()).unwrap()
        + words(transport);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

#[test]
fn a_pod_that_vanished_is_detached_without_error() {
    let (node, pod) = (Namespace::new(), new_pod());
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let spec = spec(pod.path());
        kernel.attach_pod(&spec).await.unwrap();
        kernel.set_up(&spec.host_ifname, true).await.unwrap();
        drop(pod);
        // The kernel takes a namespace apart in the background.
        for _ in 0..100 {
            if kernel.find_link(&spec.host_ifname).await.unwrap().is_none() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(node.interfaces(), ["lo"]);
        assert!(!kernel.detach_pod(&spec.host_ifname).await.unwrap());
    });
}

/// A way in which attaching fails.
struct Failure {
    name: &'static str,
    /// Run in the pod's and in the node's namespace before.
    in_pod: &'static str,
    in_node: &'static str,
    change: fn(&mut PodPortSpec),
    /// What the error has to say.
    says: &'static [&'static str],
}

const FAILURES: [Failure; 12] = [
    Failure {
        name: "no such path",
        in_pod: "",
        in_node: "",
        change: |spec| spec.netns_path = "/run/netns/there-is-none".into(),
        says: &["/run/netns/there-is-none", "no such path", "/run/netns/NAME"],
    },
    Failure {
        name: "not a namespace",
        in_pod: "",
        in_node: "",
        change: |spec| spec.netns_path = "/etc/hostname".into(),
        says: &["/etc/hostname", "not a network namespace", "/run/netns/NAME"],
    },
    Failure {
        name: "the node's own namespace",
        in_pod: "",
        in_node: "",
        change: |spec| spec.netns_path = "/proc/thread-self/ns/net".into(),
        says: &["/proc/thread-self/ns/net", "node's own"],
    },
    Failure {
        name: "the pod has such an interface",
        in_pod: "link add eth0 type bridge",
        in_node: "",
        change: |_| {},
        says: &["eth0", "already exists", "network namespace /run/netns/"],
    },
    Failure {
        name: "the node has such an interface",
        in_pod: "",
        in_node: "link add taken0 type bridge",
        change: |spec| spec.host_ifname = "taken0".to_owned(),
        says: &["taken0", "already exists", "this network namespace"],
    },
    Failure {
        name: "an address that cannot be",
        in_pod: "",
        in_node: "",
        change: |spec| spec.addresses = ips(&["10.244.1.7", "224.0.0.9"]),
        says: &["eth0", "224.0.0.9", "unicast"],
    },
    Failure {
        name: "an address that the kernel refuses late",
        in_pod: "",
        in_node: "",
        change: |spec| {
            spec.mtu = 1000;
            spec.addresses = ips(&["10.244.1.7", "fd00:244:1::7"]);
            spec.gateways = ips(&["10.244.1.1", "fd00:244:1::1"]);
        },
        says: &["eth0", "fd00:244:1::7", "in network namespace"],
    },
    Failure {
        name: "a gateway that cannot be",
        in_pod: "",
        in_node: "",
        change: |spec| spec.gateways = ips(&["127.0.0.1"]),
        says: &["eth0", "127.0.0.1"],
    },
    Failure {
        name: "another default route",
        in_pod: "route add default dev lo",
        in_node: "",
        change: |_| {},
        says: &["0.0.0.0/0", "another program", "interface number 1"],
    },
    Failure {
        name: "an MTU that cannot be",
        in_pod: "",
        in_node: "",
        change: |spec| spec.mtu = 40,
        says: &["eth0"],
    },
    Failure {
        name: "no gateway",
        in_pod: "",
        in_node: "",
        change: |spec| spec.gateways.clear(),
        says: &["gateway"],
    },
    Failure {
        name: "too many queues",
        in_pod: "",
        in_node: "",
        change: |spec| spec.queues = 100_000,
        says: &["eth0"],
    },
];

#[test]
fn a_failure_leaves_nothing_behind_and_says_where() {
    for failure in &FAILURES {
        let (node, pod) = (Namespace::new(), Namespace::new());
        for (namespace, line) in [(&pod, failure.in_pod), (&node, failure.in_node)] {
            if !line.is_empty() {
                namespace.ip(line);
            }
        }
        let before = (
            node.interfaces(),
            pod.interfaces(),
            pod.ip("route"),
            pod.ip("addr show dev lo"),
        );
        node.run(|| async {
            let kernel = Kernel::open().unwrap();
            let mut spec = spec(pod.path());
            (failure.change)(&mut spec);
            let error = kernel
                .attach_pod(&spec)
                .await
                .expect_err(failure.name)
                .to_string();
            println!("{}: {error}", failure.name);
            for word in failure.says {
                assert!(
                    error.contains(word),
                    "{}: {error:?} does not say {word:?}",
                    failure.name
                );
            }
            assert!(!error.contains('\n'), "{error}");
        });
        let after = (
            node.interfaces(),
            pod.interfaces(),
            pod.ip("route"),
            pod.ip("addr show dev lo"),
        );
        assert_eq!(before, after, "{}", failure.name);
    }
}

#[test]
fn only_a_veth_is_detached() {
    let node = Namespace::new();
    node.ip("link add mrbridge0 type bridge");
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let error = kernel.detach_pod("mrbridge0").await.unwrap_err();
        assert!(matches!(error, KernelError::WrongInterface { .. }), "{error}");
        assert_eq!(node.interfaces(), ["lo", "mrbridge0"]);
    });
}

#[test]
fn many_attachments_leave_nothing() {
    // Other tests of this process open files and namespaces too; what leaks, leaks in every round.
    const ROUNDS: usize = 100;
    let (node, pod) = (Namespace::new(), new_pod());
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let spec = spec(pod.path());
        let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open_files();
        for _ in 0..ROUNDS {
            kernel.attach_pod(&spec).await.unwrap();
            kernel.set_up(&spec.host_ifname, true).await.unwrap();
            kernel.detach_pod(&spec.host_ifname).await.unwrap();
        }
        assert!(
            open_files() < before + ROUNDS,
            "{before} files, then {}",
            open_files()
        );
        assert!(threads_named("millrace-netns") < ROUNDS);
        assert_eq!(
            (node.interfaces(), pod.interfaces()),
            (vec!["lo".to_owned()], vec!["lo".to_owned()])
        );
    });
}

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

/// Set in the process that runs a test again without privileges.
const WITHOUT_PRIVILEGES: &str = "MILLRACE_TEST_WITHOUT_PRIVILEGES";

#[test]
fn without_privileges_the_error_says_which_are_missing() {
    if let Some(path) = std::env::var_os(WITHOUT_PRIVILEGES) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let kernel = Kernel::open().unwrap();
            let error = kernel
                .attach_pod(&spec(path.into()))
                .await
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("CAP_SYS_ADMIN") && error.contains("/run/netns/"),
                "{error}"
            );
            let error = kernel.delete_link("lo").await.unwrap_err().to_string();
            assert!(error.contains("CAP_NET_ADMIN") && error.contains("lo"), "{error}");
        });
        return;
    }
    let pod = new_pod();
    let module = module_path!().split_once("::").unwrap().1;
    let name = format!("{module}::without_privileges_the_error_says_which_are_missing");
    let again = std::process::Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .env(WITHOUT_PRIVILEGES, pod.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn the_caller_stays_in_its_namespace() {
    let (node, pod) = (Namespace::new(), new_pod());
    pod.ip("link add only-in-pod type bridge");
    node.run(|| async {
        let own = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = own();
        let seen = within_namespace(&pod.path(), |kernel| async move {
            let inside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            kernel.link_by_name("only-in-pod").await?;
            Ok(inside)
        })
        .await
        .unwrap();
        assert_ne!(seen, before);
        assert_eq!(own(), before);
        let path = pod.path();
        let error = within_namespace(
            &path,
            |kernel| async move { kernel.link_by_name("nothere0").await },
        );
        let error = error.await.unwrap_err().to_string();
        assert!(
            error.contains("nothere0") && error.contains(pod.path().to_str().unwrap()),
            "{error}"
        );
        let error = within_namespace(Path::new("/etc/hostname"), |_| async { Ok(()) })
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/etc/hostname") && error.contains("not a network namespace"),
            "{error}"
        );
        let panicked = within_namespace(&pod.path(), |_| async { panic!("on purpose") }).await;
        let panicked: Result<(), KernelError> = panicked;
        assert!(panicked.is_err());
        assert_eq!(own(), before);
    });
}
