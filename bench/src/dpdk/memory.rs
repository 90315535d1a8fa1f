//! What DPDK's programs have their memory from.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Memory of one program, in MiB: what the largest of them needs.
const MEMORY_MB: u32 = 1024;
/// Huge pages of 2 MiB that are kept for it, some more than it needs.
const PAGES: u64 = MEMORY_MB as u64 / 2 + 32;
/// Where the kernel is told how many huge pages of 2 MiB there are to be (`Documentation/admin-guide/mm/hugetlbpage.rst`).
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Which pages DPDK's programs get; dropping it gives those back that were not there before.
pub(super) struct Memory {
    /// How many huge pages there were, if that was changed.
    before: Option<u64>,
    is_huge: bool,
}

impl Memory {
    /// Huge pages if there are enough or the kernel makes so many, ordinary ones otherwise.
    ///
    /// # Errors
    /// When the kernel says something else than numbers.
    pub(super) fn take() -> anyhow::Result<Self> {
        let pool = Path::new(POOL);
        if !pool.is_dir() {
            return Ok(Self::ordinary());
        }
        if read(pool, "free_hugepages")? >= PAGES {
            return Ok(Self {
                before: None,
                is_huge: true,
            });
        }
        let total = read(pool, "nr_hugepages")?;
        let file = pool.join("nr_hugepages");
        // Only root may; the kernel makes as many as it finds memory for.
        if fs::write(&file, (total + PAGES).to_string()).is_err() {
            return Ok(Self::ordinary());
        }
        let taken = Self {
            before: Some(total),
            is_huge: true,
        };
        if read(pool, "free_hugepages")? >= PAGES {
            return Ok(taken);
        }
        drop(taken);
        Ok(Self::ordinary())
    }

    fn ordinary() -> Self {
        Self {
            before: None,
            is_huge: false,
        }
    }

    /// As DPDK's programs are told.
    pub(super) fn arguments(&self) -> [String; 3] {
        let kind = if self.is_huge { "--in-memory" } else { "--no-huge" };
        [kind.to_owned(), "-m".to_owned(), MEMORY_MB.to_string()]
    }

    /// The pages' name in the summary.
    pub(super) fn name(&self) -> &'static str {
        if self.is_huge {
            "huge pages"
        } else {
            "ordinary pages"
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        if let Err(error) = fs::write(Path::new(POOL).join("nr_hugepages"), before.to_string()) {
            eprintln!("millrace-bench: cannot give huge pages back: {error}");
        }
    }
}

fn read(pool: &Path, file: &str) -> anyhow::Result<u64> {
    let path = pool.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("{} holds {text:?}, not a number", path.display()))
}
