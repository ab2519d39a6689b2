//! The `bolide` command: one file for each subcommand.
#![forbid(unsafe_code)]

mod cli;
mod config;
mod convert;
mod output;
mod pull;
mod registry;
mod serve;
mod size;
mod status;
mod surroundings;
mod telemetry;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
