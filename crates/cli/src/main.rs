//! The `bolide` command: one file for each subcommand.
#![forbid(unsafe_code)]

mod cli;
mod convert;
mod inspect;
mod output;
mod registry;
mod size;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
