use super::*;

const TIMEOUTS: Timeouts = Timeouts {
    tcp_established_s: 1000,
    tcp_half_open_s: 60,
    tcp_half_closed_s: 500,
    tcp_closing_s: 50,
    tcp_time_wait_s: 120,
    tcp_reset_s: 10,
    udp_s: 30,
    udp_replied_s: 121,
    icmp_s: 29,
    sctp_s: 61,
    sctp_replied_s: 210,
    portless_s: 600,
};

/// Sweeps everything once.
fn sweep(table: &FlowTable, now: Tick) -> u32 {
    let mut cursor = table.v4().cursor(0, 1);
    let mut expired = 0;
    loop {
        let swept = table.v4().sweep(&mut cursor, 3, now, &TIMEOUTS);
        expired += swept.expired;
        if swept.is_round {
            return expired;
        }
    }
}

#[test]
fn each_protocol_has_its_time_and_a_reply_lengthens_it() {
    for (protocol, alone, replied) in [
        (IpProtocol::UDP, 30, 121),
        (IpProtocol::ICMP, 29, 29),
        (IpProtocol::SCTP, 61, 210),
        (IpProtocol::TCP, 60, 60),
        (IpProtocol::UDP_LITE, 30, 121),
        (IpProtocol::GRE, 600, 600),
    ] {
        for (is_replied, timeout) in [(false, alone), (true, replied)] {
            let table = table(8);
            let new = plain::<Ipv4Addr>(tuple(protocol, (1, 2), (3, 4)));
            table.v4().claim(&new, at(100)).unwrap();
            if is_replied {
                let reply = table.v4().lookup(&new.reply).unwrap();
                table.v4().touch(&reply, at(100));
            }
            assert_eq!(sweep(&table, at(100 + timeout)), 0, "{protocol}: too early");
            assert!(table.v4().lookup(&new.original).is_some());
            assert_eq!(sweep(&table, at(101 + timeout)), 1, "{protocol}: too late");
            assert!(table.v4().lookup(&new.original).is_none() && table.v4().is_empty());
        }
    }
}

#[test]
fn a_packet_of_either_direction_keeps_the_connection() {
    let table = table(8);
    let new = balanced::<Ipv4Addr>(1);
    table.v4().claim(&new, at(100)).unwrap();
    for (tuple, second) in [(new.original, 125), (new.reply, 150), (new.original, 250)] {
        assert_eq!(sweep(&table, at(second)), 0);
        table.v4().touch(&table.v4().lookup(&tuple).unwrap(), at(second));
    }
    assert_eq!(sweep(&table, at(371)), 0);
    assert_eq!(sweep(&table, at(372)), 1);
}

/// Of workers who share the expiry, each looks at its own records, and together they look at all.
#[test]
fn shares_cover_every_record_once_and_a_sweep_is_bounded() {
    const CONNECTIONS: u32 = 100;
    let table = table(2 * CONNECTIONS);
    for number in 0..CONNECTIONS {
        table.v4().claim(&balanced(number), at(1)).unwrap();
    }
    let mut left = CONNECTIONS;
    for worker in 0..3 {
        let mut cursor = table.v4().cursor(worker, 3);
        let first = table.v4().sweep(&mut cursor, 10, at(1000), &TIMEOUTS);
        assert_eq!(
            (first.expired, first.is_round),
            (10, false),
            "no more than its budget"
        );
        let rest = table.v4().sweep(&mut cursor, 1000, at(1000), &TIMEOUTS);
        assert!(rest.is_round);
        left -= first.expired + rest.expired;
    }
    assert_eq!((left, table.v4().len()), (0, 0));
}

#[test]
fn a_cut_tcp_connection_goes_soon_and_an_established_one_stays_long() {
    let table = table(8);
    let new = plain::<Ipv4Addr>(tuple(IpProtocol::TCP, (1, 2), (3, 4)));
    let id = table.v4().claim(&new, at(100)).unwrap();
    let segment = |sequence, acknowledgment, flags| TcpSegment {
        sequence,
        acknowledgment,
        flags,
        ..SYN
    };
    let syn_ack = segment(5000, 1001, TcpFlags::SYN.with(TcpFlags::ACK));
    assert_eq!(table.v4().track_tcp(id.reply, &syn_ack), TcpVerdict::Accept);
    let ack = segment(1001, 5001, TcpFlags::ACK);
    assert_eq!(table.v4().track_tcp(id.original, &ack), TcpVerdict::Accept);
    let state = || table.v4().connection(id.original).unwrap().state;
    assert_eq!(state(), ProtocolState::Tcp(TcpState::Established));
    assert_eq!(sweep(&table, at(1100)), 0);
    let blind = segment(99_000_000, 0, TcpFlags::RST);
    assert_eq!(table.v4().track_tcp(id.original, &blind), TcpVerdict::OutOfWindow);
    assert_eq!(state(), ProtocolState::Tcp(TcpState::Established));
    let reset = segment(1001, 0, TcpFlags::RST);
    assert_eq!(table.v4().track_tcp(id.original, &reset), TcpVerdict::Accept);
    assert_eq!(state(), ProtocolState::Tcp(TcpState::Reset));
    assert!(!table.v4().connection(id.original).unwrap().is_kept);
    assert_eq!(sweep(&table, at(1100)), 1);
}

#[test]
fn what_ends_with_a_backend_ends_at_once() {
    let table = table(64);
    for number in 0..20 {
        let backend = number % 2;
        let binding = Some(Binding { service: 1, backend });
        let new = New {
            binding,
            ..balanced::<Ipv4Addr>(number)
        };
        table.v4().claim(&new, at(1)).unwrap();
    }
    let gone = |c: &Connection<Ipv4Addr>| {
        c.original.protocol == IpProtocol::UDP && c.binding.is_some_and(|binding| binding.backend == 1)
    };
    assert_eq!(table.v4().remove_where(gone), 10);
    assert_eq!(table.v4().connections().filter(|c| gone(c)).count(), 0);
    assert_eq!(table.v4().connections().count(), 10);
}
