//! What the switch says itself: ARP answers, echo replies, and ICMP errors with a limit.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use millrace_tools::lab::plan::{Mac, UPLINK};
use millrace_tools::lab::traffic::{Ping, ping};
use millrace_tools::lab::{Lab, MillraceOptions, Namespace, POD_INTERFACE, TUNNEL, Topology};

use crate::counters::{Counters, growth};
use crate::frames::{
    ARP, ETHERNET, Ear, IPV4, arp, ethernet, mac_of, mac_of_neighbour, parse_mac, send, udp_packet,
};
use crate::pulse::transfer;
use crate::rig::{
    PAIR, PATIENCE, address, assert_reaches, await_that, daemon, finish, guest, lab, node, pair, pod,
    port_of, row, side_by_side, underlay,
};

/// What `ping` says of one request with the given words.
fn said(from: &Namespace, words: &[&str]) -> String {
    let line = [&["-n", "-c", "1", "-W", "2"], words].concat();
    from.complete("ping", &line, PATIENCE).unwrap().stdout
}

#[test]
fn errors_come_from_the_gateway_and_say_what_is_right() {
    let _turn = side_by_side();
    let mut lab = pair("errors", 2);
    let (client, client_address) = guest(&lab, "client", 100);
    let gateway = lab.node("node-a").unwrap().plan().gateway().to_string();
    let (near, far) = (
        address(&lab, "pod-a2").to_string(),
        address(&lab, "pod-b1").to_string(),
    );
    let from = pod(&lab, "pod-a1");
    assert_reaches(from, address(&lab, "pod-b1"));

    // (who asks, ping's words, who answers, what with)
    let nobody = "10.244.1.77";
    let local = address(&lab, "pod-a1").to_string();
    let rows: [(&Namespace, &[&str], &str, &str); 7] = [
        (from, &["-t", "1", &near], &gateway, "Time to live exceeded"),
        (from, &["-t", "1", &far], &gateway, "Time to live exceeded"),
        (from, &["-t", "2", &far], "10.244.2.", "Time to live exceeded"),
        (
            pod(&lab, "pod-b1"),
            &["-t", "2", &local],
            &gateway,
            "Time to live exceeded",
        ),
        (from, &[nobody], &gateway, "Destination Host Unreachable"),
        (
            pod(&lab, "pod-b1"),
            &[nobody],
            &gateway,
            "Destination Host Unreachable",
        ),
        (from, &["198.51.100.7"], &gateway, "Destination Net Unreachable"),
    ];
    for (from, words, who, what) in rows {
        let said = said(from, words);
        let expected = said
            .lines()
            .any(|line| line.starts_with(&format!("From {who}")) && line.contains(what));
        assert!(expected, "{words:?} from {}: {said}", from.name());
    }
    // A hop is counted once on each node, so three are enough to get there and two to a pod beside.
    for (words, answered) in [(["-t", "3", &far], true), (["-t", "2", &near], true)] {
        assert_eq!(said(from, &words).contains("1 received"), answered, "{words:?}");
    }
    // Nobody on the wire at that address: told once the kernel has given up asking.
    let silent = said(from, &["-W", "8", "192.0.2.77"]);
    assert!(silent.contains("Destination Host Unreachable"), "{silent}");

    too_big(&mut lab);

    // The first packet to a neighbour that nobody has asked for yet waits and is not lost.
    let from = pod(&lab, "pod-a1");
    let via = underlay(&lab, "node-a").to_string();
    client
        .ip(&["route", "add", "10.244.1.0/24", "via", &via])
        .unwrap();
    let _ = node(&lab, "node-a").ip(&["neighbour", "flush", "to", &client_address.to_string()]);
    let before = Counters::settled(daemon(&lab, "node-a"));
    assert_reaches(from, client_address);
    let after = Counters::settled(daemon(&lab, "node-a"));
    assert!(
        growth(&before.punted(), &after.punted()).contains_key("neighbour_unresolved"),
        "{after:?}"
    );
    assert!(
        growth(&before.slow_path(), &after.slow_path()).contains_key("released"),
        "{after:?}"
    );
    drop(client);
    finish(lab);
}

