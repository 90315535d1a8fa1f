//! The bearer token in a file that somebody renews: a kubelet writes a service account's next one long before the last is
//! over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hyper::Request;
use hyper::header::{AUTHORIZATION, HeaderValue};

/// A token, as its file has it. The file is read for every request, of which there are few: so a token that was renewed is
/// used at once, and not, as with kube-rs's own reader, within a minute.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<HeaderValue>,
}

impl TokenFile {
    /// Reads it.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidData`] where it is no token.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            last: Mutex::new(read(path)?),
        })
    }

    /// Puts it into a request. A file that is away, or is no token for a moment, leaves the last one.
    pub(super) fn authorize<B>(&self, request: &mut Request<B>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(now) = read(&self.path) {
            *last = now;
        }
        request.headers_mut().insert(AUTHORIZATION, last.clone());
    }
}

/// The header that a file's token makes. Editors and `echo` end a file with a line's end, which is no part of the token.
fn read(path: &Path) -> io::Result<HeaderValue> {
    let text = fs::read_to_string(path)?;
    let token = text.trim();
    let no_token = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if token.is_empty() {
        return Err(no_token("it is empty"));
    }
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| no_token("it has characters that no token has"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_that_of_the_file_as_it_is_now_without_the_lines_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for nonsense in [&b"\n"[..], b"two\nlines", b"\xff"] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(
                TokenFile::new(&path).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
        fs::write(&path, "first\n").unwrap();
        let token = TokenFile::new(&path).unwrap();
        let sent = || {
            let mut request = Request::new(());
            token.authorize(&mut request);
            let header = request.headers()[AUTHORIZATION].clone();
            assert!(header.is_sensitive());
            header.to_str().unwrap().to_owned()
        };
        assert_eq!(sent(), "Bearer first");
        fs::write(&path, "second").unwrap();
        assert_eq!(sent(), "Bearer second");
        fs::write(&path, "").unwrap();
        assert_eq!(sent(), "Bearer second");
        fs::remove_file(&path).unwrap();
        assert_eq!(sent(), "Bearer second");
    }
}
