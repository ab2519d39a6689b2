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
mod hosts;
mod session;
mod spec;
mod workload;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use bolide_image::{
    Access, ConvertOptions, ConvertReport, Location, Platform, Platforms, Prioritized,
};

use crate::{
    convert::{self, LayerArgs},
    interrupt::Signals,
    places::{self, PlaceArgs},
    sandbox,
    usage::{UsageFile, UsedPath},
};
use args::{NetworkArgs, StopArgs, WorkloadArgs};
use session::{Run, Session};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to read.
    #[arg(help = places::SOURCE)]
    src: Location,
    /// Image to write, in the same words
    dst: Location,
    /// Write the image without running it, nothing first
    #[arg(long, conflicts_with_all = ["record_in", "record_out", "prefetch_list"])]
    no_optimize: bool,
    /// File to keep the record in
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record_in", "prefetch_list"])]
    record_out: Option<PathBuf>,
    /// Record of an earlier run, in place of a run: JSON lines with a `path`, or paths
    #[arg(long, value_name = "FILE", conflicts_with = "prefetch_list")]
    record_in: Option<PathBuf>,
    /// File that lists what comes first, by a person, in place of a run: a path or a pattern of
    /// * ? [] ** a line, comments after #
    #[arg(long, value_name = "FILE")]
    prefetch_list: Option<PathBuf>,
    #[command(flatten)]
    layer: LayerArgs,
    #[command(flatten)]
    places: PlaceArgs,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// A run of the workload.
    Run,
    /// A record, or a list.
    File,
    /// Nowhere: nothing comes first.
    None,
}

impl Args {
    /// What is wrong with how the options are combined.
    pub(crate) fn check(&self) -> Result<(), bolide_core::Error> {
        let options = self.layer.options();
        if self.order() != Order::None {
            options.check_prioritizing()?;
        }
        options.check(&self.dst)
    }

    fn order(&self) -> Order {
        if self.record_in.is_some() || self.prefetch_list.is_some() {
            return Order::File;
        }
        if self.no_optimize {
            return Order::None;
        }
        // Programs of other machines do not run here.
        let host = Platform::host();
        let runs = match self.layer.options().platforms {
            Platforms::One(one) => one.accepts(&host),
            Platforms::Several(several) => several.iter().any(|one| one.accepts(&host)),
            Platforms::All => true,
        };
        if runs { Order::Run } else { Order::None }
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
    let opened = signals.bound(args.places.open(&[&args.src, &args.dst])).await?;
    let opened = opened.with_upload_chunk(args.layer.upload_chunk());
    let report = write(&args, opened.access(), &mut signals).await;
    let closed = opened.close(report.is_err()).await;
    let report = report?;
    closed?;
    convert::tell(&args.dst, &report, args.json)
}

async fn write(args: &Args, access: &Access, signals: &mut Signals) -> Result<ConvertReport> {
    let mut options: ConvertOptions = args.layer.options();
    options.prioritized = match args.order() {
        Order::Run => {
            let used = record(args, access, signals).await?;
            let used = used.iter().map(UsedPath::place).collect();
            signals.bound(convert::by_record(access, &args.src, &used)).await?
        }
        Order::File => {
            let (record, list) = (args.record_in.as_deref(), args.prefetch_list.as_deref());
            let first = convert::what_comes_first(access, &args.src, record, list);
            signals.bound(first).await?
        }
        Order::None => Prioritized::default(),
    };
    signals.bound(convert::write(access, &args.src, &args.dst, &options)).await
}

/// Runs the workload; what it used, in the order of first use.
async fn record(args: &Args, access: &Access, signals: &mut Signals) -> Result<Vec<UsedPath>> {
    let file = args.record_out.as_deref().map(UsageFile::create).transpose()?;
    let run = Run {
        image: &args.src,
        access,
        plain_http: args.places.plain_http(),
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
        assert_eq!(record.order(), Order::File);
    }
}