/// A pod whose interface takes more than the tunnel does is told what fits, and goes on with that.
fn too_big(lab: &mut Lab) {
    let daemon = daemon(lab, "node-a");
    let interface = port_of(daemon, "lab/pod-a1").unwrap()["interface"]
        .as_str()
        .unwrap()
        .to_owned();
    node(lab, "node-a")
        .ip(&["link", "set", &interface, "mtu", "1500"])
        .unwrap();
    let from = pod(lab, "pod-a1");
    from.ip(&["link", "set", POD_INTERFACE, "mtu", "1500"]).unwrap();
    from.ip(&["route", "flush", "cache"]).unwrap();
    let to = address(lab, "pod-b1");
    let gateway = lab.node("node-a").unwrap().plan().gateway();
    let once = |mtu| Ping {
        count: 1,
        ..Ping::full_size(mtu)
    };
    for mtu in [1451, 1500] {
        // The kernel remembers what it was told.
        from.ip(&["route", "flush", "cache"]).unwrap();
        let report = ping(from, to.into(), &once(mtu)).unwrap();
        let told = report.complaints.iter().any(|said| {
            said.starts_with(&format!("From {gateway} "))
                && said.contains("Frag needed")
                && said.contains("mtu = 1450")
        });
        assert!(told && report.received == 0, "{mtu}: {report:?}");
    }
    from.ip(&["route", "flush", "cache"]).unwrap();
    assert_eq!(ping(from, to.into(), &once(1450)).unwrap().received, 1);
    // Unfragmented at the source, too large for the way, and not marked: the switch makes no fragments, and tells.
    let report = ping(
        from,
        to.into(),
        &Ping {
            dont_fragment: false,
            ..once(1500)
        },
    )
    .unwrap();
    assert!(
        report.complaints.iter().any(|said| said.contains("mtu = 1450")),
        "{report:?}"
    );
    // TCP that starts with what its interface takes finds the way nevertheless.
    from.ip(&["route", "flush", "cache"]).unwrap();
    transfer(from, pod(lab, "pod-b1"), SocketAddrV4::new(to, 5201), 1 << 20);
    from.ip(&["link", "set", POD_INTERFACE, "mtu", "1450"]).unwrap();
}

