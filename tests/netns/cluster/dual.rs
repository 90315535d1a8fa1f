//! Both families: IPv6 pods over an IPv6 underlay, with the kernel's own tunnel devices as peer and as judge.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};

use etherparse::{IpNumber, Ipv6FlowLabel, Ipv6Header, TcpOptionElement, UdpHeader};
use millrace_tools::lab::plan::{Families, PREFIX_LENGTH_V6, PlanV6, UPLINK, VNI, VXLAN_PORT};
use millrace_tools::lab::traffic::{Ping, UdpEcho, UdpExchange, ping, udp_exchange};
use millrace_tools::lab::{Lab, MillraceOptions, Namespace, NodeKind, POD_BRIDGE, POD_INTERFACE, Topology};

use crate::frames::{
    BURST, ETHERNET, Ear, IPV6, echo_v6, ethernet, hex, ipv6, mac_of, mac_of_neighbour, send, tcp_v6, udp_v6,
    vxlan,
};
use crate::rig::{PAIR, PATIENCE, address, await_that, daemon, finish, lab, node, pod, row, side_by_side};

/// Bytes of outer Ethernet, IPv6, UDP and VXLAN header.
const TUNNEL: usize = 70;
/// The largest packet of a pod: what is left of the underlay's by a tunnel over IPv6.
const POD_MTU: u32 = 1430;
/// Where the outer UDP header stands.
const UDP: usize = ETHERNET + 40;
/// Fields of it that two senders choose each for themselves, or that depend on those: source port and checksum.
const MASKED: [std::ops::Range<usize>; 2] = [UDP..UDP + 2, UDP + 6..UDP + 8];

fn dual(name: &str, nodes: &[NodeKind], pods_per_node: usize) -> Lab {
    let topology = Topology {
        pods_per_node,
        families: Families::Dual,
        ..Topology::of(nodes)
    };
    lab(name, &topology)
}

fn address_v6(lab: &Lab, pod: &str) -> Ipv6Addr {
    lab.pod(pod).unwrap().address_v6().unwrap()
}

fn plan_v6(lab: &Lab, node: &str) -> PlanV6 {
    lab.node(node).unwrap().plan().v6().unwrap()
}

/// The node of a pod: `pod-a1` is on `node-a`.
fn home(pod: &str) -> String {
    format!("node-{}", &pod[4..5])
}

/// Every echo request is answered, of so many bytes each.
fn assert_answers(from: &Namespace, to: IpAddr, what: &Ping) {
    let patient = Ping {
        patience: PATIENCE,
        ..what.clone()
    };
    let report = ping(from, to, &patient).unwrap();
    assert!(
        report.sent == report.received && report.complaints.is_empty(),
        "{} -> {to}: {report:?}",
        from.name()
    );
}

/// Sends a megabyte over TCP and has it read back to the last byte.
fn transfer(from: &Namespace, to: &Namespace, at: SocketAddr) {
    transfer_through(from, at, to, at);
}

/// The same through `called`, which leads there.
fn transfer_through(from: &Namespace, called: SocketAddr, to: &Namespace, at: SocketAddr) {
    let listener = to.within(|| TcpListener::bind(at)).unwrap().unwrap();
    let bytes: Vec<u8> = (0..1 << 20_u32).map(|place: u32| (place % 251) as u8).collect();
    let server = std::thread::spawn(move || {
        let mut read = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut read).unwrap();
        read
    });
    let connect = || TcpStream::connect_timeout(&called, PATIENCE);
    let mut stream = from.within(connect).unwrap().unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&bytes).unwrap();
    drop(stream);
    assert!(
        server.join().unwrap() == bytes,
        "bytes were changed on the way to {at}"
    );
}

