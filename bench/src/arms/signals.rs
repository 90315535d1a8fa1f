//! Signals that end a program, for labs that are to be taken down in order.

use std::thread;

use anyhow::Context;
use millrace_tools::lab::interrupt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Turns the signals that end a program into an interrupt of the labs, so that they are taken down in order.
///
/// # Errors
/// When they cannot be caught.
pub(crate) fn heed_signals() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot heed signals")?;
    let heed = move || {
        for _ in signals.forever() {
            interrupt::raise();
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(heed)
        .context("cannot start a thread")?;
    Ok(())
}
