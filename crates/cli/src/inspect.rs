//! `bolide inspect`: what an image is made of.
use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use bolide_estargz::ListedFile;
use bolide_image::{
    Access, Annotation, Contents, Format, ImageReport, InspectOptions, LayerReport, Location,
    Platform, Prefetch, inspect_image,
};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::{
    interrupt::until_interrupted,
    output,
    places::{self, PlaceArgs},
};

/// Faults of one layer that are printed.
const SHOWN_FAULTS: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to read.
    #[arg(help = places::SOURCE)]
    src: Location,
    #[command(flatten)]
    what: What,
    /// Read every layer as a whole, and compare digests, diffIDs, TOC and tar with each other
    #[arg(long)]
    verify: bool,
    /// Image this one was made from: how much larger it is, is told
    #[arg(long, value_name = "SRC")]
    against: Option<Location>,
    /// Which image of a multi-platform one, for example linux/arm64 [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    #[command(flatten)]
    places: PlaceArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What is told of the layers.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct What {
    /// List the files of each layer
    #[arg(long)]
    files: bool,
    /// Print the TOC document of each layer and nothing else
    #[arg(long)]
    toc: bool,
    /// Print one line for each layer
    #[arg(long)]
    layers: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut wanted = vec![&args.src];
    wanted.extend(&args.against);
    let opened = until_interrupted(args.places.open(&wanted)).await?;
    let read = until_interrupted(read(opened.access(), &args)).await;
    let closed = opened.close(read.is_err()).await;
    let (report, source) = read?;
    closed?;
    let shown = Shown { report: &report, source_size: source.as_ref().map(size) };
    if args.what.toc {
        print_tocs(&report)?;
    } else if args.json {
        output::json(&shown)?;
    } else if args.what.layers {
        shown.print_layers()?;
    } else {
        print(&args.src, &shown)?;
    }
    judge(&report)
}

/// Reads the image, and the one it is compared with.
async fn read(access: &Access, args: &Args) -> Result<(ImageReport, Option<ImageReport>)> {
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let plain = InspectOptions { platform, ..InspectOptions::default() };
    let options = InspectOptions {
        files: args.what.files,
        tocs: args.what.toc,
        verify: args.verify,
        ..plain.clone()
    };
    let report = inspect_image(access, &args.src, &options).await?;
    let source = match &args.against {
        Some(source) => Some(inspect_image(access, source, &plain).await?),
        None => None,
    };
    Ok((report, source))
}

/// What is found wrong makes the command fail, after all was said.
fn judge(report: &ImageReport) -> Result<()> {
    let differs = |layer: &&LayerReport| layer.annotation == Some(Annotation::Differs);
    if let Some(layer) = report.layers.iter().find(differs) {
        bail!("layer {}: its TOC is not the one that its manifest annotates", layer.digest);
    }
    let faults: usize = report.layers.iter().flat_map(|layer| &layer.faults).map(Vec::len).sum();
    ensure!(faults == 0, "the image has {faults} faults");
    Ok(())
}

/// Compressed size of all layers, in bytes.
fn size(report: &ImageReport) -> u64 {
    report.layers.iter().map(|layer| layer.size).sum()
}

/// A report, and what it is compared with.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a ImageReport,
    /// Compressed size of the layers of the image it was made from, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_size: Option<u64>,
}

impl Shown<'_> {
    /// How much larger the image is than its source.
    fn overhead(&self) -> Option<String> {
        let (own, source) = (size(self.report), self.source_size?);
        Some(format!(
            "{} against {} of its source: {:+.1} %",
            HumanBytes(own),
            HumanBytes(source),
            percent(own, source) - 100.0
        ))
    }

    fn print_layers(&self) -> Result<()> {
        for layer in &self.report.layers {
            let first = layer.contents.map_or(0.0, |contents| prioritized(layer.size, contents));
            let (nodes, chunks) =
                layer.contents.map_or((0, 0), |contents| (contents.nodes, contents.chunks));
            let format = format_name(layer.format);
            output::line(&format!(
                "{}  {format:<33} {:>12}  {nodes:>8} files  {chunks:>8} chunks  {first:>5.1} % first",
                layer.digest, layer.size,
            ))?;
        }
        self.overhead().map_or(Ok(()), |line| output::line(&line))
    }
}

