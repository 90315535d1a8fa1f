#![allow(clippy::unwrap_used)]

use std::os::fd::BorrowedFd;

use millrace_dataplane::frame::{Frame, Pool};
use millrace_dataplane::port::memory::MemoryPort;
use millrace_dataplane::port::{Port, Settled};

use super::super::faulty::{Faults, Faulty};
use super::super::order::Order;
use super::super::protocol::Protocol;
use super::super::rate::InvalidRate;
use super::super::settings::{self, Settings, Size};
use super::super::template::{Link, Shape, Template};
use super::super::traffic::{Mix, Traffic};
use super::super::{FlowSpace, Flows};
use super::*;

/// Long enough for any number of packets that is given, on any machine.
const LONG: Duration = Duration::from_secs(120);

fn shape(frame_len: usize) -> Shape {
    let space = FlowSpace {
        sources: "10.0.0.1-10.0.0.9".parse().unwrap(),
        destinations: "10.1.0.1".parse().unwrap(),
        source_ports: "1000-1999".parse().unwrap(),
        destination_ports: "9".parse().unwrap(),
    };
    Shape {
        link: Link {
            source: [2, 0, 0, 0, 0, 1].into(),
            destination: [2, 0, 0, 0, 0, 2].into(),
        },
        outer: None,
        flows: Flows::new(space, 1000).unwrap(),
        frame_len,
        run: 0,
    }
}

fn sending(mix: Mix) -> Sending {
    Sending {
        exit: Exit::Memory { threads: 1 },
        cores: Vec::new(),
        batch: 64,
        traffic: Traffic::Mix(mix),
        order: Order::Random,
    }
}

fn one_size() -> Sending {
    sending(Mix::one(Template::new(&shape(100)).unwrap()))
}

fn packets(count: u64) -> Trial {
    Trial {
        rate: Rate::Max,
        duration: LONG,
        packets: Some(count),
        drain: LONG,
    }
}

