//! What all subcommands share: the command line, the runtime, interruption and exit codes.
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    config, convert, demo, inspect, interrupt::until_interrupted, mount, optimize, output, pull,
    sandbox, serve, status, telemetry,
};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage.";

const MOUNT_EXIT_CODES: &str = "Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage; with \
    a command, its own, or 128 more than the signal that ended it.";

/// Containers start while their image is still on its way.
#[derive(Debug, Parser)]
#[command(name = "bolide", version, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    telemetry: telemetry::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Rewrite an image so that it can be pulled lazily and still runs anywhere
    #[command(after_help = EXIT_CODES)]
    Convert(convert::Args),
    /// Rewrite an image with what its program uses first at the front, found by running it
    #[command(after_help = EXIT_CODES)]
    Optimize(Box<optimize::Args>),
    /// Tell what an image is made of, reading only its manifest, footers and TOCs
    #[command(after_help = EXIT_CODES)]
    Inspect(inspect::Args),
    /// Pull an image into containerd, leaving what can be lazy in its registry
    #[command(after_help = EXIT_CODES)]
    Pull(pull::Args),
    /// Serve containerd as its snapshotter
    #[command(after_help = EXIT_CODES)]
    Serve(serve::Args),
    /// Show what a daemon has mounted, how lazy it is, and why what is not
    #[command(after_help = EXIT_CODES)]
    Status(status::Args),
    /// Print the default configuration, or check one
    #[command(after_help = EXIT_CODES)]
    Config(config::Args),
    /// Run an image's program after a full pull and lazily, side by side, on this machine alone
    #[command(after_help = EXIT_CODES)]
    Demo(demo::Args),
    /// Show an image on a directory, without containerd
    #[command(after_help = MOUNT_EXIT_CODES)]
    Mount(mount::Args),
    /// End what mount shows on a directory
    #[command(after_help = EXIT_CODES)]
    Umount(mount::UmountArgs),
    /// What this program starts itself
    #[command(hide = true, subcommand)]
    Internal(sandbox::Internal),
}

impl Cli {
    /// Finds options that do not go together, where the parser alone cannot.
    fn check(&self) -> Result<(), clap::Error> {
        let checked = match &self.command {
            Command::Convert(args) => args.check(),
            Command::Optimize(args) => args.check(),
            _ => Ok(()),
        };
        let refused = |rule| Self::command().error(clap::error::ErrorKind::ArgumentConflict, rule);
        checked.map_err(refused)
    }
}

impl Command {
    /// What a command logs unless told otherwise: a daemon tells what it does, others their trouble.
    fn log_level(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info",
            _ => "warn",
        }
    }
}

/// Runs the command line of this process. Wrong usage ends the process here, with code 2.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    if let Err(refused) = cli.check() {
        refused.exit();
    }
    match run_to_end(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// When the runtime is dropped it waits for blocking work, so temporary files are gone at the end.
fn run_to_end(Cli { telemetry, command }: Cli) -> Result<u8> {
    // Namespaces are entered while there is a single thread.
    match command {
        Command::Internal(entry) => return sandbox::run(entry),
        Command::Demo(ref args) => args.enter_namespaces()?,
        Command::Mount(ref args) => args.enter_namespaces()?,
        Command::Optimize(ref args) => args.enter_namespaces()?,
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let telemetry = telemetry.begin(command.log_level())?;
        // On the heap: the largest command would make everyone's stack large.
        let done = Box::pin(execute(command)).await;
        telemetry.shutdown(telemetry::PATIENCE).await;
        done
    })
}

async fn execute(command: Command) -> Result<u8> {
    let done = match command {
        // It unmounts before it ends, and has the exit code of its command.
        Command::Mount(args) => return mount::run(args).await,
        Command::Umount(args) => mount::umount(args).await,
        // It gives back what containerd lent before it ends.
        Command::Convert(args) => convert::run(args).await,
        // It ends its container and unmounts before it ends.
        Command::Optimize(args) => Box::pin(optimize::run(*args)).await,
        // It gives back what containerd lent before it ends.
        Command::Inspect(args) => inspect::run(args).await,
        // It gives back what containerd lent before it ends.
        Command::Pull(args) => pull::run(args).await,
        // It unmounts before it ends.
        Command::Serve(args) => serve::run(args).await,
        Command::Status(args) => until_interrupted(status::run(args)).await,
        Command::Config(args) => config::run(&args),
        // It removes what it made before it ends.
        Command::Demo(args) => demo::run(args).await,
        Command::Internal(_) => bail!("this entry starts before there is a runtime"),
    };
    done.map(|()| 0)
}

#[cfg(test)]
mod tests {
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
            &["bolide", "convert", "containerd:A", "oci:b"],
            &["bolide", "convert", "oci:a", "docker-archive:b"],
            &["bolide", "convert", "oci:a", "oci:b", "--format", "zip"],
            &["bolide", "convert", "oci:a", "oci:b", "--format", "estargz-external-toc"],
            &["bolide", "convert", "oci:a", "oci:b", "--format", "zstd-chunked", "--docker"],
            &["bolide", "convert", "oci:a", "oci:b", "--keep-diff-id"],
            &["bolide", "convert", "oci:a", "oci:b", "--docker", "--oci"],
            &["bolide", "convert", "oci:a", "oci:b", "--parallelism", "0"],
            &["bolide", "convert", "oci:a", "oci:b", "--platform", "linux/arm", "--all-platforms"],
            &["bolide", "convert", "oci:a", "oci:b", "--format", "tar-gzip", "--record-in", "x"],
            &["bolide", "convert", "oci:a", "oci:b", "--chunk-size", "0"],
            &["bolide", "convert", "oci:a", "oci:b", "--level", "10"],
            &["bolide", "convert", "oci:a", "localhost:5000/Upper"],
            &["bolide", "convert", "oci:a", "localhost/a", "--plain-http", "http://b"],
            &["bolide", "optimize", "oci:a", "oci:b", "--entrypoint", "sh -c"],
            &["bolide", "optimize", "oci:a", "oci:b", "--terminal"],
            &["bolide", "optimize", "oci:a", "oci:b", "-i", "-t", "--wait-on-signal"],
            &["bolide", "optimize", "oci:a", "oci:b", "--no-optimize", "--record-in", "file"],
            &["bolide", "optimize", "oci:a", "oci:b", "--cni", "--net-host"],
            &["bolide", "inspect", "localhost:5000/a:b:c"],
            &["bolide", "inspect", "oci:a", "--files", "--toc"],
            &["bolide", "config"],
            &["bolide", "status", "--log-format", "xml"],
            &["bolide", "pull"],
            &["bolide", "pull", "Not A Name"],
            &["bolide", "pull", "python", "--prefetch", "much"],
        ] {
            let parsed = Cli::try_parse_from(line).and_then(|cli| cli.check());
            let error = parsed.expect_err("wrong usage");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
