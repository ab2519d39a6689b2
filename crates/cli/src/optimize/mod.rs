//! `bolide optimize`: runs an image's program, records what it uses of the image, and converts the
//! image with that first.
//!
//! The recorder is bolide's own FUSE mount under the container's root, so that it sees everything
//! from before the first instruction: programs that are executed, pages that are mapped, links that
//! are followed, directories that are listed, and in which order.
mod args;
mod cdi;
mod cni;
mod container;
mod convert;
mod hosts;
mod session;
mod spec;
mod workload;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bolide_image::{Location, Platform};

use crate::{
    convert::read_record,
    interrupt::Signals,
    registry, sandbox,
    usage::{UsageFile, UsedPath},
};
use args::{NetworkArgs, StopArgs, WorkloadArgs};
use session::{Run, Session};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to read: a reference into a registry, oci:DIR or oci:DIR:TAG
    src: Location,
    /// Image to write: a reference into a registry, oci:DIR or oci:DIR:TAG
    dst: Location,
    /// Write the image without running it, nothing first
    #[arg(long, conflicts_with_all = ["record_in", "record_out"])]
    no_optimize: bool,
    /// File to keep the record in
    #[arg(long, value_name = "FILE", conflicts_with = "record_in")]
    record_out: Option<PathBuf>,
    /// Record of an earlier run, in place of a run: JSON lines with a `path`, or paths
    #[arg(long, value_name = "FILE")]
    record_in: Option<PathBuf>,
    /// Compression level
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=9))]
    level: u32,
    /// Which image of a multi-platform one; only this machine's is run [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Registry to speak to without TLS; this machine is one anyway
    #[arg(long, value_name = "HOST", value_parser = registry::plain_host)]
    plain_http: Vec<String>,
    /// Print one JSON document; what the workload prints goes to standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Where it comes from what is used first.
#[derive(Debug, PartialEq, Eq)]
enum Order<'a> {
    /// A run of the workload.
    Run,
    /// A record.
    Record(&'a Path),
    /// Nowhere: nothing comes first.
    None,
}

impl Args {
    fn order(&self) -> Order<'_> {
        match &self.record_in {
            Some(file) => Order::Record(file),
            None if self.no_optimize => Order::None,
            // Programs of other machines do not run here.
            None if self.platform() != Platform::host() => Order::None,
            None => Order::Run,
        }
    }

    /// Enters the namespace that mounts and containers are to be in, which takes them along when this
    /// process ends; to be called first of all.
    pub(crate) fn enter_namespaces(&self) -> Result<()> {
        if self.order() != Order::Run {
            return Ok(());
        }
        ensure!(
            sandbox::is_privileged(),
            "only root can run an image's program in a container; without root, record it with \
             bolide mount IMAGE DIR --record-out FILE -- COMMAND, and give --record-in FILE"
        );
        sandbox::enter()
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    // Listened for before anything is made: from here on they end this in good order.
    let mut signals = Signals::listen()?;
    let prioritized = match args.order() {
        Order::Run => {
            let used = record(&args, &mut signals).await?;
            used.iter().map(|used| used.path().to_owned()).collect()
        }
        Order::Record(file) => {
            read_record(file).with_context(|| format!("cannot use {}", file.display()))?
        }
        Order::None => Vec::new(),
    };
    signals.bound(convert::convert(&args, prioritized)).await
}

/// Runs the workload; what it used, in the order of first use.
async fn record(args: &Args, signals: &mut Signals) -> Result<Vec<UsedPath>> {
    let file = args.record_out.as_deref().map(UsageFile::create).transpose()?;
    let run = Run {
        image: &args.src,
        plain_http: &args.plain_http,
        workload: &args.workload,
        network: &args.network,
        stop: &args.stop,
        aside: args.json,
    };
    let mut session = Session::new()?;
    let recorded = session.record(run, signals).await;
    let closed = session.close().await;
    let recorded = recorded?;
    closed?;
    if let Some(file) = file {
        file.write(&recorded)?;
    }
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    #[test]
    fn only_programs_for_this_machine_are_run() {
        let parse = |flags: &[&str]| {
            let line = [&["oci:a", "oci:b"][..], flags].concat();
            let command = Args::augment_args(Command::new("x").no_binary_name(true));
            Args::from_arg_matches(&command.get_matches_from(line)).expect("arguments")
        };
        assert_eq!(parse(&[]).order(), Order::Run);
        assert_eq!(parse(&["--no-optimize"]).order(), Order::None);
        assert_eq!(parse(&["--platform", "linux/s390x"]).order(), Order::None);
        let record = parse(&["--platform", "linux/s390x", "--record-in", "file"]);
        assert_eq!(record.order(), Order::Record(Path::new("file")));
    }
}
