//! The end of power, or a kill, between any two things that the store does with files.
//!
//! The model is harsher than a file system: of what was not synced, any part may be lost, in any order, contents apart from
//! names. And the boot stays the same, so that nothing is void: what was given before the end must still be known.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;

use super::tests::{blank, owner, pools};
use super::*;

/// A file's content: what is durable of it, and what would be there without an end.
#[derive(Debug, Clone, Default)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
}

/// A disk in memory.
#[derive(Debug, Default)]
struct Model {
    contents: Vec<Content>,
    /// Which file is under which name: durably, and now.
    durable: BTreeMap<String, usize>,
    now: BTreeMap<String, usize>,
    /// How many steps there are until the end; `None` for none.
    left: Option<u32>,
}

impl Model {
    /// A step that changes something; an error once the end has come.
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the end")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// What the next start finds: what is durable, and of the rest what the coin says. After a kill that is everything.
    fn restart(&mut self, coin: &mut dyn FnMut() -> bool) {
        self.left = None;
        for content in &mut self.contents {
            if !coin() {
                content.now = content.durable.clone();
            }
            content.durable = content.now.clone();
        }
        let names: BTreeSet<String> = self.durable.keys().chain(self.now.keys()).cloned().collect();
        for name in names {
            let from = if coin() { &self.now } else { &self.durable };
            let file = from.get(&name).copied();
            for names in [&mut self.now, &mut self.durable] {
                match file {
                    Some(file) => names.insert(name.clone(), file),
                    None => names.remove(&name),
                };
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Disc(Rc<RefCell<Model>>);

impl Disk for Disc {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().now.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let model = self.0.borrow();
        Ok(model.now.get(name).map(|file| model.contents[*file].now.clone()))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.step()?;
        model.contents.push(Content::default());
        let file = model.contents.len() - 1;
        model.now.insert(name.to_owned(), file);
        // It may come to its end half-way.
        model.contents[file].now = bytes[..bytes.len() / 2].to_vec();
        model.step()?;
        model.contents[file].now = bytes.to_vec();
        Ok(())
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.step()?;
        let file = model.now[name];
        model.contents[file].durable = model.contents[file].now.clone();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.step()?;
        let file = model.now.remove(from).unwrap();
        model.now.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.step()?;
        model.now.remove(name).unwrap();
        Ok(())
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        let mut model = self.0.borrow_mut();
        model.step()?;
        model.durable = model.now.clone();
        Ok(())
    }

    fn place(&self) -> String {
        "in memory".to_owned()
    }
}

/// What a runtime knows: who was told of which addresses, and has not asked for the end of it.
#[derive(Debug, Default)]
struct Runtime {
    has: BTreeMap<String, Vec<IpAddr>>,
}

/// One thing that a runtime asks for.
#[derive(Debug, Clone)]
enum Ask {
    Add(u8),
    Del(u8),
}

impl Runtime {
    /// Asks, and checks that nobody is given what another has. Says whether it went to its end.
    fn ask(&mut self, disc: &Disc, pools: &Pools, ask: &Ask) -> bool {
        let mut store = Store::new(disc.clone(), "boot");
        let (Ask::Add(number) | Ask::Del(number)) = ask;
        let container = format!("c{number}");
        match ask {
            Ask::Add(_) => {
                let wish = Wish {
                    pools,
                    addresses: &[],
                };
                match store.reserve(blank(&container), wish) {
                    Ok((record, _)) => {
                        for (other, addresses) in &self.has {
                            let is_shared =
                                addresses.iter().any(|address| record.addresses.contains(address));
                            assert!(
                                *other == container || !is_shared,
                                "{container} is given what {other} has"
                            );
                        }
                        let known = self.has.insert(container, record.addresses.clone());
                        assert!(
                            known.is_none_or(|known| known == record.addresses),
                            "given others the second time"
                        );
                        true
                    }
                    Err(StoreError::Exhausted { .. }) => true,
                    Err(StoreError::System { .. }) => false,
                    Err(other) => panic!("{other}"),
                }
            }
            Ask::Del(_) => {
                // From here on nobody counts on it, whether it goes to its end or not.
                self.has.remove(&container);
                store.release(&owner(&container)).is_ok()
            }
        }
    }

    /// Everything that was told is still known, and no address is anyone's twice.
    fn check(&self, disc: &Disc) {
        let records = Store::new(disc.clone(), "boot").records().unwrap();
        for (container, addresses) in &self.has {
            let record = records.iter().find(|record| record.owner == owner(container));
            assert_eq!(
                record.map(|record| &record.addresses),
                Some(addresses),
                "{container} is forgotten"
            );
        }
        let mut all: Vec<IpAddr> = records
            .iter()
            .flat_map(|record| record.addresses.clone())
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "an address is two containers'");
    }
}

fn asks() -> impl Strategy<Value = Vec<(Ask, Option<u32>)>> {
    let ask = prop_oneof![(0_u8..8).prop_map(Ask::Add), (0_u8..8).prop_map(Ask::Del)];
    proptest::collection::vec((ask, proptest::option::of(0_u32..14)), 1..40)
}

proptest! {
    #[test]
    fn no_address_is_given_twice_whatever_ends_when(asks in asks(), coins in proptest::collection::vec(any::<bool>(), 64), kill: bool) {
        let pools = pools(&["10.0.0.0/29", "fd00::/125"], &["10.0.0.0"]);
        let (disc, mut runtime, mut toss) = (Disc::default(), Runtime::default(), 0);
        for (ask, end) in asks {
            disc.0.borrow_mut().left = end;
            if !runtime.ask(&disc, &pools, &ask) {
                let mut coin = || {
                    toss += 1;
                    kill || coins[toss % coins.len()]
                };
                disc.0.borrow_mut().restart(&mut coin);
            }
            disc.0.borrow_mut().left = None;
            runtime.check(&disc);
        }
        // All that is there can go, and then all of it is free again.
        for number in 0..8 {
            assert!(runtime.ask(&disc, &pools, &Ask::Del(number)));
        }
        assert_eq!(Store::new(disc.clone(), "boot").records().unwrap(), []);
        for number in 0..7 {
            assert!(runtime.ask(&disc, &pools, &Ask::Add(number)));
        }
        prop_assert_eq!(runtime.has.len(), 7);
    }
}

#[test]
fn every_step_of_one_add_and_one_del_can_be_the_last() {
    let pools = pools(&["10.0.0.0/29", "fd00::/125"], &[]);
    for ask in [Ask::Add(1), Ask::Del(0)] {
        let mut ended = 0;
        for end in 0.. {
            let (disc, mut runtime) = (Disc::default(), Runtime::default());
            assert!(runtime.ask(&disc, &pools, &Ask::Add(0)));
            disc.0.borrow_mut().left = Some(end);
            let whole = runtime.ask(&disc, &pools, &ask);
            // The harshest end: all that is not durable is lost.
            disc.0.borrow_mut().restart(&mut || false);
            runtime.check(&disc);
            assert!(runtime.ask(&disc, &pools, &Ask::Add(2)));
            runtime.check(&disc);
            if whole {
                break;
            }
            ended += 1;
        }
        // Two files are written and one is removed, each in several steps.
        assert!(ended >= 2, "{ask:?} has {ended} steps");
    }
}