fn go(session: &mut Session, trial: &Trial) -> Outcome {
    session.run(trial, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

/// What was asked of the command line, in memory.
fn in_memory(change: impl Fn(&mut Settings)) -> Session {
    let mut settings = Settings::default();
    settings.send.interface = Some(settings::MEMORY.to_owned());
    settings.receive.interface = Some(settings::MEMORY.to_owned());
    change(&mut settings);
    Session::open(settings::setup(&settings).unwrap().setup).unwrap()
}

#[test]
fn everything_arrives_once_in_order_and_whole() {
    type Change = fn(&mut Settings);
    let rows: [(&str, Change); 5] = [
        ("UDP", |_| {}),
        ("IMIX of TCP over IPv6", |settings| {
            settings.packets.source = "2001:db8::1-2001:db8::9".parse().ok();
            settings.packets.destination = "2001:db8:1::1".parse().ok();
            settings.packets.protocol = Some(settings::Kind::Tcp);
            settings.packets.size = Some(Size::Imix);
            settings.packets.flows = Some(500);
        }),
        ("ICMP by Zipf", |settings| {
            settings.packets.protocol = Some(settings::Kind::Icmp);
            settings.packets.order = Some(settings::Sequence::Zipf);
            settings.packets.flows = Some(60_000);
        }),
        ("VXLAN from three threads", |settings| {
            settings.send.threads = Some(3);
            settings.tunnel.kind = Some(settings::TunnelKind::Vxlan);
            settings.tunnel.outer_source = Some([192, 0, 2, 1].into());
            settings.tunnel.outer_destination = Some([192, 0, 2, 2].into());
        }),
        ("new connections in IPIP", |settings| {
            settings.packets.new_connections = Some(true);
            settings.tunnel.kind = Some(settings::TunnelKind::Ipip);
            settings.tunnel.outer_source = Some([192, 0, 2, 1].into());
            settings.tunnel.outer_destination = Some([192, 0, 2, 2].into());
        }),
    ];
    for (name, change) in rows {
        let mut session = in_memory(change);
        // Two runs of one session: the second starts from nothing.
        for count in [5_000, 20_000] {
            let outcome = go(&mut session, &packets(count));
            let (sent, received) = (outcome.sent.unwrap(), outcome.received.unwrap());
            let expected = Received {
                packets: count,
                distinct: count,
                bytes: sent.bytes,
                vxlan: if name.contains("VXLAN") { count } else { 0 },
                ipip: if name.contains("IPIP") { count } else { 0 },
                ..Received::default()
            };
            assert_eq!((sent.packets, received), (count, expected), "{name}");
            assert_eq!((outcome.lost, outcome.loss), (Some(0), Some(0.0)), "{name}");
            assert_eq!(outcome.latency.unwrap().packets, count, "{name}");
        }
    }
}

#[test]
fn every_fault_is_counted_exactly() {
    let rows = [
        Faults {
            drop: 10,
            ..Faults::default()
        },
        Faults {
            duplicate: 7,
            ..Faults::default()
        },
        Faults {
            delay: 50,
            delay_by: 3,
            ..Faults::default()
        },
        Faults {
            corrupt: 3,
            ..Faults::default()
        },
        Faults {
            drop: 101,
            duplicate: 103,
            corrupt: 0,
            delay: 107,
            delay_by: 90,
        },
    ];
    for faults in rows {
        let (near, far) = CableEnd::pair();
        let (port, confession) = Faulty::new(near, faults);
        let mut session = Session::with_ends(
            one_size(),
            vec![SendEnd::in_memory(port)],
            vec![ReceiveEnd::in_memory(far)],
        )
        .unwrap();
        let trial = Trial {
            drain: Duration::from_millis(500),
            ..packets(30_000)
        };
        let outcome = go(&mut session, &trial);
        let (did, received) = (confession.read(), outcome.received.unwrap());
        assert_eq!(did.packets, 30_000);
        // A thousand flows drawn at random: few packets are overtaken by one of their own.
        assert!(
            received.reordered_in_flow <= received.reordered / 4,
            "{faults:?}: {received:?}"
        );
        let found = (
            outcome.lost.unwrap(),
            received.duplicates,
            received.reordered,
            received.corrupt,
        );
        assert_eq!(
            found,
            (did.dropped, did.duplicated, did.delayed, did.corrupted),
            "{faults:?}"
        );
        assert!(
            did.dropped + did.duplicated + did.delayed + did.corrupted > 100,
            "{did:?}"
        );
        // A wire that is full for a moment holds back what was to be sent late a little longer.
        let is_late = faults.delay == 0 || received.reordered_by_max > faults.delay_by;
        assert!(is_late, "{faults:?}: by {}", received.reordered_by_max);
        assert_eq!(received.strangers, 0);
    }
}

#[test]
fn what_is_overtaken_in_the_only_flow_is_overtaken_in_its_flow() {
    let (near, far) = CableEnd::pair();
    let faults = Faults {
        delay: 50,
        delay_by: 3,
        ..Faults::default()
    };
    let (port, confession) = Faulty::new(near, faults);
    let flows = Flows::new(
        FlowSpace {
            sources: "10.0.0.1".parse().unwrap(),
            destinations: "10.1.0.1".parse().unwrap(),
            source_ports: "7".parse().unwrap(),
            destination_ports: "9".parse().unwrap(),
        },
        1,
    );
    let shape = Shape {
        flows: flows.unwrap(),
        ..shape(100)
    };
    let sending = sending(Mix::one(Template::new(&shape).unwrap()));
    let ends = (vec![SendEnd::in_memory(port)], vec![ReceiveEnd::in_memory(far)]);
    let mut session = Session::with_ends(sending, ends.0, ends.1).unwrap();
    let received = go(&mut session, &packets(5000)).received.unwrap();
    let delayed = confession.read().delayed;
    assert_eq!(
        (received.reordered, received.reordered_in_flow),
        (delayed, delayed)
    );
    assert!(delayed >= 99, "{delayed}");
}

/// A cable that once stands still.
struct Stalling {
    port: CableEnd,
    sent: u64,
    at: u64,
    pause: Duration,
}

impl Port for Stalling {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        self.port.receive(pool, into, max)
    }

    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        self.sent += 1;
        if self.sent == self.at {
            thread::sleep(self.pause);
        }
        self.port.send(pool, frame)
    }

    fn flush(&mut self) {
        self.port.flush();
    }

    fn pending(&mut self) -> bool {
        self.port.pending()
    }

    fn settle(&mut self, pool: &mut Pool) -> Settled {
        self.port.settle(pool)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn last_error(&mut self) -> Option<i32> {
        None
    }
}

#[test]
fn a_pause_of_the_device_shows_in_every_packet_that_was_due_meanwhile() {
    let (near, far) = CableEnd::pair();
    let port = Stalling {
        port: near,
        sent: 0,
        at: 1000,
        pause: Duration::from_millis(400),
    };
    let mut session = Session::with_ends(
        one_size(),
        vec![SendEnd::in_memory(port)],
        vec![ReceiveEnd::in_memory(far)],
    )
    .unwrap();
    let trial = Trial {
        rate: Rate::Packets(10_000.0),
        ..packets(8000)
    };
    let latency = go(&mut session, &trial).latency.unwrap();
    // In 400 ms 4000 packets are due, of 8000; half of those wait 200 ms and more. Had the time of sending been stamped,
    // one batch would show the pause.
    assert_eq!(latency.packets, 8000);
    let slow = latency
        .curve
        .iter()
        .find(|point| point.ns >= 190_000_000)
        .unwrap();
    assert!(
        slow.percentile <= 76.0,
        "only the slowest {:.1} % show it",
        100.0 - slow.percentile
    );
    assert!(latency.max >= 390_000_000, "{}", latency.max);
}

#[test]
fn it_sends_and_receives_by_the_switchs_own_port_in_memory() {
    let (out, sent) = MemoryPort::new(2048);
    let (into, arriving) = MemoryPort::new(2048);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match sent.take() {
                    Some(packet) => arriving.put(&packet),
                    None => thread::yield_now(),
                }
            }
        });
        let mut session = Session::with_ends(
            one_size(),
            vec![SendEnd::in_memory(out)],
            vec![ReceiveEnd::in_memory(into)],
        )
        .unwrap();
        let outcome = go(&mut session, &packets(10_000));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(
            (outcome.lost, outcome.received.unwrap().distinct),
            (Some(0), 10_000)
        );
    });
}

