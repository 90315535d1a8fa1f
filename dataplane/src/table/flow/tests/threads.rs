use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::*;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) as u32) % limit
    }
}

/// Several workers claim, answer, remove and read few tuples in a small table, and evict each other's: whatever is read
/// belongs together.
#[test]
fn workers_that_get_in_each_others_way_never_read_what_was_never_there() {
    const WORKERS: u64 = 3;
    const CLIENTS: u32 = 96;
    const STEPS: u32 = 150_000;
    let table = table(64);
    let shard = table.v4();
    let hits = AtomicU32::new(0);
    let work = |seed: u64| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed << 17);
        for step in 0..STEPS {
            let client = random.below(CLIENTS);
            let new = New {
                reply: udp((9_000_000 + client, 8080), (client, 40_000)),
                ..balanced::<Ipv4Addr>(client)
            };
            let now = at(1 + step / 100);
            match random.below(8) {
                0 | 1 => drop(shard.claim(&new, now)),
                2 => drop(shard.lookup(&new.reply).map(|flow| shard.remove(flow.id))),
                _ => {
                    let tuple = if client.is_multiple_of(2) {
                        new.original
                    } else {
                        new.reply
                    };
                    let Some(flow) = shard.lookup(&tuple) else {
                        continue;
                    };
                    hits.fetch_add(1, Ordering::Relaxed);
                    let twin = if client.is_multiple_of(2) {
                        new.reply
                    } else {
                        new.original
                    };
                    assert_eq!(
                        flow.rewrite.unwrap().tuple(twin.protocol, twin.network),
                        twin.reversed()
                    );
                    if let Some(answer) = flow.answer {
                        let Onward::Peer(peer) = answer.onward else {
                            panic!("{answer:?}")
                        };
                        assert_eq!(peer.index() as u32, client, "another's answer");
                        assert_eq!(answer.subjects[1], SubjectId::backend(answer.epoch.0 % 1000));
                    }
                    shard.touch(&flow, now);
                    let epoch = step + 1;
                    let answer = Answer {
                        onward: Onward::Peer(PeerId::new(client as u16)),
                        subjects: [
                            SubjectId::ROUTES,
                            SubjectId::backend(epoch % 1000),
                            SubjectId::NONE,
                        ],
                        epoch: Epoch(epoch),
                    };
                    shard.store_answer(flow.id, &answer);
                    if let Some(connection) = shard.connection(flow.id) {
                        assert_eq!((connection.original, connection.reply), (new.original, new.reply));
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        for seed in 1..=WORKERS {
            scope.spawn(move || work(seed));
        }
    });
    assert!(hits.load(Ordering::Relaxed) > 1000, "they hardly met");
    // What is left is whole, and nothing was lost on the way.
    let mut cursor = shard.cursor(0, 1);
    while !shard.sweep(&mut cursor, 64, at(1), &Timeouts::default()).is_round {}
    assert_eq!(shard.connections().count() as u32, shard.len());
    shard.remove_where(|_| true);
    assert!(shard.is_empty());
    for client in 0..64 {
        shard.claim(&balanced(client + 1000), at(1)).unwrap();
    }
    assert_eq!(shard.len(), 64, "every record is there to be used");
}

/// Of two workers that claim the same reply tuple for different connections one gets it, every time.
#[test]
fn a_port_is_given_to_one() {
    const ROUNDS: u32 = 20_000;
    let table = table(256);
    let shard = table.v4();
    let (round, done) = (AtomicU32::new(0), AtomicU32::new(0));
    let won: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];
    thread::scope(|scope| {
        for worker in 0..2_u32 {
            let (round, done, won) = (&round, &done, &won[worker as usize]);
            scope.spawn(move || {
                for turn in 1..=ROUNDS {
                    while round.load(Ordering::Acquire) < turn {
                        thread::yield_now();
                    }
                    let new = New {
                        reply: udp((9_000_000, 8080), (77, (turn % 60_000) as u16)),
                        ..plain(udp((worker, (turn % 60_000) as u16), (1, 80)))
                    };
                    let claim = shard.claim(&new, at(1));
                    won.store(claim.is_ok(), Ordering::Release);
                    done.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        for turn in 1..=ROUNDS {
            round.store(turn, Ordering::Release);
            while done.load(Ordering::Acquire) < 2 * turn {
                thread::yield_now();
            }
            let winners = won.iter().filter(|won| won.load(Ordering::Acquire)).count();
            assert_eq!(winners, 1, "in round {turn}");
            let reply = udp((9_000_000, 8080), (77, (turn % 60_000) as u16));
            let flow = shard.lookup(&reply).unwrap();
            assert!(shard.remove(flow.id));
        }
    });
}
