//! `bolide convert`: rewrites an image with other layers.
mod args;

use std::path::{Path, PathBuf};

use anyhow::Result;
use bolide_core::{Digest, ErrorKind};
use bolide_image::{
    Access, ConvertOptions, ConvertReport, ImageSource, Location, PathList, Platform, Prioritized,
    Progress, UsageRecord, convert_image,
};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) use args::LayerArgs;

use crate::{
    interrupt::until_interrupted,
    output,
    places::{self, PlaceArgs},
    record,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to read.
    #[arg(help = places::SOURCE)]
    src: Location,
    /// Image to write, in the same words
    dst: Location,
    #[command(flatten)]
    layer: LayerArgs,
    /// File that records the paths used first: one a line, or JSON lines with a `path`
    #[arg(long, value_name = "FILE", conflicts_with = "prefetch_list")]
    record_in: Option<PathBuf>,
    /// File that lists what comes first, by a person: a path or a pattern of * ? [] ** a line,
    /// comments after #
    #[arg(long, value_name = "FILE")]
    prefetch_list: Option<PathBuf>,
    #[command(flatten)]
    places: PlaceArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What is wrong with how the options are combined.
    pub(crate) fn check(&self) -> Result<(), bolide_core::Error> {
        let options = self.layer.options();
        if self.record_in.is_some() || self.prefetch_list.is_some() {
            options.check_prioritizing()?;
        }
        options.check(&self.dst)
    }
}

/// Handles interruption itself, because containerd gets back what it lent.
pub(crate) async fn run(args: Args) -> Result<()> {
    let opened = until_interrupted(args.places.open(&[&args.src, &args.dst])).await?;
    let opened = opened.with_upload_chunk(args.layer.upload_chunk());
    let access = opened.access();
    let work = async {
        let mut options = args.layer.options();
        let (record, list) = (args.record_in.as_deref(), args.prefetch_list.as_deref());
        options.prioritized = what_comes_first(access, &args.src, record, list).await?;
        write(access, &args.src, &args.dst, &options).await
    };
    let report = until_interrupted(work).await;
    let closed = opened.close(report.is_err()).await;
    let report = report?;
    closed?;
    tell(&args.dst, &report, args.json)
}

/// What comes first by a record of use, or by a list that a person wrote.
pub(crate) async fn what_comes_first(
    access: &Access,
    src: &Location,
    record: Option<&Path>,
    list: Option<&Path>,
) -> Result<Prioritized> {
    Ok(match (record, list) {
        (Some(path), _) => {
            let record = record::read(path, UsageRecord::read).await?;
            by_record(access, src, &record).await?
        }
        (None, Some(path)) => {
            Prioritized::everywhere(record::read(path, PathList::read_list).await?)
        }
        (None, None) => Prioritized::default(),
    })
}

/// What comes first by a record of use: where it is of this machine's image at `src`, each layer gets
/// what it served.
pub(crate) async fn by_record(
    access: &Access,
    src: &Location,
    record: &UsageRecord,
) -> Result<Prioritized> {
    Ok(match ImageSource::open(access, src, &Platform::host()).await {
        Ok(image) => {
            let layers = image.manifest().layers.iter().map(|layer| layer.digest);
            record.prioritized(image.target().digest, &layers.collect::<Vec<_>>())
        }
        // There is none for this machine, so the record is of another.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            record.prioritized(Digest::of(b""), &[])
        }
        Err(error) => return Err(error.into()),
    })
}

/// Converts an image while a bar shows how far it is.
pub(crate) async fn write(
    access: &Access,
    src: &Location,
    dst: &Location,
    options: &ConvertOptions,
) -> Result<ConvertReport> {
    let bar = progress_bar();
    let show = |event| match event {
        Progress::Started { size, .. } => bar.inc_length(size),
        Progress::Read { bytes, .. } => bar.inc(bytes),
        _ => {}
    };
    let report = convert_image(access, src, dst, options, show).await;
    bar.finish_and_clear();
    Ok(report?)
}

/// Tells what was written.
pub(crate) fn tell(dst: &Location, report: &ConvertReport, json: bool) -> Result<()> {
    for line in &report.unmatched {
        tracing::warn!(line, "no layer has anything for a line of the list");
    }
    if json { output::json(report) } else { print(dst, report) }
}

/// Drawn only when standard error is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn print(dst: &Location, report: &ConvertReport) -> Result<()> {
    let mut layers = report.layers.iter();
    for image in &report.images {
        if let [_, _, ..] = report.images[..] {
            let platform = image.platform.as_ref().map_or_else(String::new, ToString::to_string);
            output::line(&format!("{platform} {}", image.digest))?;
        }
        for layer in layers.by_ref().take(image.layers) {
            let sizes = if layer.reused {
                format!("{} as it was", HumanBytes(layer.size))
            } else {
                format!("{} -> {}", HumanBytes(layer.source_size), HumanBytes(layer.size))
            };
            let toc = layer.toc_digest.map_or_else(String::new, |toc| format!("  toc {toc}"));
            output::line(&format!("{}  {sizes}{toc}", layer.digest))?;
        }
    }
    if let Some(image) = &report.toc_image {
        output::line(&format!("TOCs in {image}"))?;
    }
    output::line(&format!("{dst} {}", report.digest))
}
