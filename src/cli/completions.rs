//! Completion scripts for shells.

use clap::{CommandFactory as _, ValueEnum};

use super::{Cli, output};
use crate::admin::protocol::Failure;

/// Shells that [`Command::Completions`](super::Command::Completions) writes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// Prints the completion script for `shell`.
///
/// # Errors
/// Standard output cannot be written to.
pub fn print_completions(shell: Shell) -> Result<(), Failure> {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut Cli::command(), "millrace", &mut script);
    output::print_bytes(&script)
}