#[test]
fn a_recording_is_replayed_at_its_own_speed_and_counted() {
    use pcap_file::pcap::{PcapPacket, PcapWriter};
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = PcapWriter::new(file.reopen().unwrap()).unwrap();
    let template = Template::new(&shape(100)).unwrap();
    for number in 0..4u64 {
        // Every fourth is too short for a mark.
        let bytes = if number == 3 {
            &template.bytes()[..50]
        } else {
            template.bytes()
        };
        let packet = PcapPacket::new(
            Duration::from_millis(number),
            u32::try_from(bytes.len()).unwrap(),
            bytes,
        );
        writer.write_packet(&packet).unwrap();
    }
    for threads in [1, 3] {
        let mut session = in_memory(|settings| {
            settings.packets.replay = Some(file.path().to_owned());
            settings.send.threads = Some(threads);
        });
        let trial = Trial {
            rate: "recorded*2".parse().unwrap(),
            ..packets(120)
        };
        let outcome = go(&mut session, &trial);
        let (sent, received) = (outcome.sent.unwrap(), outcome.received.unwrap());
        assert_eq!(sent.packets, 120);
        assert_eq!(
            received.distinct,
            sent.packets - sent.unmarked,
            "{sent:?}, {received:?}"
        );
        assert_eq!(
            (outcome.lost, received.corrupt, received.strangers),
            (Some(0), 0, sent.unmarked)
        );
        if threads == 1 {
            assert_eq!(sent.unmarked, 30);
            // 30 rounds of 2 ms but for the last gap, at least.
            assert!(outcome.seconds > 0.058, "{}", outcome.seconds);
        }
    }
}