/// Share of the blob that its author put first, in percent.
fn prioritized(size: u64, contents: Contents) -> f64 {
    match contents.prefetch {
        Prefetch::UpTo(bytes) => percent(bytes, size),
        Prefetch::Absent | Prefetch::Nothing => 0.0,
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn print_tocs(report: &ImageReport) -> Result<()> {
    for toc in report.layers.iter().filter_map(|layer| layer.toc.as_ref()) {
        output::document(toc)?;
    }
    Ok(())
}

fn print(src: &Location, shown: &Shown<'_>) -> Result<()> {
    let report = shown.report;
    let media_type = printable(&report.media_type);
    output::line(&format!("{src}  {}  {media_type}", report.manifest))?;
    for (number, layer) in report.layers.iter().enumerate() {
        output::line(&format!("layer {number}  {}", describe(layer)))?;
        for file in layer.files.iter().flatten() {
            output::line(&format!("  {}", file_line(file)))?;
        }
    }
    shown.overhead().map_or(Ok(()), |line| output::line(&line))
}

/// The first things that are wrong with a layer, and how many there are.
fn faults(faults: &[String]) -> String {
    if faults.is_empty() {
        return "\n  sound: all digests, the diffID, and the TOC as its tar".to_owned();
    }
    let mut text = String::new();
    for fault in faults.iter().take(SHOWN_FAULTS) {
        let _ = write!(text, "\n  WRONG {}", printable(fault));
    }
    if let Some(more) = faults.len().checked_sub(SHOWN_FAULTS).filter(|more| *more > 0) {
        let _ = write!(text, "\n  and {more} more");
    }
    text
}

fn describe(layer: &LayerReport) -> String {
    let kind = format_name(layer.format);
    let mut text = format!("{}  {}  {kind}", layer.digest, HumanBytes(layer.size));
    // Writing to a String cannot fail, here and below.
    if let (Some(toc), Some(annotation)) = (layer.toc_digest, layer.annotation) {
        let verdict = match annotation {
            Annotation::Matches => "as annotated",
            Annotation::Differs => "NOT the one that is annotated",
            Annotation::Missing => "not annotated, so nothing can be verified",
        };
        let _ = write!(text, "\n  toc {toc}  {verdict}");
    } else if layer.format == Format::EstargzExternalToc {
        text.push_str("\n  toc not found: not lazy without the image of TOCs beside this one");
    }
    if let Some(contents) = layer.contents {
        let prefetch = match contents.prefetch {
            Prefetch::Absent => "nothing said of prefetching".to_owned(),
            Prefetch::Nothing => "marked as not worth prefetching".to_owned(),
            Prefetch::UpTo(bytes) => format!(
                "first {} to be prefetched, {:.1} %",
                HumanBytes(bytes),
                prioritized(layer.size, contents)
            ),
        };
        let (files, chunks) = (contents.nodes, contents.chunks);
        let _ = write!(text, "\n  {files} files and directories, {chunks} chunks, {prefetch}");
    }
    text.extend(layer.faults.as_deref().map(faults));
    text
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Estargz => "eStargz",
        Format::LegacyStargz => "stargz",
        Format::EstargzExternalToc => "eStargz, its TOC in another image",
        Format::ZstdChunked => "zstd:chunked",
        Format::ZstdChunkedPodman => "zstd:chunked of Podman",
        Format::Plain => "plain: not lazy",
    }
}

/// As `ls` and `stat` would show it; times are seconds since 1970.
fn file_line(file: &ListedFile) -> String {
    let mut text = format!("{:<8} {:04o} {}:{}", file.kind, file.mode, file.uid, file.gid);
    let size = match (file.size, file.major, file.minor) {
        (Some(size), ..) => size.to_string(),
        (None, Some(major), Some(minor)) => format!("{major},{minor}"),
        _ => "-".to_owned(),
    };
    let _ = write!(text, " {size:>10} {} {}", file.mtime, printable(&file.name));
    if let Some(link) = &file.link {
        let _ = write!(text, " -> {}", printable(link));
    }
    text
}

/// Names come from whoever made the image, and must not command the terminal.
fn printable(name: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    name.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_command_the_terminal() {
        assert_eq!(printable("ünïcode a\u{1b}[2J\n"), "ünïcode a\\u{1b}[2J\\n");
    }
}
