//! The other node: a virtual machine whose kernel does everything, set up as Calico's agents do.

use std::net::{IpAddr, SocketAddr};

use millrace_tools::lab::Lab;
use millrace_tools::lab::machine::Machine;
use millrace_tools::lab::plan::NodePlan;

use crate::objects::{MACS, MACS_V6, Place, address, block, tunnel_address, underlay, underlay_v6};
use crate::{ECHO_PORT, PATIENCE};

pub(crate) struct Peer {
    machine: Machine,
}

impl Peer {
    /// The machine's port on the rack.
    pub(crate) const TAP: &str = "tap-b";

    /// Starts the machine, makes it a node, and its pod with an echo.
    pub(crate) fn boot(lab: &Lab) -> Self {
        let plan = NodePlan::of(1).unwrap();
        let machine = Machine::boot(lab, plan, 2, false).unwrap_or_else(|error| panic!("{error}"));
        machine.write("/tmp/calico.sh", &script()).unwrap();
        let told = machine.run(&["busybox", "sh", "-ex", "/tmp/calico.sh"]);
        told.unwrap_or_else(|error| panic!("{error}"));
        for place in [Place::Ipip, Place::Vxlan, Place::VxlanV6] {
            let at = SocketAddr::new(address(place, 'b'), ECHO_PORT).to_string();
            let words = ["ip", "netns", "exec", "pod", "millrace-guest", "echo", &at];
            machine.spawn(&words, "/var/log/echo.log").unwrap();
        }
        Self { machine }
    }

    /// Has QEMU look again at what came while the NIC was not ready: till then it reads nothing more of it.
    pub(crate) fn rouse(&self) {
        self.machine.rouse().unwrap();
    }

    /// One echo request from its pod; whether it was answered, and what was said.
    pub(crate) fn ping(&self, to: IpAddr, options: &[&str]) -> (bool, String) {
        let to = to.to_string();
        let mut words = vec!["ip", "netns", "exec", "pod", "ping", "-n", "-c", "1", "-W", "20"];
        words.extend(options);
        words.push(&to);
        let told = self.machine.complete(&words, PATIENCE).unwrap();
        (told.status.success(), format!("{}{}", told.stdout, told.stderr))
    }

    /// Connections from its pod; what the talker reports.
    pub(crate) fn talk(&self, words: &[String]) -> String {
        let mut line = vec!["ip", "netns", "exec", "pod", "millrace-guest"];
        line.extend(words.iter().map(String::as_str));
        self.machine.complete(&line, PATIENCE).unwrap().success().unwrap()
    }

    /// What there is to be known when something fails.
    pub(crate) fn told(&self) -> String {
        let lines = [
            "ip -s link",
            "ip route",
            "ip -6 route",
            "ip neigh",
            "bridge fdb",
            "cat /var/log/echo.log",
        ];
        let told = lines.map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let said = self.machine.complete(&words, PATIENCE);
            let said = said.map_or_else(|error| error.to_string(), |told| told.stdout + &told.stderr);
            format!("-- machine: {line}\n{said}")
        });
        told.join("\n")
    }
}

/// A shell script (in which BusyBox would take its own `ip`, which knows less) of what Calico's agents set up: tunnel devices with their addresses, a way to each of the other node's blocks, nothing for
/// addresses of its own that nobody has, and the pod behind a veth whose other end has Calico's address.
fn script() -> String {
    let mac = |macs: &[(char, &'static str); 2], node| macs.iter().find(|(of, _)| *of == node).unwrap().1;
    let own = |place| address(place, 'b');
    let tunnel = |place, node| tunnel_address(place, node);
    let (ipip, vxlan, v6) = (Place::Ipip, Place::Vxlan, Place::VxlanV6);
    format!(
        "ip() {{ /bin/ip \"$@\"; }}
sysctl -w net.ipv4.ip_forward=1
sysctl -w net.ipv6.conf.all.forwarding=1
sysctl -w net.ipv4.conf.all.rp_filter=0
sysctl -w net.ipv4.conf.default.rp_filter=0
ip link set eth0 up
ethtool -K eth0 tx off gso off tso off gro off || true
ip link set eth0 down
ip link set eth0 up
ip address add {u4}/24 dev eth0
ip -6 address add {u6}/64 dev eth0 nodad
ip link set tunl0 mtu 1480 up
ip address add {t4}/32 dev tunl0
ip route add blackhole {b4}
ip route add {p4} via {n4} dev tunl0 onlink
ip link add vxlan.calico address {m4} type vxlan id 4096 dstport 4789 local {u4} dev eth0 nolearning
ip address add {tv}/32 dev vxlan.calico
ip link set vxlan.calico mtu 1450 up
ip route add blackhole {bv}
ip neigh add {nv} lladdr {pm4} dev vxlan.calico nud permanent
ip route add {pv} via {nv} dev vxlan.calico onlink
bridge fdb append {pm4} dst {n4} dev vxlan.calico
ip link add vxlan-v6.calico address {m6} type vxlan id 4096 dstport 4789 local {u6} dev eth0 nolearning
ip -6 address add {t6}/128 dev vxlan-v6.calico nodad
ip link set vxlan-v6.calico mtu 1430 up
ip -6 route add blackhole {b6}
ip -6 neigh add {n6t} lladdr {pm6} dev vxlan-v6.calico nud permanent
ip -6 route add {p6} via {n6t} dev vxlan-v6.calico onlink
bridge fdb append {pm6} dst {n6} dev vxlan-v6.calico
ip netns add pod
ip link add cali0 address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns pod
ip link set cali0 up
ip -n pod link set lo up
ip -n pod link set eth0 up
ip -n pod address add {a4}/32 dev eth0
ip -n pod address add {av}/32 dev eth0
ip -n pod -6 address add {a6}/128 dev eth0 nodad
ip -n pod neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
ip -n pod route add 169.254.1.1 dev eth0 scope link
ip -n pod route add {p4} via 169.254.1.1 dev eth0 src {a4}
ip -n pod route add {pv} via 169.254.1.1 dev eth0 src {av}
ip -n pod -6 neigh add fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
ip -n pod -6 route add default via fe80::1 dev eth0
pod=$(ip netns exec pod cat /sys/class/net/eth0/address)
for a in {a4} {av}; do
    ip route add $a dev cali0 scope link
    ip neigh add $a lladdr $pod dev cali0 nud permanent
done
ip -6 route add {a6} dev cali0
ip -6 neigh add {a6} lladdr $pod dev cali0 nud permanent
",
        u4 = underlay(ipip, 'b'),
        u6 = underlay_v6('b'),
        n4 = underlay(ipip, 'a'),
        n6 = underlay_v6('a'),
        t4 = tunnel(ipip, 'b'),
        tv = tunnel(vxlan, 'b'),
        t6 = tunnel(v6, 'b'),
        nv = tunnel(vxlan, 'a'),
        n6t = tunnel(v6, 'a'),
        b4 = block(ipip, 'b'),
        bv = block(vxlan, 'b'),
        b6 = block(v6, 'b'),
        p4 = block(ipip, 'a'),
        pv = block(vxlan, 'a'),
        p6 = block(v6, 'a'),
        m4 = mac(&MACS, 'b'),
        m6 = mac(&MACS_V6, 'b'),
        pm4 = mac(&MACS, 'a'),
        pm6 = mac(&MACS_V6, 'a'),
        a4 = own(ipip),
        av = own(vxlan),
        a6 = own(v6),
    )
}
