//! Following the kernel: subscribe, read every table, then apply each event, and read anew what was lost.
//!
//! One socket carries both the events and the tables, so they arrive in the order in which the kernel made
//! them, and nothing falls between a table's reading and the first event. The only queue is the socket's
//! receive buffer: when it overflows, the kernel says so (`ENOBUFS`, netlink(7)) and all tables are read
//! anew, beside the known state, which stays as it was until then.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_APPEND, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, ParseableParametrized,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::error::{KernelError, Refusal};
use super::message;
use super::state::KernelState;
use super::subscription::{aligned_length, end_code, receive, subscribe, table_request};
use super::tables::{Change, Effect, Table};

/// A change is held back until none has followed for this long, ...
const QUIET_MS: u64 = 5;

/// ... but no longer than this.
const HOLD_MAX_MS: u64 = 50;

/// A table whose contents are in doubt is read anew this long after the doubt arose: doubts come in bursts.
const DOUBT_SETTLE_MS: u64 = 10;

/// And not sooner than this after it was last read, ...
const READ_INTERVAL_MS: u64 = 20;

/// ... nor than so many times as long as that reading took: of a large table it takes its share of the time, and no more.
const READ_INTERVAL_READINGS: u32 = 3;

/// After events were lost, the tables are read anew this much later: what made the buffer overflow may go on.
const LOSS_PAUSE_MS: u64 = 50;

/// Bytes read at once: more than the 32 KiB that the kernel puts into one part of a table.
const READ_BYTES: usize = 64 * 1024;

/// The most that the buffer grows to, for an interface that has very much to say (hundreds of virtual
/// functions).
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Message types of next-hop objects (`RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`): routes that use them change in
/// silence.
const NEXT_HOP_MESSAGES: std::ops::RangeInclusive<u16> = 104..=105;

/// Message types of links, addresses, routes and neighbours (`RTM_NEWLINK` to `RTM_GETNEIGH`).
const FOLLOWED_MESSAGES: std::ops::RangeInclusive<u16> = 16..=30;

/// A table being read.
#[derive(Debug)]
struct Reading {
    table: Table,
    sequence: u32,
    since: Instant,
    /// What was read so far, and the events since, in this table only.
    fresh: KernelState,
    /// The table changed in a way that may have hidden an entry from us (`NLM_F_DUMP_INTR`).
    interrupted: bool,
}

/// Keeps a [`KernelState`] equal to the kernel's configuration of one network namespace: the one the calling
/// thread was in at [`Self::start`].
pub struct KernelFollower {
    socket: TokioSocket,
    buffer: Vec<u8>,
    /// The buffer's size: all that one read can bring.
    read_bytes: usize,
    /// Our netlink address, by which answers to us are told from events caused by others.
    port: u32,
    sequence: u32,
    state: KernelState,
    reading: Option<Reading>,
    wanted: BTreeSet<Table>,
    /// Tables never read yet; empty once started.
    unread: BTreeSet<Table>,
    read_not_before: Instant,
    first_change: Option<Instant>,
    last_change: Instant,
    resyncs: u64,
}

impl std::fmt::Debug for KernelFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelFollower")
            .field("port", &self.port)
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

impl KernelFollower {
    /// Subscribes to the kernel's events and reads all tables. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`KernelError`] if the socket cannot be opened or a table cannot be read.
    pub async fn start() -> Result<Self, KernelError> {
        let socket = subscribe().map_err(|source| socket_error("subscribing to rtnetlink events", source))?;
        let mut address = SocketAddr::new(0, 0);
        socket
            .socket_ref()
            .get_address(&mut address)
            .map_err(|e| socket_error("reading a netlink address", e))?;
        let now = Instant::now();
        let mut follower = Self {
            socket,
            buffer: Vec::with_capacity(READ_BYTES),
            read_bytes: READ_BYTES,
            port: address.port_number(),
            sequence: 0,
            state: KernelState::default(),
            reading: None,
            wanted: Table::ALL.into_iter().collect(),
            unread: Table::ALL.into_iter().collect(),
            read_not_before: now,
            first_change: None,
            last_change: now,
            resyncs: 0,
        };
        while !follower.unread.is_empty() {
            follower.read_wanted_table().await?;
            follower.receive().await?;
        }
        follower.first_change = None;
        Ok(follower)
    }

