use super::*;

fn is_found_both_ways_with_what_is_written_into_it<A: Numbered>() {
    let table = table(16);
    let shard = A::shard(&table);
    let new = balanced::<A>(5);
    assert!(shard.lookup(&new.original).is_none());
    let claimed = shard.claim(&new, at(3)).unwrap();
    assert!(!claimed.evicted);
    assert_eq!(
        (claimed.original.direction(), claimed.reply.direction()),
        (Direction::Original, Direction::Reply)
    );
    let (there, back) = (
        shard.lookup(&new.original).unwrap(),
        shard.lookup(&new.reply).unwrap(),
    );
    assert_eq!((there.id, back.id), (claimed.original, claimed.reply));
    assert_eq!((there.last_seen, back.last_seen), (at(3), Tick::NEVER));
    assert_eq!((there.answer, back.answer), (None, None));
    assert_eq!(
        there
            .rewrite
            .unwrap()
            .tuple(new.reply.protocol, new.reply.network),
        new.reply.reversed()
    );
    assert_eq!(
        back.rewrite.unwrap().tuple(new.reply.protocol, new.reply.network),
        new.original.reversed()
    );
    assert!(
        shard.lookup(&new.original.reversed()).is_none(),
        "a reply comes from the backend"
    );
    let other = tuple::<A>(IpProtocol::TCP, (5, 40_000), (1, 80));
    assert!(
        shard.lookup(&other).is_none(),
        "the protocol is part of the tuple"
    );
    let connection = shard.connection(back.id).unwrap();
    assert_eq!((connection.original, connection.reply), (new.original, new.reply));
    assert_eq!((connection.binding, connection.opener), (new.binding, None));
    assert_eq!(connection.created, at(3));
    assert_eq!(shard.len(), 1);
}

#[test]
fn a_connection_is_found_both_ways_with_what_is_written_into_it() {
    is_found_both_ways_with_what_is_written_into_it::<Ipv4Addr>();
    is_found_both_ways_with_what_is_written_into_it::<Ipv6Addr>();
}

#[test]
fn what_passes_as_it_is_is_not_rewritten() {
    let table = table(16);
    let new = plain::<Ipv4Addr>(udp((1, 2), (3, 4)));
    table.v4().claim(&new, at(1)).unwrap();
    assert!(table.v4().lookup(&new.original).unwrap().rewrite.is_none());
    assert!(table.v4().lookup(&new.reply).unwrap().rewrite.is_none());
}

#[test]
fn an_answer_is_stored_and_restamped_only_over_the_one_that_was_read() {
    let table = table(16);
    let shard = table.v4();
    let new = balanced(1);
    let claimed = shard.claim(&new, at(1)).unwrap();
    assert!(shard.store_answer(claimed.original, &answer(4)));
    let first = shard.lookup(&new.original).unwrap();
    assert_eq!(first.answer, Some(answer(4)));
    assert_eq!(
        shard.lookup(&new.reply).unwrap().answer,
        None,
        "each direction has its own"
    );
    assert!(!shard.store_answer(claimed.original, &answer(5)), "read before");
    shard.touch_in(&first, at(1), Epoch(6));
    assert_eq!(
        shard.lookup(&new.original).unwrap().answer,
        Some(answer(4)),
        "not due"
    );
    shard.touch_in(&first, at(2), Epoch(6));
    shard.touch_in(&first, at(3), Epoch(7));
    let second = shard.lookup(&new.original).unwrap();
    assert_eq!(
        second.answer,
        Some(answer(6)),
        "the other had read what was before"
    );
    assert_eq!(second.last_seen, at(2));
    assert!(shard.store_answer(
        second.id,
        &Answer {
            onward: Onward::Port(port(9)),
            ..answer(7)
        }
    ));
    let third = shard.lookup(&new.original).unwrap();
    assert_eq!(third.answer.unwrap().onward, Onward::Port(port(9)));
    assert!(third.rewrite.is_some(), "the binding outlives every answer");
    let stored = shard.connection(third.id).unwrap().answers;
    assert_eq!(stored, [third.answer, None]);
}