#[test]
fn pods_of_both_families_talk_to_a_kernels() {
    let _turn = side_by_side();
    let lab = dual("dual", &PAIR, 2);
    let told = row(daemon(&lab, "node-a"), "routes", "prefix", "fd00:2::/64").unwrap();
    assert_eq!(told["to"], "node-b", "{told}");
    let full = Ping {
        count: 3,
        ..Ping::full_size(POD_MTU)
    };
    for (from, to) in [("pod-a1", "pod-b1"), ("pod-b1", "pod-a1"), ("pod-a1", "pod-a2")] {
        let (here, there) = (pod(&lab, from), pod(&lab, to));
        let both = [IpAddr::from(address_v6(&lab, to)), address(&lab, to).into()];
        for (target, port) in both.into_iter().zip(5001..) {
            assert_answers(here, target, &Ping::default());
            // A header of IPv6 is longer, and `full_size` counts one of IPv4.
            let payload = full.payload - if target.is_ipv6() { 20 } else { 0 };
            assert_answers(
                here,
                target,
                &Ping {
                    payload,
                    ..full.clone()
                },
            );
            transfer(here, there, SocketAddr::new(target, port));
            let echo = UdpEcho::start(there, target).unwrap();
            let what = UdpExchange::up_to(POD_MTU - 20);
            let report = udp_exchange(here, echo.address(), &what).unwrap();
            assert!(report.is_whole(), "{from} -> {target}: {report:?}");
        }
    }
    // The nodes themselves, and their gateways.
    let b1 = address_v6(&lab, "pod-b1");
    assert_answers(node(&lab, "node-a"), b1.into(), &Ping::default());
    assert_answers(
        node(&lab, "node-b"),
        address_v6(&lab, "pod-a1").into(),
        &Ping::default(),
    );
    assert_answers(
        pod(&lab, "pod-a1"),
        plan_v6(&lab, "node-a").gateway().into(),
        &Ping::default(),
    );
    too_big(&lab, b1);
    neighbours(&lab);
    finish(lab);
}

/// A pod whose interface takes more than the tunnel is told what fits, and goes on with that; a TCP connection is told at
/// its beginning.
fn too_big(lab: &Lab, to: Ipv6Addr) {
    let from = pod(lab, "pod-a1");
    let interface = pod_port(lab, "pod-a1");
    node(lab, "node-a")
        .ip(&["link", "set", &interface, "mtu", "1500"])
        .unwrap();
    from.ip(&["link", "set", POD_INTERFACE, "mtu", "1500"]).unwrap();
    let once = |payload| Ping {
        count: 1,
        payload,
        ..Ping::full_size(1500)
    };
    let report = ping(from, to.into(), &once(1500 - 48)).unwrap();
    let gateway = plan_v6(lab, "node-a").gateway();
    let is_told = report
        .complaints
        .iter()
        .any(|said| said.contains(&gateway.to_string()) && said.contains("too big") && said.contains("1430"));
    assert!(is_told && report.received == 0, "{report:?}");
    // The kernel remembers what it was told, and sends fragments, which pass.
    let in_pieces = Ping {
        dont_fragment: false,
        ..once(1500 - 48)
    };
    assert_answers(from, to.into(), &in_pieces);
    from.ip(&["-6", "route", "flush", "cache"]).unwrap();
    let mut ear = Ear::incoming(
        pod(lab, "pod-b1"),
        POD_INTERFACE,
        "ip6 and tcp dst port 5301 and ip6[53] & 2 != 0",
    );
    transfer(from, pod(lab, "pod-b1"), SocketAddr::new(to.into(), 5301));
    let syn = ear.hear(1).remove(0);
    // The first option, as Linux sends it.
    assert_eq!(
        syn[74..78],
        [&[2, 4][..], &(POD_MTU as u16 - 60).to_be_bytes()].concat()
    );
    from.ip(&["link", "set", POD_INTERFACE, "mtu", "1430"]).unwrap();
}

