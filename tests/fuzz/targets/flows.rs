//! The flow table under any sequence of operations: it holds what a map would hold, and what it answers belongs together.
#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{
    Answer, ClaimError, Flow, FlowOptions, New, Onward, SCALE_MAX, TcpSegment, TcpVerdict, Timeouts, TupleV4,
};
use millrace_dataplane::table::{Epoch, FlowTable, NetworkId, PeerId, SubjectId, Tick};
use millrace_dataplane::wire::{IpProtocol, Ports, TcpFlags};

/// Few records, so that the table is full, and connections go for others.
const CONNECTIONS: u32 = 12;
const PER_POD: u32 = 6;

thread_local! {
    static TABLE: RefCell<FlowTable> = RefCell::new(
        FlowTable::in_memory(&FlowOptions {
            ipv4: CONNECTIONS,
            ipv6: 1,
            per_pod: PER_POD,
            loose: true,
        })
        .expect("a small table"),
    );
}

fuzz_target!(|data: &[u8]| {
    TABLE.with_borrow(|table| {
        Run {
            table,
            twins: HashMap::new(),
            held: None,
            now: 1000,
        }
        .steps(data)
    });
});

/// One run over the table, and what it is to hold at least: no connection is found that was not claimed.
struct Run<'t> {
    table: &'t FlowTable,
    /// Each tuple's twin, of all that were claimed and not removed by name.
    twins: HashMap<TupleV4, TupleV4>,
    /// A flow that was read some time ago, perhaps gone by now.
    held: Option<(TupleV4, Flow<Ipv4Addr>)>,
    now: u32,
}

/// A tuple by one byte: few of them, some the reverse of others.
fn tuple(byte: u8) -> TupleV4 {
    let protocols = [
        IpProtocol::TCP,
        IpProtocol::UDP,
        IpProtocol::ICMP,
        IpProtocol::SCTP,
    ];
    let forward = TupleV4 {
        source: Ipv4Addr::new(10, 0, 0, byte & 0x03),
        destination: Ipv4Addr::new(10, 96, 0, byte >> 3 & 0x03),
        protocol: protocols[usize::from(byte >> 5 & 0x03)],
        ports: Ports {
            source: 1000,
            destination: 80,
        },
        // Equal tuples of two networks have nothing to do with each other.
        network: NetworkId::new(u16::from(byte >> 2 & 0x01)),
    };
    if byte & 0x80 == 0 {
        forward
    } else {
        forward.reversed()
    }
}

fn segment(bytes: [u8; 4]) -> TcpSegment {
    let [flags, sequence, acknowledgment, more] = bytes.map(u32::from);
    TcpSegment {
        sequence: sequence * 500,
        acknowledgment: acknowledgment * 500,
        window: 2000,
        flags: TcpFlags(flags as u8),
        payload_len: more % 8 * 250,
        window_scale: (more & 0x80 != 0)
            .then_some((more >> 3 & 0x0f) as u8)
            .map(|scale| scale.min(SCALE_MAX)),
    }
}

