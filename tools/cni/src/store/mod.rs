//! The store of addresses: who has which, kept so that none is ever two containers'.
//!
//! An attachment's addresses, of both families, are in one file. It is written beside, made durable and renamed, so that it
//! is there whole or not at all, and [`Store::reserve`] answers only after it is durable. Whoever uses the store has a
//! lock on its folder. What is freed is not given out again before all others were (`.last` says how far we are), so
//! that what still goes to a pod that is gone does not reach a new one.
//!
//! What an earlier boot of the machine wrote down is void: no network namespace outlives a boot.

mod choose;
pub mod disk;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub use choose::Pools;
use disk::Disk;

/// How far the round of addresses has come; only a hint, of which nothing depends but how soon one is given again.
const LAST: &str = ".last";
/// What is being written; left by a kill, it is written over.
const NEW: &str = ".new";

/// By what an attachment is told from all others (CNI 1.1, section 2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The network's name.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface's name.
    pub interface: String,
}

impl Owner {
    /// The name of its file: neither network nor container can have an `@`.
    fn file(&self) -> String {
        format!("{}@{}@{}", self.network, self.container, self.interface)
    }
}

/// What is written down of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    #[serde(flatten)]
    pub owner: Owner,
    /// The pod, `NAMESPACE/NAME`, for whoever reads the file.
    pub pod: String,
    /// The path of its network namespace.
    pub netns: String,
    /// Its addresses, one of each family.
    pub addresses: Vec<IpAddr>,
    /// In which boot of the machine it was written down.
    pub boot: String,
}

/// The last address of each family that was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

/// Why the store does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {doing} in the store of addresses {place}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// The folder.
        place: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that nobody can have written.
    #[error(
        "{file} in the store of addresses {place} does not read ({source}); remove it once its container is gone"
    )]
    Format {
        /// The file.
        file: String,
        /// The folder.
        place: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// All are taken.
    #[error("no {family} address is left in {cidrs}: {taken} are taken")]
    Exhausted {
        /// IPv4 or IPv6.
        family: &'static str,
        /// Where was looked.
        cidrs: String,
        /// How many are taken.
        taken: usize,
    },
    /// An address that was asked for cannot be had.
    #[error("{address} cannot be had: {why}")]
    Unfit {
        /// The address.
        address: IpAddr,
        /// The reason.
        why: String,
    },
}

/// What an attachment is to get.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Where addresses are from.
    pub pools: &'a Pools,
    /// Addresses that are asked for, at most one of a family.
    pub addresses: &'a [IpAddr],
}

/// The store, locked.
#[derive(Debug)]
pub struct Store<D> {
    disk: D,
    boot: String,
}

impl<D: Disk> Store<D> {
    /// The store on a disk, in this boot of the machine.
    pub fn new(disk: D, boot: impl Into<String>) -> Self {
        Self {
            disk,
            boot: boot.into(),
        }
    }

