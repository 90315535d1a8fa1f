//! The one switch that tells every lab of this process to stop.
//!
//! A signal handler that took a lab down itself would race with the thread that is still building it. So a signal only
//! raises a flag; whatever the lab is waiting for then ends with [`LabError::Interrupted`], the error travels up,
//! and the lab is taken down where it always is, when it is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::LabError;

static RAISED: AtomicBool = AtomicBool::new(false);
static LOCK: Mutex<()> = Mutex::new(());
static CHANGED: Condvar = Condvar::new();

/// Tells every lab of this process to stop, and wakes [`wait`]. There is no way back.
pub fn raise() {
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    RAISED.store(true, Ordering::SeqCst);
    CHANGED.notify_all();
}

/// Turns the signals that end a program (SIGINT, SIGTERM, SIGHUP) into [`raise`], from now on.
///
/// # Errors
/// If a signal cannot be caught, or the thread that waits for them not be started.
pub fn heed_signals() -> Result<(), LabError> {
    let action = || LabError::io("heed signals");
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(action())?;
    let heed = move || {
        for _ in signals.forever() {
            raise();
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(heed).map(drop).map_err(action())
}

/// Whether [`raise`] was called.
#[must_use]
pub fn raised() -> bool {
    RAISED.load(Ordering::SeqCst)
}

/// Fails with [`LabError::Interrupted`] once [`raise`] was called.
pub fn check() -> Result<(), LabError> {
    if raised() {
        Err(LabError::Interrupted)
    } else {
        Ok(())
    }
}

/// Blocks until [`raise`] is called.
pub fn wait() {
    let mut guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    while !raised() {
        guard = CHANGED.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}
