//! The uplink's tables as the program sees them, and wrong use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use millrace_dataplane::xdp::{ProgramKind, SteeringAction, SteeringCounters, SteeringProgram, XdpError};

use crate::frames::*;

#[test]
fn empty_tables_take_nothing() {
    let program = SteeringProgram::load(ProgramKind::Uplink, 1).unwrap();
    let frames = [
        v4(NODE, 17, &udp(TUNNEL_PORT), |_| {}),
        v4(NODE, 4, &[0x45; 40], |_| {}),
        v4(POD, 6, &tcp(80), |_| {}),
        v6(NODE6, 17, &udp(TUNNEL_PORT)),
        // The all-zero address is not in an empty table either.
        v6(Ipv6Addr::UNSPECIFIED, 17, &udp(TUNNEL_PORT)),
    ];
    for frame in &frames {
        assert_eq!(program.dry_run(frame).unwrap(), SteeringAction::ToKernel);
    }
    assert_eq!(
        program.counters().unwrap(),
        SteeringCounters {
            passed: frames.len() as u64,
            ..SteeringCounters::default()
        }
    );
}

#[test]
fn tables_are_replaced_as_a_whole() {
    let mut program = loaded_uplink();
    let taken =
        |program: &SteeringProgram, frame: &[u8]| program.dry_run(frame).unwrap() != SteeringAction::ToKernel;
    let vxlan = v4(NODE, 17, &udp(TUNNEL_PORT), |_| {});
    let vxlan_to_peer = v4(PEER, 17, &udp(TUNNEL_PORT), |_| {});
    let pod = v4(POD, 6, &tcp(80), |_| {});
    let pod6 = v6(POD6, 6, &tcp(80));

    program.set_local_addresses(&[PEER.into()]).unwrap();
    assert!(!taken(&program, &vxlan) && taken(&program, &vxlan_to_peer));
    program.set_local_addresses(&[NODE.into(), NODE.into()]).unwrap();
    assert!(taken(&program, &vxlan) && !taken(&program, &vxlan_to_peer));

    program.set_tunnel_ports(&[PLAIN_PORT]).unwrap();
    assert!(!taken(&program, &vxlan));
    program.set_tunnel_ports(&[PLAIN_PORT, TUNNEL_PORT]).unwrap();
    assert!(taken(&program, &vxlan));

    program.set_failsafe_ports(&[TUNNEL_PORT]).unwrap();
    assert!(!taken(&program, &vxlan), "a fail-safe port beats a tunnel's");
    program.set_failsafe_ports(&[]).unwrap();
    assert!(taken(&program, &vxlan));

    program.set_ipip(false).unwrap();
    assert!(!taken(&program, &v4(NODE, 4, &[0x45; 40], |_| {})));

    assert!(taken(&program, &pod) && taken(&program, &pod6));
    // The same prefix again with other bits after its length, a longer one, and the IPv6 one gone.
    program
        .set_pod_prefixes(&[(IpAddr::from(POD), 24), (IpAddr::from(POD), 32)])
        .unwrap();
    assert!(taken(&program, &pod) && !taken(&program, &pod6));
    program.set_pod_prefixes(&[(IpAddr::from(POD), 32)]).unwrap();
    assert!(taken(&program, &pod));
    assert!(
        !taken(&program, &v4(Ipv4Addr::new(10, 244, 1, 8), 6, &tcp(80), |_| {})),
        "the /24 is gone"
    );
    program.set_pod_prefixes(&[]).unwrap();
    assert!(!taken(&program, &pod));
}