impl Run<'_> {
    fn steps(mut self, data: &[u8]) {
        for step in data.as_chunks::<8>().0 {
            self.step(*step);
            assert!(self.table.v4().len() <= CONNECTIONS);
        }
        self.settle();
    }

    fn step(&mut self, [kind, a, b, c, d, e, f, g]: [u8; 8]) {
        let (table, now) = (self.table.v4(), Tick::from_seconds(self.now));
        match kind % 8 {
            0 | 1 => self.claim(tuple(a), tuple(b), segment([c, d, e, f]), g),
            2 => {
                if let Some(flow) = self.lookup(tuple(a)) {
                    table.touch(&flow, now);
                    self.held = Some((tuple(a), flow));
                }
            }
            3 => {
                if let Some(flow) = self.lookup(tuple(a)) {
                    let verdict = table.track_tcp(flow.id, &segment([c, d, e, f]));
                    assert_ne!(verdict, TcpVerdict::Gone);
                }
            }
            4 => {
                if let Some(flow) = self.lookup(tuple(a)) {
                    let answer = Answer {
                        onward: Onward::Peer(PeerId::new(u16::from(b))),
                        subjects: [
                            SubjectId::ROUTES,
                            SubjectId::backend(u32::from(c)),
                            SubjectId::NONE,
                        ],
                        epoch: Epoch(u32::from(d)),
                    };
                    assert!(table.store_answer(flow.id, &answer));
                    assert_eq!(table.lookup(&tuple(a)).and_then(|flow| flow.answer), Some(answer));
                }
            }
            5 => {
                if let Some(flow) = self.lookup(tuple(a)) {
                    assert!(table.remove(flow.id) && !table.remove(flow.id));
                    let twin = self.twins.remove(&tuple(a)).expect("checked by the lookup");
                    self.twins.remove(&twin);
                    assert!(table.lookup(&tuple(a)).is_none() && table.lookup(&twin).is_none());
                }
            }
            6 => {
                self.now += u32::from(a);
                let mut cursor = table.cursor(0, 1);
                table.sweep(&mut cursor, u32::from(b), now, &Timeouts::default());
            }
            _ => self.use_held(segment([c, d, e, f])),
        }
    }

    fn claim(&mut self, original: TupleV4, reply: TupleV4, segment: TcpSegment, opener: u8) {
        let reply = TupleV4 {
            protocol: original.protocol,
            network: original.network,
            ..reply
        };
        let table = self.table.v4();
        let there = (table.lookup(&original).is_some(), table.lookup(&reply).is_some());
        // A full table lets a half-open connection go for the new one, and that may be the very one in its way.
        let was_full = table.len() >= table.capacity();
        let new = New {
            original,
            reply,
            opener: PortId::new(u16::from(opener % 4)).filter(|port| port.index() > 0),
            binding: None,
            segment: (original.protocol == IpProtocol::TCP).then_some(segment),
        };
        match table.claim(&new, Tick::from_seconds(self.now)) {
            Ok(claimed) => {
                assert!(there == (false, false) || was_full, "{there:?}");
                let found = self.table.v4().lookup(&original).expect("claimed just now");
                assert_eq!(found.id, claimed.original);
                self.twins.insert(original, reply);
                self.twins.insert(reply, original);
            }
            Err(ClaimError::Loop) => assert_eq!(original, reply),
            Err(ClaimError::ReplyTaken) => assert!(there.1),
            Err(ClaimError::Raced) => assert!(there.0),
            Err(ClaimError::Full) => assert_eq!(table.len(), CONNECTIONS),
            Err(ClaimError::PodCap) => assert!(new.opener.is_some()),
            Err(ClaimError::TcpInvalid) => assert_eq!(original.protocol, IpProtocol::TCP),
        }
        for port in (0..4).filter_map(PortId::new) {
            assert!(self.table.opened_by(port) <= PER_POD);
        }
    }

    /// Looks a tuple up; what is found was claimed, and leaves as it was claimed to.
    fn lookup(&self, tuple: TupleV4) -> Option<Flow<Ipv4Addr>> {
        let flow = self.table.v4().lookup(&tuple)?;
        let twin = self.twins.get(&tuple).expect("found, and never claimed");
        let leaves = flow
            .rewrite
            .map_or(tuple, |rewrite| rewrite.tuple(tuple.protocol, tuple.network));
        assert_eq!(leaves, twin.reversed());
        let connection = self.table.v4().connection(flow.id).expect("found just now");
        assert!(connection.original == tuple || connection.reply == tuple);
        Some(flow)
    }

    /// Uses a flow that was read before: what is another's by now stays as it is.
    fn use_held(&mut self, segment: TcpSegment) {
        let Some((tuple, flow)) = self.held.take() else {
            return;
        };
        let table = self.table.v4();
        let is_there = self
            .lookup(tuple)
            .is_some_and(|now| now.id.record() == flow.id.record());
        let verdict = table.track_tcp(flow.id, &segment);
        if verdict == TcpVerdict::Gone {
            table.touch_in(&flow, Tick::from_seconds(self.now), Epoch(1));
            assert!(!table.remove(flow.id));
            assert!(table.connection(flow.id).is_none());
        } else {
            assert!(is_there, "a record that another has was changed");
        }
    }

    /// The table is empty for the next run, and nothing has been lost.
    fn settle(&self) {
        let table = self.table.v4();
        let count = table.connections().count();
        assert_eq!(count, table.len() as usize);
        assert_eq!(table.remove_where(|_| true) as usize, count);
        assert!(table.is_empty());
        for port in (0..4).filter_map(PortId::new) {
            assert_eq!(self.table.opened_by(port), 0, "charged for nothing");
        }
    }
}