    /// The state as known now.
    #[must_use]
    pub fn state(&self) -> &KernelState {
        &self.state
    }

    /// How often events were lost and all tables had to be read anew.
    #[must_use]
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// Waits until the state has changed, and returns it. Changes in quick succession are one.
    ///
    /// Dropping the future before it is ready loses nothing, so it can stand in a `select!`. While nobody
    /// waits, events pile up in the socket's buffer, which is bounded.
    ///
    /// # Errors
    /// [`KernelError::Socket`] if the socket fails for good.
    pub async fn next_change(&mut self) -> Result<&KernelState, KernelError> {
        loop {
            let now = Instant::now();
            if self.notice_at().is_some_and(|at| at <= now) {
                self.first_change = None;
                return Ok(&self.state);
            }
            if self.reading_at().is_some_and(|at| at <= now) {
                self.read_wanted_table().await?;
            }
            let wake = [self.notice_at(), self.reading_at()].into_iter().flatten().min();
            tokio::select! {
                biased;
                received = receive(&self.socket, &mut self.buffer) => self.take_received(received)?,
                () = sleep_until(wake) => {}
            }
        }
    }

    /// When the pending change, if there is one, is to be told.
    fn notice_at(&self) -> Option<Instant> {
        let first = self.first_change?;
        let quiet = self.last_change + Duration::from_millis(QUIET_MS);
        Some(quiet.min(first + Duration::from_millis(HOLD_MAX_MS)))
    }

    /// When the next table, if one is wanted and none is being read, is to be read.
    fn reading_at(&self) -> Option<Instant> {
        (self.reading.is_none() && !self.wanted.is_empty()).then_some(self.read_not_before)
    }

    /// Wants tables read (anew), soon.
    fn want(&mut self, tables: impl IntoIterator<Item = Table>) {
        if self.wanted.is_empty() {
            let settle = Instant::now() + Duration::from_millis(DOUBT_SETTLE_MS);
            self.read_not_before = self.read_not_before.max(settle);
        }
        self.wanted.extend(tables);
    }

    /// Asks for the first wanted table, unless one is being read: the kernel reads one at a time per socket.
    async fn read_wanted_table(&mut self) -> Result<(), KernelError> {
        if self.reading.is_some() {
            return Ok(());
        }
        let Some(table) = self.wanted.first().copied() else {
            return Ok(());
        };
        self.sequence = self.sequence.wrapping_add(1);
        let request = table_request(table, self.sequence);
        let sent = self.socket.send_to(&request, &SocketAddr::new(0, 0)).await;
        sent.map_err(|source| socket_error("asking for the kernel's tables", source))?;
        self.wanted.remove(&table);
        let fresh = KernelState::default();
        self.reading = Some(Reading {
            table,
            sequence: self.sequence,
            since: Instant::now(),
            fresh,
            interrupted: false,
        });
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), KernelError> {
        let received = receive(&self.socket, &mut self.buffer).await;
        self.take_received(received)
    }

    /// Takes what one read of the socket brought.
    fn take_received(&mut self, received: io::Result<()>) -> Result<(), KernelError> {
        match received {
            Ok(()) => {
                let mut buffer = std::mem::take(&mut self.buffer);
                let taken = self.take_messages(&buffer);
                buffer.clear();
                buffer.reserve_exact(self.read_bytes);
                self.buffer = buffer;
                taken
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                debug!("events of the kernel were lost; reading its tables anew");
                self.resyncs += 1;
                self.want(Table::ALL);
                self.read_not_before = Instant::now() + Duration::from_millis(LOSS_PAUSE_MS);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(source) => Err(socket_error("reading rtnetlink events", source)),
        }
    }

    fn take_messages(&mut self, mut bytes: &[u8]) -> Result<(), KernelError> {
        while !bytes.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(bytes) else {
                self.enlarge_buffer();
                return Ok(());
            };
            self.take_message(&message)?;
            bytes = bytes.get(aligned_length(&message)..).unwrap_or_default();
        }
        Ok(())
    }

