use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// One thing done to the table. Tuples are drawn from few numbers, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Claim { original: (u8, u8), reply: (u8, u8) },
    Lookup(u8, u8),
    Touch(u8, u8),
    Answer(u8, u8, u16),
    Remove(u8, u8),
    Later(u8),
    Sweep(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let end = || (0..6_u8, 0..4_u8);
    prop_oneof![
        4 => (end(), end()).prop_map(|(original, reply)| Step::Claim { original, reply }),
        3 => end().prop_map(|(a, b)| Step::Lookup(a, b)),
        2 => end().prop_map(|(a, b)| Step::Touch(a, b)),
        2 => (end(), any::<u16>()).prop_map(|((a, b), peer)| Step::Answer(a, b, peer)),
        1 => end().prop_map(|(a, b)| Step::Remove(a, b)),
        1 => (0..40_u8).prop_map(Step::Later),
        1 => (0..20_u8).prop_map(Step::Sweep),
    ]
}

/// A tuple by two small numbers; some are the reverse of others.
fn small<A: Numbered>((a, b): (u8, u8)) -> Tuple<A> {
    let forward = udp((u32::from(a % 3), 1000), (100 + u32::from(b), 80));
    if a < 3 { forward } else { forward.reversed() }
}

/// What the table is to hold, as plainly as can be said.
#[derive(Default)]
struct Model<A> {
    connections: Vec<Expected<A>>,
    by_tuple: HashMap<Tuple<A>, usize>,
}

#[derive(Clone)]
struct Expected<A> {
    tuples: [Tuple<A>; 2],
    seen: [Tick; 2],
    peers: [Option<u16>; 2],
    is_gone: bool,
}

impl<A: Numbered> Model<A> {
    fn claim(&mut self, original: Tuple<A>, reply: Tuple<A>, now: Tick) -> Result<(), ClaimError> {
        if original == reply {
            return Err(ClaimError::Loop);
        }
        if let Some(holder) = self.by_tuple.get(&reply) {
            let holder = &self.connections[*holder].tuples;
            let twin = if holder[0] == reply { holder[1] } else { holder[0] };
            return Err(if twin == original {
                ClaimError::Raced
            } else {
                ClaimError::ReplyTaken
            });
        }
        if self.by_tuple.contains_key(&original) {
            return Err(ClaimError::Raced);
        }
        for tuple in [original, reply] {
            self.by_tuple.insert(tuple, self.connections.len());
        }
        self.connections.push(Expected {
            tuples: [original, reply],
            seen: [now, Tick::NEVER],
            peers: [None, None],
            is_gone: false,
        });
        Ok(())
    }

    fn find(&mut self, tuple: &Tuple<A>) -> Option<(&mut Expected<A>, usize)> {
        let connection = &mut self.connections[*self.by_tuple.get(tuple)?];
        let direction = usize::from(connection.tuples[0] != *tuple);
        Some((connection, direction))
    }

    fn remove(&mut self, tuple: &Tuple<A>) -> bool {
        let Some((connection, _)) = self.find(tuple) else {
            return false;
        };
        connection.is_gone = true;
        let tuples = connection.tuples;
        tuples.iter().for_each(|tuple| {
            self.by_tuple.remove(tuple);
        });
        true
    }

    fn expire(&mut self, now: Tick, timeouts: &Timeouts) -> u32 {
        let is_over = |c: &Expected<A>| {
            let timeout = if c.seen[1].is_never() {
                timeouts.udp_s
            } else {
                timeouts.udp_replied_s
            };
            !c.is_gone && now.since(c.seen[0].latest(c.seen[1])) > timeout
        };
        let over: Vec<_> = self
            .connections
            .iter()
            .filter(|c| is_over(c))
            .map(|c| c.tuples[0])
            .collect();
        over.iter().map(|tuple| u32::from(self.remove(tuple))).sum()
    }
}

fn check<A: Numbered>(shard: &FlowShard<A>, model: &mut Model<A>, tuple: &Tuple<A>) {
    let flow = shard.lookup(tuple);
    let Some((expected, direction)) = model.find(tuple) else {
        assert!(flow.is_none(), "{tuple} is found and is not there");
        return;
    };
    let flow = flow.unwrap();
    let leaving = expected.tuples[1 - direction].reversed();
    assert_eq!(
        flow.rewrite
            .map_or(*tuple, |rewrite| rewrite.tuple(tuple.protocol, tuple.network)),
        leaving
    );
    assert_eq!(flow.last_seen, expected.seen[direction]);
    assert_eq!(flow.id.direction() as usize, direction);
    let peer = flow.answer.map(|answer| answer.onward);
    assert_eq!(
        peer,
        expected.peers[direction].map(|peer| Onward::Peer(PeerId::new(peer)))
    );
}

fn run<A: Numbered>(steps: &[Step]) {
    let table = table(64);
    let (shard, timeouts) = (A::shard(&table), Timeouts::default());
    let mut model = Model::<A> {
        connections: Vec::new(),
        by_tuple: HashMap::new(),
    };
    let (mut now, mut cursor) = (at(1000), shard.cursor(0, 1));
    for step in steps {
        match *step {
            Step::Claim { original, reply } => {
                let (original, reply) = (small::<A>(original), small::<A>(reply));
                let new = New {
                    reply,
                    ..plain(original)
                };
                let claimed = shard.claim(&new, now).map(|_| ());
                assert_eq!(claimed, model.claim(original, reply, now), "{original}, {reply}");
            }
            Step::Lookup(a, b) => check(shard, &mut model, &small((a, b))),
            Step::Touch(a, b) => {
                let tuple = small((a, b));
                if let Some((expected, direction)) = model.find(&tuple) {
                    shard.touch(&shard.lookup(&tuple).unwrap(), now);
                    expected.seen[direction] = now;
                }
            }
            Step::Answer(a, b, peer) => {
                let tuple = small((a, b));
                if let Some((expected, direction)) = model.find(&tuple) {
                    let flow = shard.lookup(&tuple).unwrap();
                    let answer = Answer {
                        onward: Onward::Peer(PeerId::new(peer)),
                        ..answer(u32::from(peer))
                    };
                    assert!(shard.store_answer(flow.id, &answer));
                    expected.peers[direction] = Some(peer);
                }
            }
            Step::Remove(a, b) => {
                let tuple = small((a, b));
                let removed = shard.lookup(&tuple).is_some_and(|flow| shard.remove(flow.id));
                assert_eq!(removed, model.remove(&tuple));
            }
            Step::Later(seconds) => now = at(now.seconds() + u32::from(seconds)),
            Step::Sweep(budget) => {
                // A whole round, in pieces.
                let (mut expired, mut is_round) = (0, false);
                cursor.next = cursor.first;
                while !is_round {
                    let swept = shard.sweep(&mut cursor, u32::from(budget) + 1, now, &timeouts);
                    expired += swept.expired;
                    is_round = swept.is_round;
                }
                assert_eq!(expired, model.expire(now, &timeouts));
            }
        }
        assert_eq!(shard.len() as usize * 2, model.by_tuple.len());
    }
    for a in 0..6 {
        for b in 0..4 {
            check(shard, &mut model, &small((a, b)));
        }
    }
    assert_eq!(shard.connections().count() * 2, model.by_tuple.len());
}

proptest! {
    #[test]
    fn the_table_does_as_a_map_would(steps in prop::collection::vec(step(), 1..200)) {
        run::<Ipv4Addr>(&steps);
        run::<Ipv6Addr>(&steps);
    }
}
