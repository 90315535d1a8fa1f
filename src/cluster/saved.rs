//! The copy of the last state that a start goes on from while the API server is away.
//!
//! A file of lines: a header that says whose it is, the objects as JSON, cut down to what is used, and at the end how many
//! there are and their SHA-256. It is written anew beside the old one, brought to the disk and then put in its place, so a
//! crash leaves one or the other whole. Its objects are read like any others: what makes no sense is refused by name.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::durable::{self, DurableError, Rights};
use crate::objects::{Mirror, NodeName};

/// The file's name in the state folder.
pub(super) const FILE: &str = "objects.json";
/// The form of the file.
const FORMAT: u32 = 1;
/// Largest copy that is read, in bytes.
const COPY_MAX_BYTES: u64 = 1 << 30;

/// Whose copy it is: the first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Header {
    /// What the file is.
    millrace_objects: u32,
    /// The node that it is for.
    node: String,
    /// The API server that it is from.
    server: String,
}

/// That it is whole: the last line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Trailer {
    objects: usize,
    sha256: String,
}

/// Why there is no copy to go on from.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error(transparent)]
    System(#[from] DurableError),
    #[error("{} is no copy that this version can read ({reason}); it is left aside and written anew", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{} is the copy of node {node} and the API server {server}, not of this node and server; it is left aside and written anew",
        path.display()
    )]
    Foreign {
        path: PathBuf,
        node: String,
        server: String,
    },
}

/// Whose copies are kept, and where.
#[derive(Debug, Clone)]
pub(super) struct Copies {
    folder: PathBuf,
    header: Header,
}

impl Copies {
    pub(super) fn new(folder: &Path, node: &NodeName, server: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            header: Header {
                millrace_objects: FORMAT,
                node: node.to_string(),
                server: server.to_owned(),
            },
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Writes objects in the place of the last copy.
    pub(super) fn save(&self, lines: &[Arc<str>]) -> Result<(), CopyError> {
        // Nobody else is to read what a cluster has.
        let rights = Rights::Exactly(0o600);
        Ok(durable::replace(&self.path(), rights, |file| {
            self.write(file, lines)
        })?)
    }

    fn write(&self, file: &mut File, lines: &[Arc<str>]) -> io::Result<()> {
        let mut writer = BufWriter::new(file);
        let mut hash = Sha256::new();
        let header = serde_json::to_string(&self.header)?;
        for line in std::iter::once(header.as_str()).chain(lines.iter().map(|line| &**line)) {
            hash.update(line);
            hash.update("\n");
            writer.write_all(line.as_bytes())?;
            writer.write_all(b"\n")?;
        }
        let trailer = Trailer {
            objects: lines.len(),
            sha256: hex(&hash.finalize()),
        };
        serde_json::to_writer(&mut writer, &trailer)?;
        writer.write_all(b"\n")?;
        writer.flush()
    }

    /// Fills a mirror with the last copy; how many objects there were, `None` if there is no copy.
    pub(super) fn load(&self, mirror: &mut Mirror) -> Result<Option<usize>, CopyError> {
        let path = self.path();
        let damaged = |reason: &str| CopyError::Damaged {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > COPY_MAX_BYTES) {
            return Err(damaged("it is too large"));
        }
        let Some(bytes) = durable::read(&path)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8"))?;
        let (header, objects, count) = parts(&text).map_err(damaged)?;
        if (&header.node, &header.server) != (&self.header.node, &self.header.server) {
            return Err(CopyError::Foreign {
                path,
                node: header.node,
                server: header.server,
            });
        }
        mirror
            .restore(objects.lines())
            .map_err(|number| damaged(&format!("line {} is no object", number + 2)))?;
        Ok(Some(count))
    }
}

/// The header, the lines of objects and their number, of a text that is whole.
fn parts(text: &str) -> Result<(Header, &str, usize), &'static str> {
    const TORN: &str = "it breaks off";
    let text = text.strip_suffix('\n').ok_or(TORN)?;
    let (content, trailer) = text.rsplit_once('\n').ok_or(TORN)?;
    let trailer: Trailer = serde_json::from_str(trailer).map_err(|_| TORN)?;
    let mut hash = Sha256::new();
    hash.update(content);
    hash.update("\n");
    if hex(&hash.finalize()) != trailer.sha256 {
        return Err("its content is not what was written");
    }
    let (header, objects) = content.split_once('\n').unwrap_or((content, ""));
    let header: Header = serde_json::from_str(header).map_err(|_| "its first line is another's")?;
    if header.millrace_objects != FORMAT {
        return Err("it is of another version");
    }
    if objects.lines().count() != trailer.objects {
        return Err("objects are missing in it");
    }
    Ok((header, objects, trailer.objects))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::NetworkChoice;

    const NODE: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-a","uid":"u1"},"spec":{"podCIDR":"10.244.1.0/24"}}"#;
    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"default","uid":"u2"},"spec":{"nodeName":"node-a"},"status":{"podIP":"10.244.1.5"}}"#;

    fn own() -> NodeName {
        NodeName::new("node-a").unwrap()
    }

    fn copies(folder: &Path) -> Copies {
        Copies::new(folder, &own(), "https://192.0.2.1:6443/")
    }

    #[test]
    fn what_was_saved_is_read_again_and_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let copies = copies(folder.path());
        let mut mirror = Mirror::default();
        assert_eq!(copies.load(&mut mirror).unwrap(), None);
        copies.save(&[NODE.into(), POD.into()]).unwrap();
        assert_eq!(copies.load(&mut mirror).unwrap(), Some(2));
        let store = mirror.store(&own(), NetworkChoice::Auto);
        assert_eq!((store.nodes().count(), store.own_pods().count()), (1, 1));
        use std::os::unix::fs::MetadataExt as _;
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        for other in [
            Copies::new(
                folder.path(),
                &NodeName::new("node-b").unwrap(),
                "https://192.0.2.1:6443/",
            ),
            Copies::new(folder.path(), &own(), "https://192.0.2.2:6443/"),
        ] {
            let mut mirror = Mirror::default();
            let error = other.load(&mut mirror).unwrap_err().to_string();
            assert!(
                error.contains("is the copy of node node-a and the API server https://192.0.2.1:6443/"),
                "{error}"
            );
            assert!(mirror.is_empty());
        }
    }

    /// A file that is cut anywhere, or has any byte changed, is either refused or says the very same.
    #[test]
    fn a_torn_copy_is_refused_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let copies = copies(folder.path());
        copies.save(&[NODE.into(), POD.into()]).unwrap();
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let mut mirror = Mirror::default();
            let error = copies.load(&mut mirror).unwrap_err().to_string();
            assert!(
                error.contains(FILE) && error.contains("written anew"),
                "{end}: {error}"
            );
            assert!(mirror.is_empty(), "{end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            fs::write(&path, &bytes).unwrap();
            let mut mirror = Mirror::default();
            assert!(copies.load(&mut mirror).is_err(), "{at}: {:?}", mirror.len());
            assert!(mirror.is_empty(), "{at}");
        }
    }
}
