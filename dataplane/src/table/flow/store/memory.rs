//! Where the words are: mapped memory, of this process alone or of a file.
#![allow(unsafe_code)]

use std::ops::Deref;

use super::AtomicU64;

#[cfg(not(crossbeam_loom))]
pub(in crate::table::flow) use mapped::Memory;
#[cfg(crossbeam_loom)]
pub(in crate::table::flow) use watched::Memory;

/// Asks the memory for the cache line of a word.
#[inline]
pub(super) fn prefetch(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(crossbeam_loom)))]
    // SAFETY: a prefetch is a hint and touches nothing.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(all(target_arch = "aarch64", not(crossbeam_loom)))]
    // SAFETY: as above; the instruction exists on every processor of that kind.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) std::ptr::from_ref(word), options(nostack, readonly));
    }
    #[cfg(any(crossbeam_loom, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = word;
}

#[cfg(not(crossbeam_loom))]
mod mapped {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::ptr::NonNull;

    use super::{AtomicU64, Deref};

    /// Words that begin at a page.
    #[derive(Debug)]
    pub(in crate::table::flow) struct Memory {
        words: NonNull<AtomicU64>,
        len: usize,
    }

    // SAFETY: it is a slice of atomics, mapped as long as this lives.
    unsafe impl Send for Memory {}
    // SAFETY: as above.
    unsafe impl Sync for Memory {}

    impl Memory {
        /// `len` words of zero that end with the process.
        pub(in crate::table::flow) fn anonymous(len: usize) -> io::Result<Self> {
            Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        }

        /// `len` words of a file from byte `offset` on, a multiple of the page size. The file has to be long enough,
        /// and to stay so.
        pub(in crate::table::flow) fn of_file(file: &File, offset: u64, len: usize) -> io::Result<Self> {
            let end = offset.checked_add(size_of::<AtomicU64>() as u64 * len as u64);
            if end.is_none_or(|end| file.metadata().is_ok_and(|file| file.len() < end)) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            Self::map(len, libc::MAP_SHARED, file.as_raw_fd(), offset)
        }

        fn map(len: usize, flags: i32, fd: i32, offset: i64) -> io::Result<Self> {
            let bytes = size_of::<AtomicU64>() * len;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping at a place of the kernel's choice changes nothing that is there.
            let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset) };
            if address == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            // Large pages save most of a lookup's misses in the TLB. Where there are none it goes without.
            // SAFETY: advice on the mapping just made.
            let _ = unsafe { libc::madvise(address, bytes, libc::MADV_HUGEPAGE) };
            let words = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { words, len })
        }
    }

    impl Deref for Memory {
        type Target = [AtomicU64];

        #[inline]
        fn deref(&self) -> &[AtomicU64] {
            // SAFETY: `len` words are mapped as long as this lives, begin at a page, and hold whatever bits: every
            // one is an integer. They are written through atomics only; by this process alone, as the lock on the
            // file says where there is one.
            unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            let bytes = size_of::<AtomicU64>() * self.len;
            // SAFETY: the mapping is this one's own, and nobody borrows from it any more.
            unsafe { libc::munmap(self.words.as_ptr().cast(), bytes) };
        }
    }
}

#[cfg(crossbeam_loom)]
mod watched {
    use std::io;

    use super::{AtomicU64, Deref};

    /// Words that loom watches.
    #[derive(Debug)]
    pub(in crate::table::flow) struct Memory(Vec<AtomicU64>);

    impl Memory {
        pub(in crate::table::flow) fn anonymous(len: usize) -> io::Result<Self> {
            Ok(Self((0..len).map(|_| AtomicU64::default()).collect()))
        }
    }

    impl Deref for Memory {
        type Target = [AtomicU64];

        fn deref(&self) -> &[AtomicU64] {
            &self.0
        }
    }
}