/// The switch answers for everyone, and does not stand in the way of an address that is the pod's own.
fn neighbours(lab: &Lab) {
    let (from, own) = (pod(lab, "pod-a1"), address_v6(lab, "pod-a1"));
    let gateway = plan_v6(lab, "node-a").gateway().to_string();
    let answer = from.ip(&["-6", "neighbour", "show", &gateway]).unwrap();
    let switch = row(daemon(lab, "node-a"), "ports", "pod", "lab/pod-a1").unwrap();
    let mac = switch["mac"].as_str().unwrap();
    assert!(answer.contains(mac) && answer.contains("router"), "{answer}");
    let shown = |flag: &str| {
        from.ip(&["-6", "address", "show", "dev", POD_INTERFACE, flag])
            .unwrap()
    };
    await_that("a link-local address", || !shown("tentative").contains("inet6"));
    assert!(!shown("dadfailed").contains("inet6"), "{}", shown("dadfailed"));
    let again = format!("{own}/128");
    from.ip(&["address", "del", &again, "dev", POD_INTERFACE])
        .unwrap();
    from.ip(&["address", "add", &again, "dev", POD_INTERFACE])
        .unwrap();
    await_that("its own address again", || !shown("tentative").contains("inet6"));
    assert!(!shown("dadfailed").contains("inet6"));
    // Another's it does not get.
    let others = format!("{}/{PREFIX_LENGTH_V6}", address_v6(lab, "pod-a2"));
    from.ip(&["address", "add", &others, "dev", POD_INTERFACE])
        .unwrap();
    await_that("a duplicate address found", || {
        shown("dadfailed").contains(&others)
    });
    from.ip(&["address", "del", &others, "dev", POD_INTERFACE])
        .unwrap();
}

/// A Service of both families, led to one pod.
fn wide_service(endpoints: [IpAddr; 2]) -> String {
    let [v4, v6] = endpoints;
    let slice = |family: &str, address: IpAddr| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: wide-{}, namespace: default, labels: {{kubernetes.io/service-name: wide}}}}\n\
             addressType: {family}\nports: [{{name: tcp, protocol: TCP, port: 8080}}]\n\
             endpoints: [{{addresses: [\"{address}\"], nodeName: node-b}}]\n",
            family.to_lowercase()
        )
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: wide, namespace: default}}\nspec:\n  \
         ipFamilies: [IPv4, IPv6]\n  clusterIP: {:?}\n  clusterIPs: [{:?}, {:?}]\n  \
         ports: [{{name: tcp, protocol: TCP, port: 80, targetPort: 8080}}]\n{}{}",
        VIPS[0],
        VIPS[0],
        VIPS[1],
        slice("IPv4", v4),
        slice("IPv6", v6),
    )
}

const VIPS: [&str; 2] = ["10.96.0.80", "fd96::50"];

/// The kernel of a client is the judge of what it is told: without segments that are announced to fit, a connection to a
/// Service goes on only if each "too big" quotes what the client sent, which went to the Service's address.
#[test]
fn a_client_of_a_service_is_told_what_fits_on_the_way_to_its_endpoint() {
    let _turn = side_by_side();
    let lab = lab(
        "dual-path",
        &Topology {
            pods_per_node: 1,
            families: Families::Dual,
            millrace: MillraceOptions {
                extra: "clamp-mss = false\n\n[services]\ncidrs = [\"10.96.0.0/12\", \"fd96::/108\"]\n"
                    .to_owned(),
                ..MillraceOptions::default()
            },
            ..Topology::of(&PAIR)
        },
    );
    let endpoints = [
        IpAddr::from(address(&lab, "pod-b1")),
        address_v6(&lab, "pod-b1").into(),
    ];
    let daemon = daemon(&lab, "node-a");
    daemon
        .write_manifest("wide.yaml", &wide_service(endpoints))
        .unwrap();
    await_that("both endpoints", || {
        let row = row(daemon, "services", "service", "default/wide");
        let used = row.map_or(0, |row| row.to_string().matches("\"used\":true").count());
        assert!(used <= 2, "a Service of one endpoint in each family");
        used == 2
    });
    let (client, server) = (pod(&lab, "pod-a1"), pod(&lab, "pod-b1"));
    for (name, interface) in [
        ("node-a", pod_port(&lab, "pod-a1")),
        ("node-b", "v-pod-b1".to_owned()),
    ] {
        node(&lab, name)
            .ip(&["link", "set", &interface, "mtu", "1500"])
            .unwrap();
    }
    for pod in [client, server] {
        pod.ip(&["link", "set", POD_INTERFACE, "mtu", "1500"]).unwrap();
    }
    // First the tunnel is what is narrow, which the switch sees; then the bridge behind it, which node-b's kernel does.
    for (bridge, fits) in [(1430, [1450, 1430]), (1300, [1300; 2])] {
        node(&lab, "node-b")
            .ip(&["link", "set", POD_BRIDGE, "mtu", &bridge.to_string()])
            .unwrap();
        for (place, (vip, at)) in VIPS.iter().zip(endpoints).enumerate() {
            for family in ["-4", "-6"] {
                client.ip(&[family, "route", "flush", "cache"]).unwrap();
            }
            let mut ear = Ear::incoming(client, POD_INTERFACE, "icmp[0] = 3 or icmp6[0] = 2");
            let vip: IpAddr = vip.parse().unwrap();
            transfer_through(
                client,
                SocketAddr::new(vip, 80),
                server,
                SocketAddr::new(at, 8080),
            );
            let told: Vec<(u32, IpAddr)> = ear.rest().iter().map(|frame| told_by(frame)).collect();
            let what = format!("{vip} by way of a bridge of {bridge}: {told:?}");
            assert!(told.iter().all(|(_, quoted)| *quoted == vip), "{what}");
            assert!(told.iter().any(|(mtu, _)| *mtu == fits[place]), "{what}");
        }
    }
    finish(lab);
}

