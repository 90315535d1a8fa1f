use super::*;

#[test]
fn a_reply_tuple_is_one_connections() {
    let table = table(16);
    let shard = table.v4();
    let first = balanced(1);
    shard.claim(&first, at(1)).unwrap();
    let by_another_address = New {
        original: udp((1, 40_000), (2, 80)),
        ..first
    };
    assert_eq!(
        shard.claim(&by_another_address, at(1)),
        Err(ClaimError::ReplyTaken)
    );
    assert_eq!(shard.claim(&first, at(1)), Err(ClaimError::Raced));
    let to_another_backend = New {
        reply: udp((9_000_001, 8080), (1, 40_000)),
        ..first
    };
    assert_eq!(
        shard.claim(&to_another_backend, at(1)),
        Err(ClaimError::Raced),
        "its original is there"
    );
    assert!(
        shard.lookup(&to_another_backend.reply).is_none(),
        "nothing of it stays"
    );
    let with_another_port = New {
        reply: udp((9_000_000, 8080), (1, 40_001)),
        ..by_another_address
    };
    assert!(shard.claim(&with_another_port, at(1)).is_ok());
    assert_eq!(shard.len(), 2);
}

#[test]
fn a_connection_with_itself_and_a_segment_that_begins_none_are_refused() {
    let table = table(16);
    let itself = plain::<Ipv4Addr>(udp((1, 2), (1, 2)));
    assert_eq!(table.v4().claim(&itself, at(1)), Err(ClaimError::Loop));
    let tcp = |segment| New {
        segment,
        ..plain(tuple::<Ipv4Addr>(IpProtocol::TCP, (1, 2), (3, 4)))
    };
    let reset = TcpSegment {
        flags: TcpFlags::RST,
        ..SYN
    };
    for segment in [Some(reset), None] {
        assert_eq!(
            table.v4().claim(&tcp(segment), at(1)),
            Err(ClaimError::TcpInvalid)
        );
    }
    assert!(table.v4().is_empty());
}

#[test]
fn picking_up_in_the_middle_can_be_forbidden() {
    let ack = TcpSegment {
        flags: TcpFlags::ACK,
        ..SYN
    };
    let new = New {
        segment: Some(ack),
        ..plain(tuple::<Ipv4Addr>(IpProtocol::TCP, (1, 2), (3, 4)))
    };
    assert!(table(4).v4().claim(&new, at(1)).is_ok());
    let strict = table_with(4, |options| options.loose = false);
    assert_eq!(strict.v4().claim(&new, at(1)), Err(ClaimError::TcpInvalid));
}

/// A table takes as many connections as it says, however their hashes fall.
#[test]
fn there_is_room_for_every_connection() {
    const CONNECTIONS: u32 = 50_000;
    let table = table(CONNECTIONS);
    let shard = table.v4();
    let reply = |new: &New<Ipv4Addr>| shard.touch(&shard.lookup(&new.reply).unwrap(), at(2));
    for number in 0..CONNECTIONS {
        let claimed = shard.claim(&balanced(number), at(1)).unwrap();
        assert!(!claimed.evicted, "connection {number}");
        reply(&balanced(number));
    }
    assert_eq!(
        shard.claim(&balanced(CONNECTIONS), at(3)),
        Err(ClaimError::Full),
        "both sides of all speak"
    );
    for number in 0..CONNECTIONS {
        assert!(shard.lookup(&balanced(number).original).is_some(), "{number}");
        assert!(shard.lookup(&balanced(number).reply).is_some(), "{number}");
    }
    // Replaced again and again, so that many keys are in their second bucket.
    for number in 0..3 * CONNECTIONS {
        let old = shard.lookup(&balanced(number).original).unwrap();
        assert!(shard.remove(old.id));
        let claimed = shard.claim(&balanced(number + CONNECTIONS), at(4)).unwrap();
        assert!(!claimed.evicted, "connection {number}");
    }
    assert_eq!(shard.len(), CONNECTIONS);
}

#[test]
fn half_open_connections_go_first_the_older_before_the_younger() {
    const CONNECTIONS: u32 = 64;
    let table = table(CONNECTIONS);
    let shard = table.v4();
    for number in 0..CONNECTIONS {
        shard.claim(&balanced(number), at(100 + number)).unwrap();
        if number % 4 != 0 {
            let reply = shard.lookup(&balanced(number).reply).unwrap();
            shard.touch(&reply, at(200));
        }
    }
    let there = |number| shard.lookup(&balanced(number).original).is_some();
    // One of four is half-open: as many can come, each in the place of an old one.
    for number in 0..CONNECTIONS / 4 {
        let new = balanced::<Ipv4Addr>(1000 + number);
        let claimed = shard.claim(&new, at(300)).unwrap();
        assert!(claimed.evicted);
        shard.touch(&shard.lookup(&new.reply).unwrap(), at(300));
        assert_eq!(shard.len(), CONNECTIONS);
    }
    for number in 0..CONNECTIONS {
        assert_eq!(there(number), number % 4 != 0, "connection {number}");
    }
    assert_eq!(shard.claim(&balanced(5000), at(301)), Err(ClaimError::Full));
}

