//! What all subcommands share: the command line, the runtime, interruption and exit codes.
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{convert, inspect, output};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage.";

/// Containers start while their image is still on its way.
#[derive(Debug, Parser)]
#[command(name = "bolide", version, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Rewrite an image so that it can be pulled lazily and still runs anywhere
    #[command(after_help = EXIT_CODES)]
    Convert(convert::Args),
    /// Tell what an image is made of, reading only its manifest, footers and TOCs
    #[command(after_help = EXIT_CODES)]
    Inspect(inspect::Args),
}

/// Runs the command line of this process. Wrong usage ends the process here, with code 2.
pub(crate) fn run() -> ExitCode {
    let command = Cli::parse().command;
    match run_to_end(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// When the runtime is dropped it waits for blocking work, so temporary files are gone at the end.
fn run_to_end(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let work = async {
            match command {
                Command::Convert(args) => convert::run(args).await,
                Command::Inspect(args) => inspect::run(args).await,
            }
        };
        tokio::select! {
            done = work => done,
            interrupt = interrupted() => {
                interrupt.context("cannot listen for signals")?;
                bail!("interrupted")
            }
        }
    })
}

/// Waits until somebody wants this process to end.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_told_from_failure() {
        for line in [
            &["bolide"][..],
            &["bolide", "convert", "oci:a"],
            &["bolide", "convert", "containerd:a", "oci:b"],
            &["bolide", "convert", "oci:a", "oci:b", "--chunk-size", "0"],
            &["bolide", "convert", "oci:a", "oci:b", "--level", "10"],
            &["bolide", "convert", "oci:a", "localhost:5000/Upper"],
            &["bolide", "convert", "oci:a", "localhost/a", "--plain-http", "http://b"],
            &["bolide", "inspect", "localhost:5000/a:b:c"],
            &["bolide", "inspect", "oci:a", "--files", "--toc"],
        ] {
            let error = Cli::try_parse_from(line).expect_err("wrong usage");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
