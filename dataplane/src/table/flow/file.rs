//! The flow file: records that outlive their process, so that what cannot be learnt anew lives on.
//!
//! A header page, then the slab of each family at a multiple of [`ALIGNMENT`]. An index is not in it: it is made anew
//! with a new secret. A process never goes on in the file of an earlier one. It makes a new file, copies what is
//! whole, and puts it in the place of the old one in one step; so the old one is whole until then, capacities may
//! change, and nothing of an entry is believed but its tuples.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::claim::Entrant;
use super::flow::Opened;
use super::shard::{Family, seen_at};
use super::store::{Memory, Store};
use super::tuple::Address;
use super::{FlowOptions, FlowShard, FlowTable, FlowTableError, protocol};
use crate::table::{Epoch, HashKey, Tick};

/// The version of the file's layout: of the header, of a record, and of what the bits in them mean.
pub const LAYOUT_VERSION: u32 = 1;

/// "mlrcflow", as a number in the byte order of the machine: a file of another one is none.
const MAGIC: u64 = u64::from_be_bytes(*b"mlrcflow");
/// Bytes of the header: a page.
const HEADER_LEN: usize = 4096;
/// Slabs begin at multiples of a large page, in bytes.
const ALIGNMENT: u64 = 2 << 20;
/// Words of the header that its checksum is over.
const CHECKED_WORDS: usize = 5;
/// The word after them is their checksum; the one after that, the highest epoch published, changes.
const CHECKSUM: usize = CHECKED_WORDS;
const EPOCH: usize = CHECKSUM + 1;
/// How often the file may be replaced by another process while it is being opened.
const OPEN_TRIES: usize = 8;
/// Access to the file: the tuples are nobody else's business.
const MODE: u32 = 0o600;

/// What became of the connections of an earlier process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Connections taken over.
    pub kept: u32,
    /// Connections left behind: not whole, or no room for them.
    pub lost: u32,
    /// Why the file that was found was not read at all, if so.
    pub refused: Option<FileRefusal>,
}

/// Why a flow file was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileRefusal {
    /// It is none.
    #[error("it is no flow file")]
    NotAFlowFile,
    /// It is of another version.
    #[error("its layout is version {0}; this program reads version {LAYOUT_VERSION}")]
    Layout(u64),
    /// Its header is damaged, or its end is missing.
    #[error("it is damaged")]
    Damaged,
    /// Its ticks are those of an earlier start of the machine.
    #[error("it is from before the machine was started")]
    OtherBoot,
}

/// The file of a table in use. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct FlowFile {
    header: Memory,
    /// Held for its lock.
    _file: File,
}

impl FlowFile {
    pub(super) fn remember(&self, epoch: Epoch) {
        if let Some(word) = self.header.get(EPOCH) {
            word.store(u64::from(epoch.0), Ordering::Relaxed);
        }
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    ipv4: u32,
    ipv6: u32,
    boot: u64,
    epoch: u32,
}

/// The checksum of a header's words: against accidents, so its key is no secret.
fn checksum(words: [u64; CHECKED_WORDS]) -> u64 {
    HashKey::from_words([MAGIC, MAGIC.rotate_left(21), MAGIC.rotate_left(42)]).hash(words)
}

impl Header {
    fn checked(&self) -> [u64; CHECKED_WORDS] {
        [
            MAGIC,
            u64::from(LAYOUT_VERSION),
            u64::from(self.ipv4),
            u64::from(self.ipv6),
            self.boot,
        ]
    }

    /// Where the slabs begin, and where the file ends, in bytes.
    fn slabs(&self) -> [u64; 3] {
        let bytes = |words: usize| (words * size_of::<u64>()) as u64;
        let v4 = ALIGNMENT;
        let v6 = v4 + bytes(FlowShard::<Ipv4Addr>::slab_words(self.ipv4)).next_multiple_of(ALIGNMENT);
        let end = v6 + bytes(FlowShard::<Ipv6Addr>::slab_words(self.ipv6));
        [v4, v6, end]
    }

    /// Reads the header of a file, and checks that the rest can be there.
    fn read(file: &File, boot: u64) -> Result<Self, FileRefusal> {
        let mut bytes = [0; (EPOCH + 1) * size_of::<u64>()];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|_| FileRefusal::NotAFlowFile)?;
        let (words, _) = bytes.as_chunks();
        let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
        let checked: [u64; CHECKED_WORDS] = std::array::from_fn(|_| words.next().unwrap_or_default());
        let [magic, version, ipv4, ipv6, its_boot] = checked;
        if magic != MAGIC {
            return Err(FileRefusal::NotAFlowFile);
        }
        if version != u64::from(LAYOUT_VERSION) {
            return Err(FileRefusal::Layout(version));
        }
        let sum = words.next();
        let epoch = words.next().and_then(|epoch| u32::try_from(epoch).ok());
        let capacity = |connections: u64| {
            u32::try_from(connections)
                .ok()
                .filter(|connections| (1..=FlowOptions::CONNECTIONS_MAX).contains(connections))
        };
        let (Some(ipv4), Some(ipv6), Some(epoch)) = (capacity(ipv4), capacity(ipv6), epoch) else {
            return Err(FileRefusal::Damaged);
        };
        let header = Self {
            ipv4,
            ipv6,
            boot: its_boot,
            epoch,
        };
        let len = file.metadata().map_or(0, |file| file.len());
        if sum != Some(checksum(checked)) || len < header.slabs()[2] {
            return Err(FileRefusal::Damaged);
        }
        if its_boot != boot {
            return Err(FileRefusal::OtherBoot);
        }
        Ok(header)
    }
}

