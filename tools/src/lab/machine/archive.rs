//! The archive the kernel unpacks as its first file system: cpio's "newc" form (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const MAGIC: &str = "070701";
/// The name of the entry that ends an archive.
const END: &str = "TRAILER!!!";
/// Names and contents are padded to a multiple of this, in bytes.
const ALIGNMENT: usize = 4;
/// The header before each name, in bytes: the magic and 13 numbers of eight hexadecimal digits.
const HEADER: usize = 110;

// The kinds of file, from `stat`'s mode (POSIX).
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that is being written.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    number: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            number: 0,
            folders: BTreeSet::new(),
        }
    }

    /// Adds an executable file, and the folders above it. `path` begins with a slash, as in the file system to be.
    pub(super) fn file(&mut self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.folders_above(path)?;
        self.entry(path, PROGRAM, (0, 0), contents)
    }

    /// Adds a folder.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.folders_above(path)?;
        if self.folders.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, (0, 0), &[])?;
        }
        Ok(())
    }

    /// Adds a character device with its major and minor number.
    pub(super) fn device(&mut self, path: &str, numbers: (u32, u32)) -> io::Result<()> {
        self.folders_above(path)?;
        self.entry(path, CHARACTER_DEVICE, numbers, &[])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry(END, 0, (0, 0), &[])?;
        self.out.flush()
    }

    fn folders_above(&mut self, path: &str) -> io::Result<()> {
        let Some(above) = Path::new(path).parent().and_then(Path::to_str) else {
            return Ok(());
        };
        if above.len() > 1 {
            self.folder(above)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        let length = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        let (size, name_size) = (length(contents.len())?, length(name.len() + 1)?);
        self.number += 1;
        let links = 1;
        // In this order: inode, mode, owner, group, links, time, size, the file system's device, the device itself, the
        // name's length with its zero, checksum.
        let fields = [
            self.number,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        write!(self.out, "{MAGIC}")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.pad(1, HEADER + name.len() + 1)?;
        self.out.write_all(contents)?;
        self.pad(0, contents.len())
    }

    /// Writes `least` zeros, and then as many as make `written` bytes a whole number of words.
    fn pad(&mut self, least: usize, written: usize) -> io::Result<()> {
        let zeros = least + written.next_multiple_of(ALIGNMENT) - written;
        self.out.write_all(&[0; 1 + ALIGNMENT][..zeros])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_headers_names_contents_and_an_end() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("/bin/a", b"abcde").unwrap();
        archive.device("/dev/console", (5, 1)).unwrap();
        archive.folder("/bin").unwrap();
        archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let folder = "070701\
            00000001000041ed00000000000000000000000100000000\
            00000000000000000000000000000000000000000000000400000000bin\0\0\0";
        assert!(text.starts_with(&folder.replace(' ', "")), "{text}");
        let entries: Vec<&str> = text.split(MAGIC).skip(1).collect();
        assert_eq!(entries.len(), 5, "bin, bin/a, dev, dev/console, the end: {text}");
        // The header and the name with its zero are 116 bytes and need no padding; five bytes of contents do.
        assert!(entries[1].ends_with("bin/a\0abcde\0\0\0"), "{text}");
        let console = entries[3];
        assert_eq!(&console[8..16], "00002180");
        assert_eq!((&console[72..80], &console[80..88]), ("00000005", "00000001"));
        assert!(entries[4].contains("TRAILER!!!\0"));
        assert_eq!(text.len() % ALIGNMENT, 0);
    }
}