/// The interface of a pod's port.
fn pod_port(lab: &Lab, pod: &str) -> String {
    let port = row(daemon(lab, "node-a"), "ports", "pod", &format!("lab/{pod}")).unwrap();
    port["interface"].as_str().unwrap().to_owned()
}

/// What a "too big" says fits, and the destination of the packet that it quotes.
fn told_by(frame: &[u8]) -> (u32, IpAddr) {
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    if frame[12..14] == IPV6.to_be_bytes() {
        let message = ETHERNET + 40;
        let octets: [u8; 16] = frame[message + 32..message + 48].try_into().unwrap();
        (word(message + 4), octets.into())
    } else {
        let message = ETHERNET + 20;
        let octets: [u8; 4] = frame[message + 24..message + 28].try_into().unwrap();
        (word(message + 4) & 0xffff, octets.into())
    }
}

/// Packets of every shape that a tunnel carries; the flow label marks the row. The kernel spreads packets over
/// queues by it, so no two are of one connection: two workers would begin that at once.
fn packets(from: Ipv6Addr, to: Ipv6Addr) -> Vec<(&'static str, Vec<u8>)> {
    let ends = (from, to);
    let destination = SocketAddrV6::new(to, 5_001, 0, 0);
    let source = |port: u16| SocketAddrV6::new(from, port, 0, 0);
    let datagram = |port: u16, length: usize| udp_v6(source(port), destination, &vec![0xa5; length]);
    let segment = |source_port: u16, length: usize| {
        tcp_v6(source(source_port), destination, &vec![0x5a; length], |header| {
            header.ack = true
        })
    };
    let syn = tcp_v6(source(40_000), destination, &[], |header| {
        header.syn = true;
        let options = [TcpOptionElement::MaximumSegmentSize(1370), TcpOptionElement::Noop];
        header.set_options(&options).unwrap();
    });
    let options = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram(50_001, 9)].concat();
    let fragment = |offset: u16, more: u16, id: u8, bytes: &[u8]| {
        [
            &[17, 0][..],
            &(offset | more).to_be_bytes(),
            &[0, 0, 0, id],
            bytes,
        ]
        .concat()
    };
    let (first, later) = (
        fragment(0, 1, 1, &datagram(50_002, 1200)),
        fragment(1208, 0, 2, &[3; 64]),
    );
    let rows: Vec<(_, IpNumber, Vec<u8>, fn(&mut Ipv6Header))> = vec![
        ("ping", IpNumber::IPV6_ICMP, echo_v6(ends, 7, &[1; 56]), |_| {}),
        (
            "ping that fills the MTU",
            IpNumber::IPV6_ICMP,
            echo_v6(ends, 8, &[2; 1382]),
            |_| {},
        ),
        ("UDP without payload", IpNumber::UDP, datagram(50_003, 0), |_| {}),
        ("UDP of an odd length", IpNumber::UDP, datagram(50_004, 3), |_| {}),
        (
            "UDP that fills the MTU",
            IpNumber::UDP,
            datagram(50_005, 1382),
            |_| {},
        ),
        ("TCP SYN with options", IpNumber::TCP, syn, |_| {}),
        (
            "TCP segment that fills the MTU",
            IpNumber::TCP,
            segment(40_001, 1370),
            |_| {},
        ),
        ("expedited forwarding", IpNumber::UDP, datagram(50_006, 9), |ip| {
            ip.traffic_class = 46 << 2
        }),
        ("ECT(0)", IpNumber::TCP, segment(40_002, 9), |ip| {
            ip.traffic_class = 2
        }),
        ("ECT(1)", IpNumber::TCP, segment(40_003, 9), |ip| {
            ip.traffic_class = 1
        }),
        (
            "destination options",
            IpNumber::IPV6_DESTINATION_OPTIONS,
            options,
            |_| {},
        ),
        (
            "first fragment",
            IpNumber::IPV6_FRAGMENTATION_HEADER,
            first,
            |_| {},
        ),
        (
            "later fragment",
            IpNumber::IPV6_FRAGMENTATION_HEADER,
            later,
            |_| {},
        ),
        ("last hop but two", IpNumber::UDP, datagram(50_007, 9), |ip| {
            ip.hop_limit = 3
        }),
        ("largest hop limit", IpNumber::UDP, datagram(50_008, 9), |ip| {
            ip.hop_limit = 255
        }),
        ("another protocol", IpNumber(132), vec![7; 33], |_| {}),
    ];
    let packet = |(id, (name, next, payload, edit)): (u32, (_, _, Vec<u8>, fn(&mut _)))| {
        let packet = ipv6(next, ends, &payload, |ip| {
            ip.flow_label = Ipv6FlowLabel::try_new(id).unwrap();
            edit(ip);
        });
        (name, packet)
    };
    (1..).zip(rows).map(packet).collect()
}