/// A flood of connections that nobody answers takes the place of its own.
#[test]
fn established_connections_live_through_a_flood() {
    const CONNECTIONS: u32 = 1000;
    let table = table(CONNECTIONS);
    let shard = table.v4();
    let established = |number| New {
        segment: Some(SYN),
        ..plain(tuple::<Ipv4Addr>(
            IpProtocol::TCP,
            (number, 1000),
            (9_000_000, 80),
        ))
    };
    for number in 0..CONNECTIONS / 2 {
        let new = established(number);
        let id = shard.claim(&new, at(1)).unwrap();
        let syn_ack = TcpSegment {
            sequence: 5000,
            acknowledgment: 1001,
            flags: TcpFlags::SYN.with(TcpFlags::ACK),
            ..SYN
        };
        let ack = TcpSegment {
            sequence: 1001,
            acknowledgment: 5001,
            flags: TcpFlags::ACK,
            ..SYN
        };
        assert_eq!(shard.track_tcp(id.reply, &syn_ack), TcpVerdict::Accept);
        assert_eq!(shard.track_tcp(id.original, &ack), TcpVerdict::Accept);
    }
    let mut full = 0;
    for number in 0..20 * CONNECTIONS {
        let syn = established(100_000 + number);
        // Much younger than those that are established.
        full += u32::from(shard.claim(&syn, at(1000 + number)).is_err());
    }
    assert_eq!(full, 0, "half of the table is there for the flood");
    for number in 0..CONNECTIONS / 2 {
        assert!(
            shard.lookup(&established(number).original).is_some(),
            "established connection {number}"
        );
    }
    assert_eq!(shard.len(), CONNECTIONS);
}

#[test]
fn a_pod_is_held_to_its_cap_over_both_families() {
    let table = table_with(64, |options| options.per_pod = 3);
    let by = |number: u32, opener: u16| New {
        opener: Some(port(opener)),
        ..balanced::<Ipv4Addr>(number)
    };
    let six = New {
        opener: Some(port(7)),
        ..balanced::<Ipv6Addr>(1)
    };
    let first = table.v4().claim(&by(1, 7), at(1)).unwrap();
    table.v6().claim(&six, at(1)).unwrap();
    table.v4().claim(&by(2, 7), at(1)).unwrap();
    assert_eq!(table.opened_by(port(7)), 3);
    assert_eq!(table.v4().claim(&by(3, 7), at(1)), Err(ClaimError::PodCap));
    assert!(
        table.v4().claim(&by(3, 8), at(1)).is_ok(),
        "another pod's is its own"
    );
    assert!(
        table.v4().claim(&balanced(4), at(1)).is_ok(),
        "who is no pod of this node is not counted"
    );
    assert_eq!(table.v4().claim(&by(1, 7), at(1)), Err(ClaimError::PodCap));
    assert!(table.v4().remove(first.original));
    assert_eq!(table.opened_by(port(7)), 2);
    assert_eq!(
        table.v4().claim(&by(2, 7), at(1)),
        Err(ClaimError::Raced),
        "and what fails is not charged"
    );
    assert_eq!(table.opened_by(port(7)), 2);
    table.forget_opener(port(7));
    assert_eq!(table.opened_by(port(7)), 0);
    let owner = |network, address| {
        let is_it = network == NetworkId::CLUSTER && address == IpAddr::from(Ipv6Addr::number(1));
        is_it.then(|| port(9))
    };
    table.assign_openers(owner);
    assert_eq!((table.opened_by(port(9)), table.opened_by(port(8))), (1, 1));
    assert_eq!(
        table.v4().remove_where(|c| c.opener.is_none()),
        2,
        "those that nobody is charged for"
    );
    assert_eq!(table.v4().len(), 1);
}

/// Two pods to one remote in a protocol without ports: the second can have it once the first is gone.
#[test]
fn what_a_pod_has_without_ports_ends_with_it() {
    let table = table(8);
    let by = |pod: u32, protocol, opener: u16| {
        let original = tuple::<Ipv4Addr>(protocol, (pod, 0), (9, 0));
        New {
            reply: Tuple {
                destination: Ipv4Addr::number(5),
                ..original.reversed()
            },
            opener: Some(port(opener)),
            ..plain(original)
        }
    };
    let claim = |new: New<Ipv4Addr>| table.v4().claim(&new, at(1)).map(|_| ());
    for protocol in [IpProtocol::GRE, IpProtocol::ICMP, IpProtocol::UDP] {
        claim(by(1, protocol, 7)).unwrap();
    }
    assert_eq!(claim(by(2, IpProtocol::GRE, 8)), Err(ClaimError::ReplyTaken));
    table.forget_opener(port(8));
    assert_eq!(claim(by(2, IpProtocol::GRE, 8)), Err(ClaimError::ReplyTaken));
    table.forget_opener(port(7));
    claim(by(2, IpProtocol::GRE, 8)).unwrap();
    for protocol in [IpProtocol::ICMP, IpProtocol::UDP] {
        assert_eq!(
            claim(by(2, protocol, 8)),
            Err(ClaimError::ReplyTaken),
            "{protocol}"
        );
    }
}

#[test]
fn capacities_that_make_no_sense_are_refused_by_name() {
    for connections in [0, FlowOptions::CONNECTIONS_MAX + 1] {
        let options = FlowOptions {
            ipv6: connections,
            ..options(1)
        };
        let error = FlowTable::in_memory(&options).unwrap_err().to_string();
        assert!(
            error.contains("IPv6") && error.contains(&connections.to_string()),
            "{error}"
        );
    }
}
