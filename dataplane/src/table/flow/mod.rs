//! The flow table: every connection that the switch carries, both directions of it, for all workers.
//!
//! One table serves all workers. Its capacity is fixed and taken at the start; readers never wait, and nothing
//! allocates after it is made. A *connection* is one record with two entries: its *original* flow, as the first packet
//! went, and its *reply* flow. Each entry is found by the tuple that its packets carry when they arrive. A connection
//! is *claimed* by inserting its reply entry first: two workers that want the same tuple (a source-NAT port, say)
//! cannot both get it.
//!
//! The two families are two [`FlowShard`]s, each with a capacity of its own. A pipeline looks up a whole batch in
//! steps, so that the memory of one packet's flow arrives while another's is asked for:
//!
//! ```text
//! hash, prefetch_bucket   for every packet of the batch
//! find, prefetch_entry    for every packet of the batch
//! read, then the rest     for every packet of the batch
//! ```
//!
//! What a flow keeps: its [`Rewrite`], which never changes; the [`Answer`] that its first packet found, with the epoch
//! and the subjects that it rests on; when it was last seen. Handles only, never pointers or addresses of outer
//! headers.
//!
//! A connection takes 240 bytes in IPv4 and 368 in IPv6, index included. Time is an argument, in [`Tick`]s.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::port::PortId;
use crate::table::{Epoch, HashKey, NetworkId, Tick};

mod answer;
mod charge;
mod claim;
mod expire;
mod file;
#[allow(clippy::module_inception)]
mod flow;
mod glance;
mod protocol;
mod rewrite;
mod shard;
mod store;
mod tcp;
mod timeout;
mod tuple;

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss
)]
mod tests;

pub use answer::{Answer, Freshness, Onward, SUBJECTS_MAX};
pub use file::{Adopted, FileRefusal, LAYOUT_VERSION};
pub use flow::{
    Binding, Candidate, ClaimError, Claimed, Connection, Flow, FlowId, Hash, New, SweepCursor, Swept,
};
pub use glance::{FlowMemory, Glance, KeyV4, Spot};
pub use protocol::ProtocolState;
pub use rewrite::Rewrite;
pub use shard::FlowShard;
pub use tcp::{SCALE_MAX, TcpSegment, TcpState, TcpVerdict};
pub use timeout::Timeouts;
pub use tuple::{Address, Direction, Tuple, TupleV4, TupleV6};

use charge::Charges;
use file::FlowFile;
use store::Memory;
pub(super) use store::prefetch;

/// How a table is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowOptions {
    /// Connections of IPv4 that there is room for.
    pub ipv4: u32,
    /// Connections of IPv6 that there is room for.
    pub ipv6: u32,
    /// Connections that one pod may have open at once, both families together; 0 for as many as there is room for.
    pub per_pod: u32,
    /// Whether TCP connections are taken up in their middle, as is needed after a restart without a flow file.
    pub loose: bool,
}

impl FlowOptions {
    /// The most connections of one family.
    pub const CONNECTIONS_MAX: u32 = store::CAPACITY_MAX;
}

impl Default for FlowOptions {
    fn default() -> Self {
        Self {
            ipv4: 1 << 20,
            ipv6: 1 << 18,
            per_pod: 0,
            loose: true,
        }
    }
}

/// Why a flow table could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FlowTableError {
    /// A capacity that makes no sense.
    #[error("a flow table for {connections} connections of {family}: 1 to {max} are possible", max = FlowOptions::CONNECTIONS_MAX)]
    Capacity {
        /// Which family's.
        family: &'static str,
        /// What was asked for.
        connections: u32,
    },
    /// No memory.
    #[error("cannot map memory for {connections} connections: {source}")]
    Map {
        /// How many.
        connections: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be made, read or replaced.
    #[error("cannot {what} the flow file {path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the file.
    #[error("the flow file {path} is in use by another process", path = path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
}

/// The flow table of a node, shared by all workers in an `Arc`.
#[derive(Debug)]
pub struct FlowTable {
    v4: FlowShard<Ipv4Addr>,
    v6: FlowShard<Ipv6Addr>,
    charges: Arc<Charges>,
    /// Where the records are, if they are to outlive the process.
    file: Option<FlowFile>,
    first_epoch: Epoch,
}

impl FlowTable {
    /// A table in memory that ends with the process.
    ///
    /// # Errors
    /// [`FlowTableError::Capacity`], [`FlowTableError::Map`].
    pub fn in_memory(options: &FlowOptions) -> Result<Self, FlowTableError> {
        Self::in_memory_with(options, HashKey::random())
    }

