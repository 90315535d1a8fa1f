//! A wire with nothing on it but its ends.

use millrace_dataplane::xdp::XdpMode;
use millrace_tools::pktgen::PktgenError;
use millrace_tools::pktgen::example::{Between, IN, OUT, Stage};
use millrace_tools::pktgen::settings::{Count, Kind, Mode, Sequence, Settings, Size, TunnelKind, setup};
use millrace_tools::pktgen::{Place, Session, Sink};

use super::{go, link, open, own_losses, run, settings};

fn refused(settings: &Settings) -> PktgenError {
    match setup(settings).and_then(|resolved| Session::open(resolved.setup)) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[test]
fn every_kind_of_packet_arrives_and_is_counted_once() {
    let stage = Stage::bring_up("pg-kinds", Between::Nothing).unwrap();
    type Change = fn(&mut Settings);
    let rows: [(&str, Change); 7] = [
        ("UDP", |_| {}),
        ("IMIX of TCP over IPv6, drawn by Zipf", |settings| {
            settings.packets.protocol = Some(Kind::Tcp);
            settings.packets.source = "2001:db8::1-2001:db8::ff".parse().ok();
            settings.packets.destination = "2001:db8:1::1".parse().ok();
            settings.packets.size = Some(Size::Imix);
            settings.packets.flows = Some(1000);
            settings.packets.order = Some(Sequence::Zipf);
        }),
        ("VXLAN", |settings| {
            settings.tunnel.kind = Some(TunnelKind::Vxlan);
            settings.tunnel.outer_source = Some([192, 0, 2, 1].into());
            settings.tunnel.outer_destination = Some([192, 0, 2, 2].into());
        }),
        ("IPIP, in generic mode", |settings| {
            settings.tunnel.kind = Some(TunnelKind::Ipip);
            settings.tunnel.outer_source = Some([192, 0, 2, 1].into());
            settings.tunnel.outer_destination = Some([192, 0, 2, 2].into());
            settings.receive.xdp_mode = Some(Mode::Generic);
        }),
        ("new connections of TCP", |settings| {
            settings.packets.protocol = Some(Kind::Tcp);
            settings.packets.new_connections = Some(true);
        }),
        ("the longest that goes, ICMP", |settings| {
            settings.packets.protocol = Some(Kind::Icmp);
            settings.packets.size = Some(Size::Bytes(1514));
        }),
        ("two queues and threads at either end", |settings| {
            settings.send.queues = Some(vec![0, 1]);
            settings.send.cores = Some(vec![0]);
            settings.receive.cores = Some(vec![0, 0]);
            settings.packets.order = Some(Sequence::Uniform);
            settings.packets.flows = Some(50);
        }),
    ];
    for (name, change) in rows {
        let mut settings = settings(&stage, 2000);
        change(&mut settings);
        let outcome = run(&settings);
        let (sent, received) = (outcome.sent.unwrap(), outcome.received.unwrap());
        let is_in = |what: &str| {
            if name.starts_with(what) {
                received.distinct
            } else {
                0
            }
        };
        assert_eq!(sent.packets + sent.refused, 2000, "{name}: {sent:?}");
        assert_eq!(
            outcome.lost,
            Some(own_losses(&outcome)),
            "{name}: {sent:?}, {received:?}"
        );
        assert_eq!(received.packets, received.distinct, "{name}: {received:?}");
        assert_eq!(
            (received.vxlan, received.ipip),
            (is_in("VXLAN"), is_in("IPIP")),
            "{name}"
        );
        let wrong = (
            received.corrupt,
            received.duplicates,
            received.reordered,
            received.too_old,
        );
        assert_eq!(wrong, (0, 0, 0, 0), "{name}: {received:?}");
        assert_eq!(outcome.latency.unwrap().packets, received.distinct, "{name}");
    }
}

#[test]
fn packets_dropped_in_the_kernel_are_counted_run_by_run() {
    let stage = Stage::bring_up("pg-sink", Between::Nothing).unwrap();
    let mut settings = settings(&stage, 500);
    settings.receive.count = Some(Count::Drop);
    let mut session = open(&settings);
    for _ in 0..2 {
        let outcome = go(&mut session, &settings);
        assert_eq!(outcome.received.unwrap().packets, outcome.sent.unwrap().packets);
        assert_eq!(outcome.lost, Some(0));
    }
}

#[test]
fn nothing_is_left_on_an_interface() {
    let stage = Stage::bring_up("pg-leave", Between::Nothing).unwrap();
    let mut settings = settings(&stage, 100);
    settings.receive.promiscuous = Some(true);
    let before = link(stage.right(), IN);
    assert!(!before.contains("PROMISC") && !before.contains("xdp"), "{before}");
    let mut session = open(&settings);
    let during = link(stage.right(), IN);
    assert!(
        during.contains("PROMISC") && during.contains("prog/xdp"),
        "{during}"
    );
    go(&mut session, &settings);
    drop(session);
    assert_eq!(link(stage.right(), IN), before);
    // What was promiscuous before is so afterwards.
    stage.right().ip(&["link", "set", IN, "promisc", "on"]).unwrap();
    run(&settings);
    assert!(link(stage.right(), IN).contains("PROMISC"));
}

#[test]
fn what_cannot_be_is_refused_with_what_would_be_right() {
    let stage = Stage::bring_up("pg-refuse", Between::Nothing).unwrap();
    let settings = || settings(&stage, 1);
    let mut long = settings();
    long.packets.size = Some(Size::Bytes(1515));
    assert!(matches!(
        refused(&long),
        PktgenError::TooLong {
            len: 1515,
            mtu: 1500,
            ..
        }
    ));
    let mut absent = settings();
    absent.send.interface = Some("nosuch".to_owned());
    assert!(refused(&absent).to_string().contains("nosuch"));
    let mut queue = settings();
    queue.send.queues = Some(vec![9]);
    assert!(
        refused(&queue).to_string().contains("queue 9"),
        "{}",
        refused(&queue)
    );
    let mut same = settings();
    same.receive.interface.clone_from(&same.send.interface);
    same.receive.netns.clone_from(&same.send.netns);
    assert!(matches!(refused(&same), PktgenError::SameQueue { queue: 0, .. }));
    let mut core = settings();
    core.send.cores = Some(vec![100_000]);
    let mut session = open(&core);
    let trial = millrace_tools::pktgen::settings::trial(&core).unwrap().0;
    let error = session.run(&trial, &false.into(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, PktgenError::Core { core: 100_000, .. }));
    drop(session);
    let other = Sink::attach(&Place::inside(IN, stage.right().name()), XdpMode::Auto).unwrap();
    assert!(matches!(refused(&settings()), PktgenError::Occupied { .. }));
    drop(other);
    let mut no_zero_copy = settings();
    no_zero_copy.receive.bind = Some(millrace_tools::pktgen::settings::Bind::ZeroCopy);
    assert!(refused(&no_zero_copy).to_string().contains("zero-copy"));
    stage.left().ip(&["link", "set", OUT, "down"]).unwrap();
    assert!(matches!(refused(&settings()), PktgenError::Down(_)));
}