#[test]
fn an_uplink_that_takes_less_than_before_is_heeded() {
    let _turn = side_by_side();
    let lab = pair("narrow", 2);
    let (from, to) = (pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    let at = |port| SocketAddrV4::new(to, port);
    transfer(from, pod(&lab, "pod-b1"), at(5201), 1 << 20);
    node(&lab, "node-a")
        .ip(&["link", "set", UPLINK, "mtu", "1400"])
        .unwrap();
    await_that("the smaller MTU shown", || {
        row(daemon(&lab, "node-a"), "peers", "node", "node-b").is_some_and(|peer| peer["mtu"] == 1350)
    });
    // The other end of the tunnel is told by its administrator; nothing on the way could.
    node(&lab, "node-b")
        .ip(&["link", "set", TUNNEL, "mtu", "1350"])
        .unwrap();
    // Packets that were good before are told so, and TCP, the host's too, goes on with what fits.
    let report = ping(
        from,
        to.into(),
        &Ping {
            count: 1,
            ..Ping::full_size(1450)
        },
    )
    .unwrap();
    assert!(
        report.complaints.iter().any(|said| said.contains("mtu = 1350")),
        "{report:?}"
    );
    let once = Ping {
        count: 1,
        ..Ping::full_size(1350)
    };
    assert_eq!(ping(pod(&lab, "pod-a2"), to.into(), &once).unwrap().received, 1);
    transfer(from, pod(&lab, "pod-b1"), at(5202), 1 << 20);
    transfer(node(&lab, "node-a"), pod(&lab, "pod-b1"), at(5203), 1 << 20);
    // A pod beside is as far as ever.
    let near = ping(from, address(&lab, "pod-a2").into(), &Ping::full_size(1450)).unwrap();
    assert_eq!(near.received, near.sent, "{near:?}");
    finish(lab);
}

#[test]
fn the_gateway_answers_arp_and_echo() {
    let _turn = side_by_side();
    let lab = pair("gateway", 2);
    let plan = lab.node("node-a").unwrap().plan();
    let (from, own) = (pod(&lab, "pod-a1"), address(&lab, "pod-a1"));
    let gateway = mac_of_neighbour(from, plan.gateway());
    let me = mac_of(from, POD_INTERFACE);
    let port = port_of(daemon(&lab, "node-a"), "lab/pod-a1").unwrap();
    assert_eq!(parse_mac(port["mac"].as_str().unwrap()), gateway);

    // (who is asked for, who asks, whether the switch answers)
    let (broadcast, unknown) = (Mac([0xff; 6]), Mac([0; 6]));
    let rows = [
        ("the gateway", own, plan.gateway(), true),
        ("a pod beside", own, address(&lab, "pod-a2"), true),
        ("a pod elsewhere", own, address(&lab, "pod-b1"), true),
        ("anyone", own, Ipv4Addr::new(198, 51, 100, 7), true),
        (
            "a probe for another's",
            Ipv4Addr::UNSPECIFIED,
            address(&lab, "pod-a2"),
            true,
        ),
        ("a probe for its own", Ipv4Addr::UNSPECIFIED, own, false),
        ("its own announcement", own, own, false),
        ("loopback", own, Ipv4Addr::LOCALHOST, false),
    ];
    for (name, sender, target, answered) in rows {
        let mut ear = Ear::incoming(from, POD_INTERFACE, "arp[6:2] = 2");
        send(
            from,
            POD_INTERFACE,
            &[ethernet(
                broadcast,
                me,
                ARP,
                &arp(1, (me, sender), (unknown, target)),
            )],
        );
        let heard = if answered { ear.hear(1) } else { ear.rest() };
        let expected = arp(2, (gateway, target), (me, sender));
        for reply in &heard {
            assert_eq!(reply[..ETHERNET], ethernet(me, gateway, ARP, &[]), "{name}");
            assert_eq!(reply[ETHERNET..ETHERNET + expected.len()], expected, "{name}");
        }
        assert_eq!(heard.len(), usize::from(answered), "{name}");
    }
    for size in [0, 1, 1422] {
        let report = ping(
            from,
            plan.gateway().into(),
            &Ping {
                payload: size,
                ..Ping::default()
            },
        )
        .unwrap();
        assert!(
            report.received == report.sent && report.complaints.is_empty(),
            "{size}: {report:?}"
        );
    }
    // The host has its gateway too, and so has a peer's pod.
    assert_reaches(node(&lab, "node-a"), plan.gateway());
    assert_reaches(pod(&lab, "pod-b1"), plan.gateway());
    // Nothing listens there, and it says so.
    let socket = from.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.connect((plan.gateway(), 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.send(b"anyone?").unwrap();
    assert_eq!(
        socket.recv(&mut [0; 16]).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    finish(lab);
}

#[test]
fn icmp_errors_are_limited() {
    let _turn = side_by_side();
    let per_second = 10;
    let lab = lab(
        "limit",
        &Topology {
            pods_per_node: 2,
            millrace: MillraceOptions {
                extra: format!("\n[slow-path]\nicmp-errors-per-second = {per_second}\n"),
                ..MillraceOptions::default()
            },
            ..Topology::of(&PAIR)
        },
    );
    let (from, own) = (pod(&lab, "pod-a1"), address(&lab, "pod-a1"));
    let gateway = mac_of_neighbour(from, lab.node("node-a").unwrap().plan().gateway());
    let me = mac_of(from, POD_INTERFACE);
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 77), 9);
    let frame = ethernet(
        gateway,
        me,
        IPV4,
        &udp_packet(SocketAddrV4::new(own, 5000), to, &[0; 9]),
    );
    let mut ear = Ear::incoming(from, POD_INTERFACE, "icmp[icmptype] = icmp-unreach");
    let before = Counters::settled(daemon(&lab, "node-a"));
    let many = 500;
    send(from, POD_INTERFACE, &vec![frame; many]);
    let told = ear.rest().len();
    let after = Counters::settled(daemon(&lab, "node-a"));
    let slow = growth(&before.slow_path(), &after.slow_path());
    // A burst for one sender, and no more (`BURST_PER_SOURCE`), give or take what the time in between adds.
    assert!((20..=50).contains(&told), "{told} errors for {many} packets");
    assert_eq!(slow["unreachable_sent"], told as u64);
    let punted = growth(&before.punted(), &after.punted())["unreachable"];
    assert!(punted > many as u64 / 2, "{punted}");
    assert_eq!(
        slow["unreachable_sent"] + slow["rate_limited"],
        punted,
        "{slow:?}"
    );
    // It costs the others nothing.
    assert_reaches(pod(&lab, "pod-a2"), address(&lab, "pod-b1"));
    assert_reaches(from, address(&lab, "pod-b1"));
    finish(lab);
}
