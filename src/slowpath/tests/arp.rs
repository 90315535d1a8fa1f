//! ARP requests and what the switch says to them.

use super::*;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// An ARP packet as bytes, padded as on a wire.
fn arp(link: (MacAddr, MacAddr), operation: u8, sender: (MacAddr, &str), target: (MacAddr, &str)) -> Vec<u8> {
    let mut frame = [&link.0.0[..], &link.1.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    for (mac, address) in [sender, target] {
        frame.extend(mac.0);
        frame.extend(v4(address).octets());
    }
    frame.resize(60, 0);
    frame
}

fn request(port: PortId, sender: &str, target: &str) -> Punt {
    let link = (MacAddr::BROADCAST, peer_mac(port));
    let frame = arp(link, REQUEST, (peer_mac(port), sender), (MacAddr::ZERO, target));
    punt(port, PuntReason::Arp, PuntDetail::Nothing, &frame)
}

fn replied(name: &'static str, port: PortId, sender: &str, target: &str) -> Row {
    let link = (peer_mac(port), switch_mac(port));
    let reply = arp(link, REPLY, (switch_mac(port), target), (peer_mac(port), sender));
    let expected = Some((Way::Exit(port), reply));
    Row {
        name,
        punt: request(port, sender, target),
        expected,
        counter: "arp_replies",
    }
}

fn ignored(name: &'static str, port: PortId, sender: &str, target: &str) -> Row {
    silent(name, request(port, sender, target), "arp_ignored")
}

#[test]
fn every_address_but_the_askers_own_is_answered_for() {
    let rows = [
        replied("its gateway", POD_A, A, GATEWAY),
        replied("another pod", POD_A, A, B),
        replied("a link-local gateway", POD_A, A, "169.254.1.1"),
        replied("anyone at all", POD_A, A, LOST),
        replied("the node", POD_A, A, NODE),
        replied("a probe for another's address", POD_A, "0.0.0.0", B),
        ignored("its own address", POD_A, B, A),
        ignored("a probe for its own address", POD_A, "0.0.0.0", A),
        ignored("an announcement of its own address", POD_A, A, A),
        ignored("an announcement of another's address", POD_A, B, B),
        replied("the host asks for a pod", HOST, "10.244.1.0", A),
        replied("the host asks for the gateway", HOST, NODE, GATEWAY),
        replied("the host probes for the gateway", HOST, "0.0.0.0", GATEWAY),
        ignored("the host asks for itself", HOST, "10.244.1.0", NODE),
        ignored(
            "the host probes for an address it may be about to get",
            HOST,
            "0.0.0.0",
            "192.0.2.50",
        ),
        ignored(
            "the host announces an address that is not in the tables yet",
            HOST,
            "192.0.2.50",
            "192.0.2.50",
        ),
        ignored("a neighbour asks for the node", UPLINK, NEIGHBOUR, NODE),
        ignored("a neighbour asks for a pod", UPLINK, NEIGHBOUR, A),
        ignored("for nobody", POD_A, A, "0.0.0.0"),
        ignored("for this network", POD_A, A, "0.1.2.3"),
        ignored("for loopback", POD_A, A, "127.0.0.1"),
        ignored("for a group", POD_A, A, "224.0.0.1"),
        ignored("for everyone", POD_A, A, "255.255.255.255"),
        silent("a port that has left", request(GONE, A, B), "port_gone"),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn what_asks_nothing_gets_no_answer() {
    let (own, ours) = (peer_mac(POD_A), switch_mac(POD_A));
    let row = |name, frame: &[u8], counter| {
        silent(
            name,
            punt(POD_A, PuntReason::Arp, PuntDetail::Nothing, frame),
            counter,
        )
    };
    let reply = arp((ours, own), REPLY, (own, A), (ours, GATEWAY));
    let reverse = arp((ours, own), 3, (own, A), (ours, GATEWAY));
    let to_group = arp((ours, own), REQUEST, (MacAddr([1; 6]), A), (MacAddr::ZERO, B));
    let to_nobody = arp((ours, own), REQUEST, (MacAddr::ZERO, A), (MacAddr::ZERO, B));
    let good = arp((ours, own), REQUEST, (own, A), (MacAddr::ZERO, B));
    let mut for_v6 = good.clone();
    for_v6[19] = 16;
    let mut not_arp = good.clone();
    not_arp[13] = 0;
    check(
        [
            row("a reply", &reply, "arp_ignored"),
            row("an unknown operation", &reverse, "arp_ignored"),
            row("the answer would go to a group", &to_group, "arp_ignored"),
            row("the answer would go to nobody", &to_nobody, "arp_ignored"),
            row("another protocol's addresses", &for_v6, "malformed"),
            row("another EtherType", &not_arp, "malformed"),
            row("cut short by a byte", &good[..41], "malformed"),
            row("nothing at all", &[], "malformed"),
        ],
        &tables(&[]),
    );
    let (sent, _) = handle_one(
        "without padding",
        &punt(POD_A, PuntReason::Arp, PuntDetail::Nothing, &good[..42]),
        &tables(&[]),
    );
    assert_eq!(
        sent.map(|(_, reply)| reply.len()),
        Some(60),
        "the answer is padded all the same"
    );
}
