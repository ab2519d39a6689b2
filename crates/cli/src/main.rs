//! The `bolide` command: one file for each subcommand.
#![forbid(unsafe_code)]

mod cli;
mod convert;
mod output;
mod pull;
mod registry;
mod size;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
