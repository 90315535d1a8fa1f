//! Attaching, outliving the process, replacing, detaching; other people's programs, and refusals.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millrace_dataplane::xdp::{AttachedMode, XdpError, XdpMode, detach_ours, interface_index, query};

use crate::lab::*;

/// The process of `the_program_outlives_its_process`: attaches with a socket on every queue, says so, and
/// waits to be killed. Its namespaces are those of that test.
#[test]
#[ignore = "a process that another test starts and kills"]
fn child_that_attaches() {
    let [node, peer] = ["STEERING_NODE", "STEERING_PEER"].map(|name| std::env::var(name).unwrap());
    let lab = std::mem::ManuallyDrop::new(Lab { node, peer });
    let mut program = uplink_program();
    let mode = if std::env::var("STEERING_MODE").unwrap() == "generic" {
        XdpMode::Generic
    } else {
        XdpMode::Native
    };
    attach(&lab, &program, mode);
    let sinks: Vec<Sink> = (0..QUEUES).map(|queue| Sink::new(&lab, queue)).collect();
    for (queue, sink) in (0..).zip(&sinks) {
        program.register_socket(queue, sink.socket.as_fd()).unwrap();
    }
    println!("\nattached");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn the_program_outlives_its_process() {
    // The name of a test has its module, and not the crate.
    let module = module_path!().split_once("::").map_or("", |(_, module)| module);
    let child = format!("{module}::child_that_attaches");
    for mode in [AttachedMode::Native, AttachedMode::Generic] {
        let lab = Lab::new();
        let (plain, tunnel) = (Listener::new(&lab, PLAIN_PORT), Listener::new(&lab, TUNNEL_PORT));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &child, "--ignored", "--nocapture"])
            .env("STEERING_NODE", &lab.node)
            .env("STEERING_PEER", &lab.peer)
            .env("STEERING_MODE", mode.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let attached = lines.map_while(Result::ok).any(|line| line == "attached");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(attached, "the child never attached");

        let ifindex = lab.ifindex();
        let orphan = lab
            .on_node(|| query(ifindex))
            .unwrap()
            .expect("the program went with its process");
        assert!(orphan.is_ours() && orphan.mode == mode, "{orphan:?}");
        assert!(lab.ping(2), "the host lost its traffic");
        lab.send_udp(NODE, TUNNEL_PORT, 10, 100);
        lab.send_udp(NODE, PLAIN_PORT, 10, 100);
        assert_eq!((plain.received(), tunnel.received()), (10, 0), "{mode}");

        let program = uplink_program();
        let attachment = attach(&lab, &program, XdpMode::Auto);
        assert_eq!(attachment.mode, mode, "the mode is kept");
        assert_eq!(attachment.replaced.as_ref(), Some(&orphan));
        let present = lab.on_node(|| query(ifindex)).unwrap().unwrap();
        assert!(present.id != orphan.id && present.tag == orphan.tag && present.name == "millrace_uplink");
        // The dead process's sockets let go of the queues, so the next one can bind them.
        drop(
            (0..QUEUES)
                .map(|queue| Sink::new(&lab, queue))
                .collect::<Vec<_>>(),
        );
    }
}

#[test]
fn replacing_leaves_no_gap() {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let lab = Lab::new();
        let tunnel = Listener::new(&lab, TUNNEL_PORT);
        let mut programs = vec![uplink_program()];
        attach(&lab, &programs[0], mode);
        let stop = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                lab.on_peer(|| {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    let mut sent = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        socket.send_to(&[0xa5; 100], (NODE, TUNNEL_PORT)).unwrap();
                        sent += 1;
                    }
                    sent
                })
            });
            for _ in 0..30 {
                let program = uplink_program();
                assert!(attach(&lab, &program, mode).replaced.is_some());
                programs.push(program);
            }
            stop.store(true, Ordering::Relaxed);
            flood.join().unwrap()
        });
        assert!(sent > 1000, "a flood of {sent} packets shows nothing");
        assert_eq!(tunnel.received(), 0, "of {sent} packets, some reached the kernel");
        let dropped: u64 = programs
            .iter()
            .map(|program| program.counters().unwrap().dropped_no_socket)
            .sum();
        assert!(dropped <= sent && dropped > sent / 2, "{dropped} of {sent}");
        let active = programs
            .iter()
            .filter(|program| program.counters().unwrap().seen() > 0)
            .count();
        assert!(active > 10, "only {active} of the programs ever ran");
    }
}

#[test]
fn detaching_restores_the_interface() {
    for (wanted, _) in MODES {
        let lab = Lab::new();
        let ifindex = lab.ifindex();
        let tunnel = Listener::new(&lab, TUNNEL_PORT);
        assert_eq!(lab.on_node(|| query(ifindex)).unwrap(), None);
        assert!(
            !lab.on_node(|| detach_ours(ifindex)).unwrap(),
            "nothing to detach"
        );
        let program = uplink_program();
        attach(&lab, &program, wanted);
        lab.send_udp(NODE, TUNNEL_PORT, 3, 100);
        assert_eq!(tunnel.received(), 0);
        assert!(lab.on_node(|| detach_ours(ifindex)).unwrap());
        assert_eq!(lab.on_node(|| query(ifindex)).unwrap(), None);
        lab.send_udp(NODE, TUNNEL_PORT, 3, 100);
        assert_eq!(tunnel.received(), 3);
        // And it can be attached again, in whichever mode.
        for (again, mode) in MODES {
            assert_eq!(attach(&lab, &program, again).mode, mode);
            assert!(lab.on_node(|| detach_ours(ifindex)).unwrap());
        }
    }
}