/// The flow label of an IPv6 packet.
fn id_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

/// Sends packets from one pod to the other; returns, by the flow label, what its node sent on the underlay and what the
/// other pod got.
fn carry(lab: &Lab, (from, to): (&str, &str), packets: &[Vec<u8>]) -> [BTreeMap<u16, Vec<u8>>; 2] {
    let here = pod(lab, from);
    assert_answers(here, address_v6(lab, to).into(), &Ping::default());
    let plan = lab.node(&home(from)).unwrap().plan();
    let macs = (
        mac_of_neighbour(here, plan.gateway()),
        mac_of(here, POD_INTERFACE),
    );
    let frames: Vec<Vec<u8>> = packets
        .iter()
        .map(|packet| ethernet(macs.0, macs.1, IPV6, packet))
        .collect();
    let own = plan_v6(lab, &home(from)).underlay_address();
    let tunnelled = format!("ip6 and udp dst port {VXLAN_PORT} and src host {own}");
    let mut rack = Ear::incoming(lab.switch().namespace(), &home(from), &tunnelled);
    let arriving = format!("ip6 src host {}", address_v6(lab, from));
    let mut end = Ear::incoming(pod(lab, to), POD_INTERFACE, &arriving);
    let (mut sent, mut got) = (BTreeMap::new(), BTreeMap::new());
    for few in frames.chunks(BURST) {
        send(here, POD_INTERFACE, few);
        sent.extend(
            rack.hear(few.len())
                .into_iter()
                .map(|f| (id_of(&f[TUNNEL + ETHERNET..]), f)),
        );
        got.extend(
            end.hear(few.len())
                .into_iter()
                .map(|f| (id_of(&f[ETHERNET..]), f)),
        );
    }
    [sent, got]
}

/// An outer frame with what two senders may choose put out of sight.
fn masked(frame: &[u8]) -> String {
    let mut frame = frame.to_vec();
    MASKED.into_iter().for_each(|range| frame[range].fill(0));
    hex(&frame)
}

