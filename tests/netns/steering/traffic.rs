//! What becomes of the traffic of real kernels, with and without AF_XDP sockets, in both modes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use millrace_dataplane::xdp::{AttachedMode, ProgramKind, SteeringCounters, SteeringProgram, XdpMode};

use crate::lab::*;

#[test]
fn without_a_socket_ours_is_dropped_and_the_rest_goes_on() {
    for (wanted, mode) in MODES {
        let lab = Lab::new();
        let (plain, tunnel) = (Listener::new(&lab, PLAIN_PORT), Listener::new(&lab, TUNNEL_PORT));
        let mut program = uplink_program();
        let attachment = attach(&lab, &program, wanted);
        assert_eq!((attachment.mode, attachment.replaced), (mode, None), "{wanted:?}");

        let mut expected = SteeringCounters::default();
        assert!(lab.ping(3), "ping in {mode} mode");
        expected.passed += 3;
        expect_counters(&program, expected);

        lab.send_udp(NODE, PLAIN_PORT, 5, 100);
        assert_eq!(plain.received(), 5);
        expected.passed += 5;
        expect_counters(&program, expected);

        lab.send_udp(NODE, TUNNEL_PORT, 10, 100);
        lab.send_ipip(7);
        lab.send_udp(POD, PLAIN_PORT, 4, 100);
        expected.dropped_no_socket += 10 + 7 + 4;
        expect_counters(&program, expected);
        assert_eq!(tunnel.received(), 0, "tunnel packets in {mode} mode");

        lab.send_udp(NOT_A_POD, PLAIN_PORT, 2, 100);
        expected.passed += 2;
        expect_counters(&program, expected);

        // 4000 bytes are three fragments; all of them have the fate of the first.
        lab.send_udp(NODE, TUNNEL_PORT, 1, 4000);
        lab.send_udp(NODE, PLAIN_PORT, 1, 4000);
        expected.dropped_no_socket += 3;
        expected.passed += 3;
        expect_counters(&program, expected);
        assert_eq!(
            (plain.received(), tunnel.received()),
            (1, 0),
            "fragments in {mode} mode"
        );

        program.set_failsafe_ports(&[TUNNEL_PORT]).unwrap();
        lab.send_udp(NODE, TUNNEL_PORT, 6, 100);
        assert_eq!(tunnel.received(), 6, "fail-safe port in {mode} mode");
        expected.failsafe_passed += 6;
        program.set_ipip(false).unwrap();
        lab.send_ipip(2);
        expected.passed += 2;
        expect_counters(&program, expected);

        lab.talk_tcp(7000);
        let counters = program.counters().unwrap();
        assert!(counters.passed > expected.passed, "TCP was seen");
        assert_eq!(
            SteeringCounters {
                passed: expected.passed,
                ..counters
            },
            expected,
            "and only passed"
        );
    }
}

#[test]
fn with_sockets_each_queue_gets_what_is_ours() {
    for (wanted, mode) in [
        (XdpMode::Native, AttachedMode::Native),
        (XdpMode::Generic, AttachedMode::Generic),
    ] {
        let lab = Lab::new();
        let plain = Listener::new(&lab, PLAIN_PORT);
        let mut program = uplink_program();
        assert_eq!(attach(&lab, &program, wanted).mode, mode);
        let sinks: Vec<Sink> = (0..QUEUES).map(|queue| Sink::new(&lab, queue)).collect();
        for (queue, sink) in (0..).zip(&sinks) {
            program.register_socket(queue, sink.socket.as_fd()).unwrap();
        }
        lab.send_udp(NODE, TUNNEL_PORT, 64, 100);
        lab.send_ipip(8);
        lab.send_udp(POD, PLAIN_PORT, 16, 100);
        lab.send_udp(NODE, TUNNEL_PORT, 1, 4000);
        lab.send_udp(NODE, PLAIN_PORT, 5, 100);
        let expected = SteeringCounters {
            passed: 5,
            to_switch_tunnel: 64 + 8 + 1,
            to_switch_pod: 16,
            to_switch_fragment: 2,
            ..SteeringCounters::default()
        };
        expect_counters(&program, expected);
        assert_eq!(plain.received(), 5);
        let received: Vec<u64> = sinks.iter().map(Sink::received).collect();
        assert_eq!(received.iter().sum::<u64>(), 73 + 16 + 2, "{mode}: {received:?}");
        // A veth in generic mode may have everything on its first queue: it does not tell the stack which it
        // was.
        let spread = mode == AttachedMode::Native;
        assert!(
            !spread || received.iter().all(|queue| *queue > 0),
            "{mode}: {received:?}"
        );

        // Without a socket on queue 0, its packets are dropped, and those of queue 1 still arrive.
        program.unregister_socket(0).unwrap();
        lab.send_udp(NODE, TUNNEL_PORT, 64, 100);
        let arrived = |program: &SteeringProgram| program.counters().unwrap().seen() == expected.seen() + 64;
        let deadline = Instant::now() + PATIENCE;
        while !arrived(&program) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let counters = program.counters().unwrap();
        assert_eq!(counters.to_switch_tunnel + counters.dropped_no_socket, 73 + 64);
        assert!(counters.dropped_no_socket > 0, "{mode}: {counters:?}");
        assert!(!spread || counters.to_switch_tunnel > 73, "{mode}: {counters:?}");
        assert_eq!(sinks[0].received(), received[0], "{mode}");
        assert_eq!(
            sinks[1].received(),
            received[1] + counters.to_switch_tunnel - 73,
            "{mode}"
        );
    }
}

#[test]
fn ports_are_cut_off_without_a_socket() {
    for (wanted, mode) in [
        (XdpMode::Native, AttachedMode::Native),
        (XdpMode::Generic, AttachedMode::Generic),
    ] {
        let lab = Lab::new();
        let plain = Listener::new(&lab, PLAIN_PORT);
        let mut program = SteeringProgram::load(ProgramKind::Port, QUEUES).unwrap();
        assert_eq!(attach(&lab, &program, wanted).mode, mode);
        lab.send_udp(NODE, PLAIN_PORT, 20, 100);
        assert!(!lab.ping(2), "a pod got past the switch in {mode} mode");
        assert_eq!(plain.received(), 0);
        let mut expected = SteeringCounters {
            port_dropped_no_socket: 22,
            ..SteeringCounters::default()
        };
        expect_counters(&program, expected);

        let sinks: Vec<Sink> = (0..QUEUES).map(|queue| Sink::new(&lab, queue)).collect();
        for (queue, sink) in (0..).zip(&sinks) {
            program.register_socket(queue, sink.socket.as_fd()).unwrap();
        }
        lab.send_udp(NODE, PLAIN_PORT, 20, 100);
        expected.port_to_switch = 20;
        expect_counters(&program, expected);
        assert_eq!(sinks.iter().map(Sink::received).sum::<u64>(), 20, "{mode}");
        assert_eq!(plain.received(), 0);
    }
}