#[test]
fn a_rate_out_of_reach_is_said_to_be_and_one_within_is_kept() {
    let mut session = in_memory(|_| {});
    let trial = |rate: &str, packets| {
        let rate: Result<Rate, InvalidRate> = rate.parse();
        Trial {
            rate: rate.unwrap(),
            ..super::tests::packets(packets)
        }
    };
    let outcome = go(&mut session, &trial("1000Gbit-l1", 50_000));
    assert_eq!(outcome.is_reached, Some(false));
    assert!(outcome.sent_per_second < outcome.asked_per_second);
    // A packet every millisecond: the last of 300 cannot be sent earlier than that says.
    let outcome = go(&mut session, &trial("1000pps", 300));
    assert!(outcome.seconds >= 0.299, "{}", outcome.seconds);
    assert_eq!(outcome.asked_per_second, Some(1000.0));
}

#[test]
fn a_stop_ends_a_run_with_what_there_is() {
    let mut session = in_memory(|_| {});
    let stop = AtomicBool::new(false);
    let forever = Trial {
        packets: None,
        rate: Rate::Packets(20_000.0),
        ..packets(0)
    };
    let outcome = session
        .run(&forever, &stop, &mut |progress| {
            assert!(progress.sent.unwrap() > 0);
            stop.store(true, Ordering::Relaxed);
        })
        .unwrap();
    assert!(outcome.seconds < 60.0);
    assert_eq!(outcome.lost, Some(0));
    assert_eq!(outcome.samples.len(), 1);
}

#[test]
fn settings_that_do_not_go_together_are_refused_before_anything_is_opened() {
    type Change = fn(&mut Settings);
    let rows: [(&str, Change); 8] = [
        ("nothing to do", |settings| settings.send.interface = None),
        ("both ends", |settings| {
            settings.tunnel.kind = Some(settings::TunnelKind::Ipip)
        }),
        ("new connections", |settings| {
            settings.packets.new_connections = Some(true);
            settings.packets.flows = Some(9);
        }),
        ("Zipf exponent", |settings| {
            settings.packets.zipf_exponent = Some(-1.0)
        }),
        ("60 to 1792", |settings| {
            settings.packets.size = Some(Size::Bytes(59))
        }),
        ("one family", |settings| {
            settings.packets.source = "::1".parse().ok()
        }),
        ("RFC 2003", |settings| {
            settings.packets.source = "::1".parse().ok();
            settings.packets.destination = "::2".parse().ok();
            settings.tunnel.kind = Some(settings::TunnelKind::Ipip);
            settings.tunnel.outer_source = Some([1; 4].into());
            settings.tunnel.outer_destination = Some([2; 4].into());
        }),
        ("make 1", |settings| {
            settings.packets.source_port = "1".parse().ok();
            settings.packets.flows = Some(2);
        }),
    ];
    for (problem, change) in rows {
        let mut settings = Settings::default();
        settings.send.interface = Some(settings::MEMORY.to_owned());
        change(&mut settings);
        let error = settings::setup(&settings).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    let mut only = Settings::default();
    only.receive.interface = Some(settings::MEMORY.to_owned());
    let refused = Session::open(settings::setup(&only).unwrap().setup)
        .err()
        .unwrap();
    assert!(refused.to_string().contains("--send memory"), "{refused}");
}

#[test]
fn a_mix_has_every_size_in_its_proportion_in_every_flow() {
    let mix = Mix::imix(&shape(0), Protocol::Udp).unwrap();
    let lengths: Vec<_> = mix
        .templates()
        .iter()
        .map(|template| template.bytes().len())
        .collect();
    assert_eq!(lengths, super::super::traffic::IMIX_WITHOUT_FCS);
    let mean = Traffic::Mix(mix).mean_len();
    assert!(
        (mean - (7.0 * 60.0 + 4.0 * 590.0 + 1514.0) / 12.0).abs() < 1e-9,
        "{mean}"
    );
}
