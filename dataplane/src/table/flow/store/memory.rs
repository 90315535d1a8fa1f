//! Where the words are: mapped memory, of this process alone or of a file.
#![allow(unsafe_code)]

use std::ops::Deref;

use super::{AtomicU64, lower};

#[cfg(not(crossbeam_loom))]
pub(in crate::table::flow) use mapped::Memory;
#[cfg(crossbeam_loom)]
pub(in crate::table::flow) use watched::Memory;

/// Asks the memory for the cache line of a word.
#[inline]
pub(in crate::table) fn prefetch(word: &AtomicU64) {
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

/// The lower half of a word of a cache line, the first word aside, that has this upper half; of one of them, if several have.
///
/// All are looked at at once, in halves and not atomically; then the word that was found is read.
#[cfg(all(target_arch = "x86_64", not(crossbeam_loom)))]
#[inline(always)]
pub(super) fn lower_half_of(line: &[AtomicU64; 8], upper: u32) -> Option<u32> {
    debug_assert!(line.as_ptr().cast::<u128>().is_aligned());
    let found: u32;
    // SAFETY: it reads the 64 bytes of `line`, which lies at a multiple of 64 bytes from the start of a page, and writes
    // nothing. Others may write them meanwhile: to the language this is no access of its own, and the processor reads some
    // bytes of before or after.
    unsafe {
        core::arch::asm!(
            "movdqa {a}, xmmword ptr [{line}]",
            "shufps {a}, xmmword ptr [{line} + 16], 0xdd", // the odd halves of four words
            "movdqa {b}, xmmword ptr [{line} + 32]",
            "shufps {b}, xmmword ptr [{line} + 48], 0xdd",
            "movd {wanted}, {upper:e}",
            "pshufd {wanted}, {wanted}, 0",
            "pcmpeqd {a}, {wanted}",
            "pcmpeqd {b}, {wanted}",
            "packssdw {a}, {b}",
            "pmovmskb {found:e}, {a}",
            line = in(reg) line.as_ptr(),
            upper = in(reg) upper,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            wanted = out(xmm_reg) _,
            found = lateout(reg) found,
            options(nostack, readonly, preserves_flags),
        );
    }
    // Two bits for each word. The bits of none stand for a word beyond the last.
    let place = (found & !3).trailing_zeros() as usize / 2;
    Some(lower(line.get(place)?.load(super::Ordering::Relaxed)))
}

/// The same, word by word.
#[cfg(not(all(target_arch = "x86_64", not(crossbeam_loom))))]
#[inline(always)]
pub(super) fn lower_half_of<const N: usize>(line: &[AtomicU64; N], upper: u32) -> Option<u32> {
    let words = line.iter().skip(1);
    let words = words.map(|word| word.load(super::Ordering::Relaxed));
    // No early end: which of them fits cannot be foretold.
    words.fold(None, |found, word| {
        if word >> 32 == u64::from(upper) {
            found.or(Some(lower(word)))
        } else {
            found
        }
    })
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[repr(align(64))]
    struct Line([AtomicU64; 8]);

    proptest! {
        #[test]
        fn the_word_with_the_upper_half_is_found_and_no_other(
            words in prop::array::uniform8((0_u32..8, any::<u32>())),
            upper in 0_u32..8,
        ) {
            let wide = |half: u32| half.wrapping_mul(0x3333_3333);
            let line = Line(words.map(|(half, rest)| AtomicU64::new(u64::from(wide(half)) << 32 | u64::from(rest))));
            let fitting = words.iter().skip(1).find(|(half, _)| *half == upper);
            prop_assert_eq!(lower_half_of(&line.0, wide(upper)), fitting.map(|(_, rest)| *rest));
        }
    }
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