#[test]
fn bad_prefixes_are_refused_and_change_nothing() {
    let mut program = loaded_uplink();
    for (address, length) in [
        (IpAddr::from(POD), 0),
        (IpAddr::from(POD), 33),
        (IpAddr::from(POD6), 0),
        (POD6.into(), 129),
    ] {
        let error = program
            .set_pod_prefixes(&[(IpAddr::from(PEER), 32), (address, length)])
            .unwrap_err();
        assert!(
            matches!(error, XdpError::BadPrefix { length: refused, .. } if refused == length),
            "{error}"
        );
    }
    assert_eq!(
        program.dry_run(&v4(POD, 6, &tcp(80), |_| {})).unwrap(),
        SteeringAction::Drop
    );
    assert_eq!(
        program.dry_run(&v4(PEER, 6, &tcp(80), |_| {})).unwrap(),
        SteeringAction::ToKernel
    );
}

#[test]
fn a_full_table_says_so() {
    let mut program = loaded_uplink();
    let ports: Vec<u16> = (10_000..11_000).collect();
    let error = program.set_tunnel_ports(&ports).unwrap_err();
    assert!(
        error.to_string().contains("tunnel_ports") && error.to_string().contains("full"),
        "{error}"
    );
    let taken = |program: &SteeringProgram, port: u16| {
        program.dry_run(&v4(NODE, 17, &udp(port), |_| {})).unwrap() == SteeringAction::Drop
    };
    let count = ports.iter().filter(|port| taken(&program, **port)).count();
    assert_eq!(count, 256, "as many as there is room for");
    assert!(!taken(&program, TUNNEL_PORT), "what is not wanted is gone");
    // As many others: there is room for them once the old ones are gone.
    let others: Vec<u16> = (20_000..20_256).collect();
    program.set_tunnel_ports(&others).unwrap();
    assert!(others.iter().all(|port| taken(&program, *port)) && !taken(&program, 10_000));

    let prefixes: Vec<(IpAddr, u8)> = (0..5000_u32)
        .map(|n| (Ipv4Addr::from(0x0a00_0000 + n).into(), 32))
        .collect();
    let error = program.set_pod_prefixes(&prefixes).unwrap_err();
    assert!(
        error.to_string().contains("pod_prefixes") && error.to_string().contains("full"),
        "{error}"
    );
}

#[test]
fn wrong_use_is_named() {
    assert!(matches!(
        SteeringProgram::load(ProgramKind::Port, 0),
        Err(XdpError::NoQueues { .. })
    ));
    let mut port = SteeringProgram::load(ProgramKind::Port, 2).unwrap();
    assert!(matches!(
        port.set_tunnel_ports(&[TUNNEL_PORT]),
        Err(XdpError::NoSuchTable { .. })
    ));
    let socket = any_xdp_socket();
    let error = port.register_socket(2, socket.as_fd()).unwrap_err();
    assert!(
        matches!(
            error,
            XdpError::NoSuchQueue {
                queue: 2,
                queues: 2,
                ..
            }
        ),
        "{error}"
    );
    let not_xdp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = port.register_socket(0, not_xdp.as_fd()).unwrap_err();
    assert!(
        error.to_string().contains("register the socket of queue 0"),
        "{error}"
    );
    port.unregister_socket(1).unwrap();
    assert!(matches!(
        port.dry_run(&[0; 13]),
        Err(XdpError::DryRun { frame_len: 13, .. })
    ));
}

#[test]
fn programs_can_move_between_threads() {
    let mut program = loaded_uplink();
    let thread = std::thread::spawn(move || {
        program.set_tunnel_ports(&[]).unwrap();
        program.counters().unwrap()
    });
    assert_eq!(thread.join().unwrap(), SteeringCounters::default());
}

/// A kernel gives up on a program after a million steps of its verifier (`BPF_COMPLEXITY_LIMIT_INSNS`, since 5.2). Older
/// ones take more steps than newer ones, so there has to be room.
#[test]
fn the_verifier_is_done_long_before_it_gives_up() {
    let _program = loaded_uplink();
    let steps: Vec<u64> = std::fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .filter_map(|info| {
            let line = info.lines().find(|line| line.starts_with("verified_insns:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .collect();
    println!("{steps:?} steps");
    assert!(
        !steps.is_empty() && steps.iter().all(|steps| *steps < 100_000),
        "{steps:?}"
    );
}