    /// After a message that was cut off at the buffer's end: what it said has to be read anew, into a larger
    /// buffer.
    fn enlarge_buffer(&mut self) {
        if self.read_bytes >= READ_BYTES_MAX {
            warn!(
                bytes = self.read_bytes,
                "an rtnetlink message is longer than any should be and is left out"
            );
            return;
        }
        self.read_bytes *= 2;
        self.want(Table::ALL);
    }

    fn take_message(&mut self, message: &NetlinkBuffer<&[u8]>) -> Result<(), KernelError> {
        let answered = self
            .reading
            .as_ref()
            .filter(|reading| {
                message.port_number() == self.port && message.sequence_number() == reading.sequence
            })
            .map(|reading| reading.table);
        let kind = message.message_type();
        if let Some(table) = answered {
            if let Some(reading) = &mut self.reading {
                reading.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            }
            if kind == NLMSG_DONE || kind == NLMSG_ERROR {
                return self.finish_reading(table, kind, message.payload());
            }
        }
        if NEXT_HOP_MESSAGES.contains(&kind) {
            self.want([Table::Routes]);
        }
        if !FOLLOWED_MESSAGES.contains(&kind) {
            return Ok(());
        }
        // A table's parts come in its order; the flags of an event say where a route goes.
        let flags = if answered.is_some() {
            NLM_F_APPEND
        } else {
            message.flags()
        };
        match RouteNetlinkMessage::parse_with_param(message.payload(), kind) {
            Ok(parsed) => {
                if let Some(change) = message::change(&parsed, flags) {
                    self.take_change(change, answered.is_some());
                }
            }
            Err(error) => warn!(kind, %error, "an rtnetlink message cannot be understood and is left out"),
        }
        Ok(())
    }

    /// Applies one entry of the table being read, or one event.
    fn take_change(&mut self, change: Change, read: bool) {
        let table = change.table();
        if let Some(reading) = self.reading.as_mut().filter(|reading| reading.table == table) {
            if read {
                reading.fresh.apply(change);
                return;
            }
            reading.fresh.apply(change.clone());
        }
        let Effect {
            changed,
            routes_doubtful,
        } = self.state.apply(change);
        let being_read = self
            .reading
            .as_ref()
            .is_some_and(|reading| reading.table == table);
        if routes_doubtful && !(table == Table::Routes && being_read) {
            self.want([Table::Routes]);
        }
        if changed {
            self.note_change();
        }
    }

    fn finish_reading(&mut self, table: Table, kind: u16, payload: &[u8]) -> Result<(), KernelError> {
        let Some(mut reading) = self.reading.take() else {
            return Ok(());
        };
        self.read_not_before = if self.wanted.is_empty() {
            let pause = reading.since.elapsed() * READ_INTERVAL_READINGS;
            Instant::now() + pause.max(Duration::from_millis(READ_INTERVAL_MS))
        } else {
            // The tables of one resync are read one after the other.
            self.read_not_before
        };
        let errno = end_code(kind, payload);
        if errno != 0 {
            let refusal = Refusal { errno, message: None };
            let error = KernelError::Refused {
                action: format!("reading the kernel's table of {table}"),
                refusal,
            };
            if self.unread.contains(&table) {
                return Err(error);
            }
            warn!(%error, "what was known is kept; trying again");
            self.want([table]);
            return Ok(());
        }
        self.unread.remove(&table);
        if self.state.adopt(table, &mut reading.fresh) {
            self.note_change();
        }
        if reading.interrupted {
            self.want([table]);
        }
        Ok(())
    }

    fn note_change(&mut self) {
        let now = Instant::now();
        self.last_change = now;
        self.first_change.get_or_insert(now);
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

fn socket_error(action: &str, source: io::Error) -> KernelError {
    KernelError::Socket {
        action: action.to_owned(),
        source,
    }
}