#[test]
fn a_change_of_mode_is_refused() {
    let lab = Lab::new();
    let ifindex = lab.ifindex();
    let program = uplink_program();
    attach(&lab, &program, XdpMode::Generic);
    let error = lab
        .on_node(|| program.attach(ifindex, XdpMode::Native))
        .unwrap_err();
    assert!(matches!(error, XdpError::ModeConflict { .. }), "{error}");
    assert_eq!(
        lab.on_node(|| query(ifindex)).unwrap().unwrap().mode,
        AttachedMode::Generic
    );
}

/// The program of somebody else: passes everything.
fn foreign_program(lab: &Lab) -> (aya::Ebpf, u32) {
    let object = std::env::temp_dir().join(format!("{}.o", lab.node));
    let mut clang = Command::new(std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned()))
        .args(["-target", "bpf", "-O2", "-g", "-x", "c", "-c", "-", "-o"])
        .arg(&object)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let source = "__attribute__((section(\"xdp\"), used)) int millrace_uplin(void *context) { return 2; }";
    clang.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(clang.wait().unwrap().success());
    let bytes = std::fs::read(&object).unwrap();
    std::fs::remove_file(&object).unwrap();
    let mut loaded = aya::Ebpf::load(&bytes).unwrap();
    let program: &mut aya::programs::Xdp = loaded.program_mut("millrace_uplin").unwrap().try_into().unwrap();
    program.load().unwrap();
    lab.on_node(|| {
        program
            .attach(UPLINK, aya::programs::xdp::XdpMode::Driver)
            .map(drop)
    })
    .unwrap();
    let id = program.info().unwrap().id();
    (loaded, id)
}

#[test]
fn the_program_of_anyone_else_is_left_alone() {
    let lab = Lab::new();
    let ifindex = lab.ifindex();
    let (foreign, foreign_id) = foreign_program(&lab);
    let found = lab.on_node(|| query(ifindex)).unwrap().unwrap();
    // A name that is not quite ours is not ours.
    assert_eq!(
        (found.id, found.name.as_str(), found.is_ours()),
        (foreign_id, "millrace_uplin", false)
    );
    let program = uplink_program();
    for (mode, _) in MODES {
        let error = lab.on_node(|| program.attach(ifindex, mode)).unwrap_err();
        let XdpError::ForeignProgram { interface, id, name } = &error else {
            panic!("{error}")
        };
        assert_eq!(
            (interface.as_str(), *id, name.as_str()),
            (UPLINK, foreign_id, "millrace_uplin")
        );
    }
    assert!(!lab.on_node(|| detach_ours(ifindex)).unwrap());
    assert_eq!(lab.on_node(|| query(ifindex)).unwrap(), Some(found));
    assert_eq!(program.counters().unwrap().seen(), 0);
    drop(foreign);
    // A process that another test is just starting may hold the link for a moment more.
    let deadline = Instant::now() + PATIENCE;
    while lab.on_node(|| query(ifindex)).unwrap().is_some() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        attach(&lab, &program, XdpMode::Auto).mode,
        AttachedMode::Native,
        "free again"
    );
}

#[test]
fn what_the_driver_refuses_is_told() {
    let lab = Lab::new();
    // The kernel's loopback has no native mode.
    let ifindex = lab.on_node(|| interface_index("lo").unwrap());
    let program = uplink_program();
    let error = lab
        .on_node(|| program.attach(ifindex, XdpMode::Native))
        .unwrap_err();
    assert!(
        error.to_string().contains("native") && error.to_string().contains("on lo"),
        "{error}"
    );
    assert_eq!(
        lab.on_node(|| query(ifindex)).unwrap(),
        None,
        "nothing is half attached"
    );
    let attachment = lab.on_node(|| program.attach(ifindex, XdpMode::Auto)).unwrap();
    assert_eq!(attachment.mode, AttachedMode::Generic);
    assert!(attachment.native_refusal.is_some_and(|reason| !reason.is_empty()));
}

#[test]
fn interfaces_that_do_not_exist_are_named() {
    let lab = Lab::new();
    let program = uplink_program();
    lab.on_node(|| {
        let error = interface_index("absent0").unwrap_err();
        assert!(
            matches!(&error, XdpError::NoSuchInterface { name } if name == "absent0"),
            "{error}"
        );
        for error in [
            query(4_000_000).unwrap_err(),
            detach_ours(4_000_000).unwrap_err(),
            program.attach(4_000_000, XdpMode::Auto).unwrap_err(),
        ] {
            assert!(
                matches!(error, XdpError::NoSuchIndex { ifindex: 4_000_000 }),
                "{error}"
            );
        }
    });
}
