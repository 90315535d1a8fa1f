//! Nodes and their server in memory. Times are long enough for a machine that is busy: what is asked is that things come
//! about, not how fast.

use std::collections::BTreeMap;
use std::net::IpAddr;

use millrace_dataplane::wire::MacAddr;

use super::super::{Held, NodeLease};
use super::*;
use crate::balancer::aside::{Claim, Claims};
use crate::objects::ServiceKey;

/// What the server has.
#[derive(Default)]
struct Server {
    leases: BTreeMap<NodeName, NodeLease>,
    leader: Option<Held>,
    writes: u64,
    ingress: BTreeMap<ServiceKey, Vec<IpAddr>>,
    is_away: bool,
    /// So many writes of a status fail.
    failures: u32,
}

/// A server in memory.
#[derive(Default)]
struct Memory(Mutex<Server>);

impl Memory {
    fn with<R>(&self, work: impl FnOnce(&mut Server) -> R) -> R {
        work(&mut self.0.lock().unwrap())
    }

    fn asked<R>(&self, work: impl FnOnce(&mut Server) -> Result<R, BoardError>) -> Result<R, BoardError> {
        self.with(|server| {
            if server.is_away {
                return Err(BoardError::Other("nobody answers".to_owned()));
            }
            server.writes += 1;
            work(server)
        })
    }
}

impl Board for Memory {
    async fn leases(&self) -> Result<Vec<NodeLease>, BoardError> {
        self.asked(|server| Ok(server.leases.values().cloned().collect()))
    }

    async fn renew(&self, own: &NodeName, said: &Said, _: Duration) -> Result<(), BoardError> {
        self.asked(|server| {
            let lease = NodeLease {
                node: own.clone(),
                version: server.writes.to_string(),
                renewed_s: 0,
                said: said.clone(),
            };
            server.leases.insert(own.clone(), lease);
            Ok(())
        })
    }

    async fn leader(&self) -> Result<Option<Held>, BoardError> {
        self.asked(|server| Ok(server.leader.clone()))
    }

    async fn lead(&self, own: &NodeName, seen: Option<&Held>) -> Result<(), BoardError> {
        self.asked(|server| {
            if server.leader.as_ref() != seen {
                return Err(BoardError::Conflict);
            }
            server.leader = Some(Held {
                holder: own.to_string(),
                version: server.writes.to_string(),
            });
            Ok(())
        })
    }

    async fn set_ingress(&self, service: &ServiceKey, addresses: &[IpAddr]) -> Result<(), BoardError> {
        self.asked(|server| {
            if server.failures > 0 {
                server.failures -= 1;
                return Err(BoardError::Other("not now".to_owned()));
            }
            if service.name() == "gone" {
                return Err(BoardError::Gone);
            }
            server.ingress.insert(service.clone(), addresses.to_vec());
            Ok(())
        })
    }
}

/// A node that runs until it is dropped.
struct Node {
    name: &'static str,
    orders: mpsc::Sender<Order>,
    members: watch::Receiver<Arc<Members>>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start(name: &'static str, board: &Arc<Memory>) -> Self {
        let (orders, received) = mpsc::channel(16);
        let (sender, members) = watch::channel(Arc::default());
        let options = Options {
            own: NodeName::new(name).unwrap(),
            lease: Duration::from_millis(800),
        };
        let task = tokio::spawn(run(Arc::clone(board), options, received, sender));
        Self {
            name,
            orders,
            members,
            task,
        }
    }

    async fn sees(&self, wanted: &[&str]) {
        let is_so = |members: &Arc<Members>| {
            let living: Vec<&str> = members.living.keys().map(NodeName::as_str).collect();
            living == wanted && !members.is_cut_off
        };
        self.awaits(&format!("{wanted:?}"), is_so).await;
    }

    async fn awaits(&self, what: &str, is_so: impl FnMut(&Arc<Members>) -> bool) {
        let mut members = self.members.clone();
        let seen = timeout(Duration::from_secs(60), members.wait_for(is_so))
            .await
            .map(|seen| seen.is_ok());
        assert_eq!(
            seen,
            Ok(true),
            "{} never sees {what}: {:?}",
            self.name,
            self.members.borrow()
        );
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work);
}

async fn until(board: &Memory, what: &str, is_so: impl Fn(&Server) -> bool) {
    for _ in 0..6000 {
        if board.with(|server| is_so(server)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never comes to {what}");
}

#[test]
fn nodes_see_each_other_come_and_go() {
    block_on(async {
        let board = Arc::new(Memory::default());
        let (a, b) = (Node::start("a", &board), Node::start("b", &board));
        a.sees(&["a", "b"]).await;
        b.sees(&["a", "b"]).await;
        let claim = Claim {
            by: MacAddr([2, 0, 0, 0, 0, 9]),
            is_announced: false,
        };
        let claims = Claims::from([("192.0.2.9".parse().unwrap(), claim)]);
        b.orders
            .send(Order::Say(Said {
                mac: Some([2, 0, 0, 0, 0, 7]),
                claims: claims.clone(),
            }))
            .await
            .unwrap();
        let b_name = NodeName::new("b").unwrap();
        a.awaits("its link address and what it heard", |members| {
            members.mac_of(&b_name).is_some() && members.claims == claims
        })
        .await;
        b.task.abort();
        a.sees(&["a"]).await;
        assert_eq!(a.members.borrow().claims, Claims::new(), "nobody vouches for it");
        let c = Node::start("b", &board);
        a.sees(&["a", "b"]).await;
        drop(c.orders);
        // Nobody gives orders any more: it ends by itself.
        assert!(timeout(Duration::from_secs(60), c.task).await.is_ok());
    });
}

#[test]
fn while_the_server_is_away_nobody_dies() {
    block_on(async {
        let board = Arc::new(Memory::default());
        let (a, b) = (Node::start("a", &board), Node::start("b", &board));
        a.sees(&["a", "b"]).await;
        b.sees(&["a", "b"]).await;
        board.with(|server| server.is_away = true);
        for node in [&a, &b] {
            node.awaits("that it is cut off", |members| members.is_cut_off)
                .await;
            // Longer than anybody would live otherwise.
            tokio::time::sleep(Duration::from_millis(1200)).await;
            assert_eq!(node.members.borrow().living.len(), 2);
        }
        board.with(|server| server.is_away = false);
        a.sees(&["a", "b"]).await;
        b.sees(&["a", "b"]).await;
    });
}

#[test]
fn one_leads_and_what_it_gives_out_is_written() {
    block_on(async {
        let board = Arc::new(Memory::default());
        let a = Node::start("a", &board);
        a.awaits("that it leads", |members| members.leads).await;
        let b = Node::start("b", &board);
        b.sees(&["a", "b"]).await;
        assert!(!b.members.borrow().leads);
        board.with(|server| server.failures = 1);
        let key = |name: &str| ServiceKey::new("default", name).unwrap();
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let ingress = BTreeMap::from([(key("gone"), vec![address]), (key("web"), vec![address])]);
        a.orders.send(Order::Ingress(ingress)).await.unwrap();
        until(&board, "a status", |server| server.ingress.len() == 1).await;
        board.with(|server| assert_eq!(server.ingress[&key("web")], [address]));
    });
}