/// Opens, with the words for what went wrong.
struct At<'p> {
    path: &'p Path,
}

impl At<'_> {
    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> FlowTableError {
        let path = self.path.to_owned();
        move |source| FlowTableError::File { path, what, source }
    }

    /// Opens the file for this process alone; `None` if there is none.
    fn open(&self, options: &OpenOptions) -> Result<Option<File>, FlowTableError> {
        for _ in 0..OPEN_TRIES {
            let file = match options.open(self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(self.failed("open")(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(FlowTableError::InUse {
                        path: self.path.to_owned(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(self.failed("lock")(error)),
            }
            // Another process may have put another file here before the lock was had.
            let own = file.metadata().map_err(self.failed("look at"))?;
            let there = std::fs::metadata(self.path);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
                return Ok(Some(file));
            }
        }
        Err(FlowTableError::InUse {
            path: self.path.to_owned(),
        })
    }
}

/// Opens the table at `path`; see [`FlowTable::open`].
pub(super) fn open(
    path: &Path,
    boot: u64,
    options: &FlowOptions,
    now: Tick,
) -> Result<(FlowTable, Adopted), FlowTableError> {
    let at = At { path };
    let old = at.open(OpenOptions::new().read(true).write(true))?;
    let header = old.as_ref().map(|old| Header::read(old, boot)).transpose();
    let refused = header.err();
    let old = old.zip(header.ok().flatten());

    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut table = create(&beside, boot, options)?;
    let mut adopted = Adopted {
        refused,
        ..Adopted::default()
    };
    if let Some((file, header)) = &old {
        let [v4, v6, _] = header.slabs();
        let mapped = |offset, words| Memory::of_file(file, offset, words).map_err(at.failed("map"));
        let slab = mapped(v4, FlowShard::<Ipv4Addr>::slab_words(header.ipv4))?;
        table.v4.adopt(&slab, header.ipv4, now, &mut adopted);
        let slab = mapped(v6, FlowShard::<Ipv6Addr>::slab_words(header.ipv6))?;
        table.v6.adopt(&slab, header.ipv6, now, &mut adopted);
        table.first_epoch = Epoch(header.epoch).next();
    }
    table.remember_epoch(table.first_epoch);
    std::fs::rename(&beside, path).map_err(at.failed("put a new one in the place of"))?;
    Ok((table, adopted))
}

/// An empty table in a new file.
fn create(path: &Path, boot: u64, options: &FlowOptions) -> Result<FlowTable, FlowTableError> {
    let at = At { path };
    let mut new = OpenOptions::new();
    new.read(true).write(true).create(true).truncate(false).mode(MODE);
    let file = at.open(&new)?.ok_or_else(|| {
        let gone = io::ErrorKind::NotFound.into();
        at.failed("open")(gone)
    })?;
    let header = Header {
        ipv4: options.ipv4,
        ipv6: options.ipv6,
        boot,
        epoch: 0,
    };
    let [v4, v6, end] = header.slabs();
    // Whatever an interrupted start left is forgotten. The memory is taken now: to find that there is none would end the
    // process in the middle of its work.
    file.set_len(0).map_err(at.failed("empty"))?;
    allocate(&file, end).map_err(at.failed("find room for"))?;
    let mut words = header.checked().to_vec();
    words.push(checksum(header.checked()));
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    file.write_all_at(&bytes, 0).map_err(at.failed("write"))?;
    let mapped = |offset, words| Memory::of_file(&file, offset, words).map_err(at.failed("map"));
    let v4 = mapped(v4, FlowShard::<Ipv4Addr>::slab_words(header.ipv4))?;
    let v6 = mapped(v6, FlowShard::<Ipv6Addr>::slab_words(header.ipv6))?;
    let header = mapped(0, HEADER_LEN / size_of::<u64>())?;
    let mut table = FlowTable::over(v4, v6, options, HashKey::random())?;
    table.file = Some(FlowFile { header, _file: file });
    Ok(table)
}

/// Makes a file `len` bytes of zero long, with room for all of them where its file system can promise that.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(len),
        other => Ok(other?),
    }
}

/// When something was seen, and `now` if that were later.
fn seen_by(now: Tick, seen: Tick) -> Tick {
    if seen.is_never() || now.since(seen) > 0 {
        seen
    } else {
        now
    }
}

impl<A: Address> FlowShard<A> {
    /// Takes over the connections in the slab of an earlier process, those that are kept when there is no room first.
    fn adopt(&self, slab: &Memory, capacity: u32, now: Tick, adopted: &mut Adopted) {
        let used = Store::<Family<A>>::used_of(slab, capacity);
        for is_kept in [true, false] {
            for record in 0..used {
                let Some(found) = Store::<Family<A>>::salvage(slab, record) else {
                    continue;
                };
                if found.notes.is_kept != is_kept {
                    continue;
                }
                let [original, reply] = found.keys;
                let entrant = protocol::salvage(original.protocol, found.notes, found.tracking).map(
                    |(notes, tracking)| Entrant {
                        keys: found.keys,
                        // Without an epoch, as without an answer.
                        stamps: found
                            .stamps
                            .map(|stamp| u64::from(seen_by(now, seen_at(stamp)).seconds())),
                        notes,
                        tracking,
                        opened: Opened {
                            by: None,
                            ..Opened::from_word(found.opened)
                        },
                        bound: found.bound,
                    },
                );
                let kept = original.protocol == reply.protocol
                    && original.network == reply.network
                    && original != reply
                    && entrant.is_some_and(|entrant| self.enter(&entrant, None).is_ok());
                adopted.kept += u32::from(kept);
                adopted.lost += u32::from(!kept);
            }
        }
    }
}
