//! `millrace-cni`: the CNI plugin. See the library.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::process::ExitCode;

use millrace_cni::answer;
use millrace_cni::error::CniError;

/// Longest configuration that is read, in bytes.
const CONFIG_MAX_BYTES: u64 = 16 << 20;

fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(CONFIG_MAX_BYTES).read_to_end(&mut input);
    let variable = |name: &str| std::env::var(name).ok();
    let (text, code) = match read {
        Ok(_) => match answer(&variable, &input) {
            Ok(text) => (text, ExitCode::SUCCESS),
            Err((error, version)) => (error.to_json(&version), ExitCode::FAILURE),
        },
        Err(error) => {
            let error = CniError::io("reading the configuration from standard input", &error);
            (error.to_json(""), ExitCode::FAILURE)
        }
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => code,
        // Nobody hears of it; what was done is undone by DEL.
        Err(_) => ExitCode::FAILURE,
    }
}
