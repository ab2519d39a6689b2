//! The `bolide` command: one file for each subcommand.
mod cli;
mod config;
mod convert;
mod demo;
mod inspect;
mod interrupt;
mod memory;
mod mount;
mod optimize;
mod output;
mod places;
mod pull;
mod record;
mod registry;
mod sandbox;
mod serve;
mod size;
mod status;
mod surroundings;
mod telemetry;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    memory::give_back();
    cli::run()
}