/// Whether the checksum of the outer datagram is right, by a stranger's reckoning.
fn has_good_checksum(frame: &[u8]) -> bool {
    let (ip, rest) = Ipv6Header::from_slice(&frame[ETHERNET..]).unwrap();
    let (udp, payload) = UdpHeader::from_slice(rest).unwrap();
    udp.checksum != 0 && udp.calc_checksum_ipv6(&ip, payload).unwrap() == udp.checksum
}

#[test]
fn millrace_sends_and_delivers_over_ipv6_what_the_kernel_does() {
    let _turn = side_by_side();
    let mixed = dual("dual-wire", &PAIR, 1);
    let stock = dual("dual-stock", &[NodeKind::Stock, NodeKind::Stock], 1);
    for way in [("pod-a1", "pod-b1"), ("pod-b1", "pod-a1")] {
        let rows = packets(address_v6(&mixed, way.0), address_v6(&mixed, way.1));
        let bare: Vec<Vec<u8>> = rows.iter().map(|(_, packet)| packet.clone()).collect();
        let [sent, got] = carry(&mixed, way, &bare);
        let [expected_sent, expected_got] = carry(&stock, way, &bare);
        for (name, packet) in &rows {
            let id = id_of(packet);
            let (ours, kernels) = (masked(&sent[&id]), masked(&expected_sent[&id]));
            assert!(
                ours == kernels,
                "{way:?}: {name}\nours\n{ours}kernel's\n{kernels}"
            );
            assert!(has_good_checksum(&sent[&id]), "{way:?}: {name}");
            assert_eq!(
                hex(&got[&id][ETHERNET..]),
                hex(&expected_got[&id][ETHERNET..]),
                "{name}, as {} got it",
                way.1
            );
        }
    }
    assert_eq!(
        congestion(&mixed),
        congestion(&stock),
        "rows: inner ECN, columns: outer ECN, 9: dropped; the last row without an outer checksum"
    );
    finish(mixed);
    finish(stock);
}

/// The ECN field that pod-a1 gets for every inner and outer one that node-b sends; 9 where it gets nothing. The last row is
/// that of inner 0 without a checksum.
fn congestion(lab: &Lab) -> [[u8; 4]; 5] {
    let (here, there) = (plan_v6(lab, "node-b"), plan_v6(lab, "node-a"));
    let plans = [
        lab.node("node-a").unwrap().plan(),
        lab.node("node-b").unwrap().plan(),
    ];
    let (from, to) = (address_v6(lab, "pod-b1"), address_v6(lab, "pod-a1"));
    let mut frames = Vec::new();
    for (row, outer) in (0..5).flat_map(|row| (0..4).map(move |outer| (row, outer))) {
        let ends = [
            SocketAddrV6::new(from, 40_000, 0, 0),
            SocketAddrV6::new(to, 9, 0, 0),
        ];
        let payload = udp_v6(ends[0], ends[1], &[row * 4 + outer]);
        let packet = ipv6(IpNumber::UDP, (from, to), &payload, |ip| {
            ip.traffic_class = row % 4
        });
        let tunnelled = vxlan(VNI, &ethernet(there.vtep_mac(), here.vtep_mac(), IPV6, &packet));
        let ends = [here, there].map(|plan| SocketAddrV6::new(plan.underlay_address(), VXLAN_PORT, 0, 0));
        let mut datagram = udp_v6(ends[0], ends[1], &tunnelled);
        if row == 4 {
            datagram[6..8].fill(0);
        }
        let packet = ipv6(IpNumber::UDP, (*ends[0].ip(), *ends[1].ip()), &datagram, |ip| {
            ip.traffic_class = outer;
        });
        frames.push(ethernet(
            plans[0].uplink_mac(),
            plans[1].uplink_mac(),
            IPV6,
            &packet,
        ));
    }
    let mut ear = Ear::incoming(pod(lab, "pod-a1"), POD_INTERFACE, "ip6 and udp dst port 9");
    send(node(lab, "node-b"), UPLINK, &frames);
    let mut seen = [[9; 4]; 5];
    for frame in ear.rest() {
        let row = usize::from(frame[ETHERNET + 48]);
        seen[row / 4][row % 4] = frame[ETHERNET + 1] >> 4 & 3;
    }
    seen
}