    /// All that is written down and not void.
    ///
    /// # Errors
    /// [`StoreError`]; a file that does not read is one, since an address of it could be given twice else.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        let all = self.all()?.into_iter();
        Ok(all.filter(|record| record.boot == self.boot).collect())
    }

    /// What is written down of an attachment.
    ///
    /// # Errors
    /// As [`Self::records`].
    pub fn find(&self, owner: &Owner) -> Result<Option<Record>, StoreError> {
        let record = self.read(&owner.file())?;
        Ok(record.filter(|record| record.owner == *owner && record.boot == self.boot))
    }

    /// Gives an attachment its addresses, one of each family that there are pools of; those that it has already, if they
    /// are from these pools and what is asked for. Says whether they were given now.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is given then.
    pub fn reserve(&mut self, blank: Record, wish: Wish<'_>) -> Result<(Record, bool), StoreError> {
        let all = self.all()?;
        let (mine, others): (Vec<Record>, Vec<Record>) =
            all.into_iter().partition(|record| record.owner == blank.owner);
        let (others, void): (Vec<Record>, Vec<Record>) =
            others.into_iter().partition(|other| other.boot == self.boot);
        if let Some(mine) = mine
            .into_iter()
            .find(|mine| mine.boot == self.boot && wish.is_met_by(mine))
        {
            return Ok((mine, false));
        }
        for record in &void {
            self.remove(&record.owner.file())?;
        }
        let taken: BTreeSet<IpAddr> = others
            .iter()
            .flat_map(|record| &record.addresses)
            .copied()
            .collect();
        let mut last = self.last();
        let mut addresses = Vec::new();
        for is_ipv4 in [true, false] {
            let asked = wish.addresses.iter().find(|address| address.is_ipv4() == is_ipv4);
            let address = match asked {
                Some(asked) => Some(wish.pools.check(*asked, &taken)?),
                None => wish
                    .pools
                    .next(is_ipv4, last.of(is_ipv4), &taken)?
                    .inspect(|chosen| last.set(*chosen)),
            };
            addresses.extend(address);
        }
        // Before it is given: were it after, a kill in between would have it given again at once.
        if last != self.last() {
            self.write(LAST, &last)?;
        }
        let record = Record {
            addresses,
            boot: self.boot.clone(),
            ..blank
        };
        self.write(&record.owner.file(), &record)?;
        Ok((record, true))
    }

    /// Takes an attachment's addresses back; says whether it had any.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn release(&mut self, owner: &Owner) -> Result<bool, StoreError> {
        let file = owner.file();
        let is_there = self.names()?.contains(&file);
        if is_there {
            self.remove(&file)?;
        }
        Ok(is_there)
    }

    /// Sees whether an attachment more could be given addresses.
    ///
    /// # Errors
    /// [`StoreError::Exhausted`], or as [`Self::records`].
    pub fn has_room(&self, pools: &Pools) -> Result<(), StoreError> {
        let records = self.records()?;
        let taken: BTreeSet<IpAddr> = records
            .iter()
            .flat_map(|record| &record.addresses)
            .copied()
            .collect();
        for is_ipv4 in [true, false] {
            pools.next(is_ipv4, None, &taken)?;
        }
        Ok(())
    }

    fn all(&self) -> Result<Vec<Record>, StoreError> {
        let mut all = Vec::new();
        for name in self.names()? {
            all.extend(self.read(&name)?);
        }
        Ok(all)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let names = self.disk.list().map_err(|source| self.system("look", source))?;
        Ok(names.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    fn read(&self, name: &str) -> Result<Option<Record>, StoreError> {
        let bytes = self
            .disk
            .read(name)
            .map_err(|source| self.system(&format!("read {name}"), source))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let record = serde_json::from_slice(&bytes);
        record.map(Some).map_err(|source| StoreError::Format {
            file: name.to_owned(),
            place: self.disk.place(),
            source,
        })
    }

    fn last(&self) -> Last {
        let bytes = self.disk.read(LAST).ok().flatten();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Writes a file so that a kill, or the end of power, leaves the old or the new one, whole; durable once it returns.
    fn write(&mut self, name: &str, content: &impl Serialize) -> Result<(), StoreError> {
        let mut write = || {
            let bytes = serde_json::to_vec(content)?;
            self.disk.write(NEW, &bytes)?;
            self.disk.sync_file(NEW)?;
            self.disk.rename(NEW, name)?;
            self.disk.sync_folder()
        };
        write().map_err(|source| self.system(&format!("write {name}"), source))
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        let removed = self.disk.remove(name).and_then(|()| self.disk.sync_folder());
        removed.map_err(|source| self.system(&format!("remove {name}"), source))
    }

    fn system(&self, doing: &str, source: io::Error) -> StoreError {
        StoreError::System {
            doing: doing.to_owned(),
            place: self.disk.place(),
            source,
        }
    }
}

impl Wish<'_> {
    /// Whether what somebody has is what it would get.
    fn is_met_by(&self, record: &Record) -> bool {
        let families = |is_ipv4: bool| {
            record
                .addresses
                .iter()
                .filter(move |address| address.is_ipv4() == is_ipv4)
        };
        let has_all = [true, false]
            .into_iter()
            .all(|is_ipv4| usize::from(self.pools.has_family(is_ipv4)) == families(is_ipv4).count());
        has_all
            && self
                .addresses
                .iter()
                .all(|asked| record.addresses.contains(asked))
            && record.addresses.iter().all(|address| self.pools.holds(*address))
    }
}

impl Last {
    fn of(&self, is_ipv4: bool) -> Option<IpAddr> {
        if is_ipv4 {
            self.v4.map(IpAddr::V4)
        } else {
            self.v6.map(IpAddr::V6)
        }
    }

    fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.v4 = Some(v4),
            IpAddr::V6(v6) => self.v6 = Some(v6),
        }
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