#[test]
fn a_touch_is_kept_per_direction_and_never_goes_back() {
    let table = table(16);
    let shard = table.v4();
    let new = balanced(1);
    shard.claim(&new, at(10)).unwrap();
    let flow = |tuple| shard.lookup(tuple).unwrap();
    shard.touch(&flow(&new.original), at(12));
    shard.touch(&flow(&new.original), at(11));
    assert_eq!(flow(&new.original).last_seen, at(12));
    assert_eq!(flow(&new.reply).last_seen, Tick::NEVER);
    let id = flow(&new.reply).id;
    assert_eq!(shard.connection(id).unwrap().state, ProtocolState::Unreplied);
    assert!(!shard.connection(id).unwrap().is_kept);
    shard.touch(&flow(&new.reply), at(13));
    let connection = shard.connection(id).unwrap();
    assert_eq!(
        (connection.original_seen, connection.reply_seen),
        (at(12), at(13))
    );
    assert_eq!(
        (connection.state, connection.is_kept),
        (ProtocolState::Replied, true)
    );
}

#[test]
fn a_removed_connection_is_gone_for_whoever_read_it_before() {
    let table = table(1);
    let shard = table.v4();
    let (new, next) = (balanced(1), balanced(2));
    shard.claim(&new, at(1)).unwrap();
    let (there, back) = (
        shard.lookup(&new.original).unwrap(),
        shard.lookup(&new.reply).unwrap(),
    );
    assert!(shard.remove(back.id));
    assert!(!shard.remove(there.id), "once");
    assert!(shard.lookup(&new.original).is_none() && shard.lookup(&new.reply).is_none());
    assert_eq!(shard.len(), 0);
    let claimed = shard.claim(&next, at(1)).unwrap();
    assert_eq!(
        claimed.original.record(),
        there.id.record(),
        "the record is used again"
    );
    assert!(!shard.store_answer(there.id, &answer(1)));
    shard.touch_in(&there, at(9), Epoch(1));
    assert!(!shard.remove(there.id));
    assert!(shard.connection(there.id).is_none());
    assert_eq!(shard.track_tcp(there.id, &SYN), TcpVerdict::Gone);
    assert_eq!(shard.lookup(&next.original).unwrap().id, claimed.original);
    assert_eq!(shard.lookup(&next.original).unwrap().answer, None);
}

#[test]
fn checksums_follow_by_the_stored_deltas() {
    use crate::wire::checksum::{Sum, addresses_v4};
    for (protocol, has_pseudo_header) in [
        (IpProtocol::UDP, true),
        (IpProtocol::TCP, true),
        (IpProtocol::ICMP, false),
    ] {
        let table = table(4);
        let original = tuple::<Ipv4Addr>(protocol, (0x01_0203, 40_001), (0xff_fffe, 80));
        let reply = tuple(protocol, (0x99_8877, 8080), (0x00_ff00, 65_535));
        let new = New {
            reply,
            ..plain(original)
        };
        table.v4().claim(&new, at(1)).unwrap();
        for (arriving, leaving) in [(original, reply.reversed()), (reply, original.reversed())] {
            let rewrite = table.v4().lookup(&arriving).unwrap().rewrite.unwrap();
            let addresses = |tuple: &Tuple<Ipv4Addr>| addresses_v4(tuple.source, tuple.destination);
            let ports = |sum: Sum, tuple: &Tuple<Ipv4Addr>| {
                sum.add_u16(tuple.ports.source)
                    .add_u16(tuple.ports.destination)
                    .add_u16(0x1234)
            };
            let header = |tuple| addresses(tuple).add_u16(0x4500).checksum();
            assert_eq!(rewrite.ip().apply(header(&arriving)), header(&leaving));
            let transport = |tuple| {
                let begin = if has_pseudo_header {
                    addresses(tuple)
                } else {
                    Sum::ZERO
                };
                ports(begin, tuple).checksum()
            };
            assert_eq!(
                rewrite.transport().apply(transport(&arriving)),
                transport(&leaving)
            );
        }
    }
}

/// Issue: at most 256 bytes a connection for IPv4 and 384 for IPv6, both directions and the index counted.
#[test]
fn a_connection_takes_no_more_memory_than_it_may() {
    for connections in [1 << 10, 100_000, 1 << 20] {
        let table = table(connections);
        let per = |bytes: usize| bytes as f64 / f64::from(connections);
        let (v4, v6) = (per(table.v4().memory()), per(table.v6().memory()));
        assert!(v4 <= 256.0, "{v4} bytes a connection of IPv4, of {connections}");
        assert!(v6 <= 384.0, "{v6} bytes a connection of IPv6, of {connections}");
    }
}
