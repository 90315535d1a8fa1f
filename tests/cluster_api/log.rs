//! What the code under test says in its log.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use crate::node::patiently;

static SAID: Mutex<String> = Mutex::new(String::new());

struct Listener;

impl Write for Listener {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Listens from now on; all tests of a process share what is heard.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            // As the daemon's.
            .with_env_filter("info,kube_client=off");
        subscriber.with_writer(|| Listener).init();
    });
}

/// What was said so far.
pub(crate) fn said() -> String {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Waits until a line has all of these words in it.
pub(crate) fn wait_for(words: &[&str]) {
    patiently(&format!("the words {words:?}"), || {
        let is_it = |line: &str| words.iter().all(|words| line.contains(words));
        said().lines().any(is_it).then_some(())
    });
}