    /// The same with this secret: two tables with one secret give the same ports to the same connections, and can be
    /// compared.
    ///
    /// # Errors
    /// [`FlowTableError::Capacity`], [`FlowTableError::Map`].
    pub fn in_memory_with(options: &FlowOptions, key: HashKey) -> Result<Self, FlowTableError> {
        check(options)?;
        let map = |connections, words| {
            Memory::anonymous(words).map_err(|source| FlowTableError::Map { connections, source })
        };
        let v4 = map(options.ipv4, FlowShard::<Ipv4Addr>::slab_words(options.ipv4))?;
        let v6 = map(options.ipv6, FlowShard::<Ipv6Addr>::slab_words(options.ipv6))?;
        Self::over(v4, v6, options, key)
    }

    /// An empty table over slabs for both families.
    fn over(v4: Memory, v6: Memory, options: &FlowOptions, key: HashKey) -> Result<Self, FlowTableError> {
        let charges = Arc::new(Charges::new(options.per_pod));
        let failed = |connections| move |source| FlowTableError::Map { connections, source };
        Ok(Self {
            v4: FlowShard::new(v4, options.ipv4, options.loose, Arc::clone(&charges), key)
                .map_err(failed(options.ipv4))?,
            v6: FlowShard::new(v6, options.ipv6, options.loose, Arc::clone(&charges), key)
                .map_err(failed(options.ipv6))?,
            charges,
            file: None,
            first_epoch: Epoch::default().next(),
        })
    }

    /// A table in the file `path`, with the connections of the process that had it before.
    ///
    /// The file is best in a file system in memory: what is written to one on a disk is written to the disk, too, every
    /// few seconds. `boot` tells one start of the machine from another (made from
    /// `/proc/sys/kernel/random/boot_id`, say): the ticks of an earlier one mean nothing now. What stands in `path` and
    /// cannot be read is replaced, and [`Adopted`] says why. A file of other capacities is read like any.
    ///
    /// What was seen after `now`, by a clock that went wrong, counts as seen now. No answer and no opener is taken over,
    /// since the numbers of ports, peers and neighbours were another process's: call [`Self::assign_openers`] next. Networks
    /// are taken to have the numbers that they had; who gives them others has their connections removed first.
    ///
    /// # Errors
    /// [`FlowTableError`].
    pub fn open(
        path: &Path,
        boot: u64,
        options: &FlowOptions,
        now: Tick,
    ) -> Result<(Self, Adopted), FlowTableError> {
        check(options)?;
        file::open(path, boot, options, now)
    }

    /// The flows of IPv4.
    #[inline]
    #[must_use]
    pub fn v4(&self) -> &FlowShard<Ipv4Addr> {
        &self.v4
    }

    /// The flows of IPv6.
    #[inline]
    #[must_use]
    pub fn v6(&self) -> &FlowShard<Ipv6Addr> {
        &self.v6
    }

    /// The first epoch that a process with this table may publish: all that an earlier one remembered are before it.
    #[must_use]
    pub fn first_epoch(&self) -> Epoch {
        self.first_epoch
    }

    /// Remembers that `epoch` is about to be published, for whoever opens the file next. Called before it is.
    pub fn remember_epoch(&self, epoch: Epoch) {
        if let Some(file) = &self.file {
            file.remember(epoch);
        }
    }

    /// How many connections the pod behind a port has open.
    #[must_use]
    pub fn opened_by(&self, port: PortId) -> u32 {
        self.charges.of(port)
    }

    /// Charges the connections that are charged to nobody to the pod that has, in their network, the address they were opened
    /// from, also beyond its cap. Looks at every connection.
    pub fn assign_openers(&self, owner: impl Fn(NetworkId, IpAddr) -> Option<PortId>) {
        self.v4.charge_anew(|c| {
            c.opener
                .or_else(|| owner(c.original.network, c.original.source.into()))
        });
        self.v6.charge_anew(|c| {
            c.opener
                .or_else(|| owner(c.original.network, c.original.source.into()))
        });
    }

    /// Charges nothing to `port` any more: its pod is gone, and the number may be another's soon. What the pod had in
    /// protocols without ports is over: as long as that lasts, no other can have the same remote. Looks at every
    /// connection.
    pub fn forget_opener(&self, port: PortId) {
        self.v4.forget_opener(port);
        self.v6.forget_opener(port);
    }
}

fn check(options: &FlowOptions) -> Result<(), FlowTableError> {
    for (family, connections) in [("IPv4", options.ipv4), ("IPv6", options.ipv6)] {
        if !(1..=FlowOptions::CONNECTIONS_MAX).contains(&connections) {
            return Err(FlowTableError::Capacity { family, connections });
        }
    }
    Ok(())
}
