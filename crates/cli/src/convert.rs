//! `bolide convert`: rewrites an image with eStargz layers.
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use bolide_estargz::BuildOptions;
use bolide_image::{
    Access, ConvertOptions, ConvertReport, Location, Platform, Progress, convert_image,
};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{output, registry, size};

/// Longest list of recorded paths, in bytes.
const MAX_RECORD: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to read: a reference into a registry, oci:DIR or oci:DIR:TAG
    src: Location,
    /// Image to write: a reference into a registry, oci:DIR or oci:DIR:TAG
    dst: Location,
    /// Largest chunk: what the first read of a file fetches at least
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size::parse)]
    chunk_size: u64,
    /// Compression level
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=9))]
    level: u32,
    /// File that lists the paths used first: one a line, or JSON lines with a `path`
    #[arg(long, value_name = "FILE")]
    record_in: Option<PathBuf>,
    /// Which image of a multi-platform one, for example linux/arm64 [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Write OCI media types where the source has Docker's
    #[arg(long)]
    oci: bool,
    /// Registry to speak to without TLS; this machine is one anyway
    #[arg(long, value_name = "HOST", value_parser = registry::plain_host)]
    plain_http: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prioritized = match args.record_in {
        Some(path) => {
            tokio::task::spawn_blocking(move || {
                read_record(&path).with_context(|| format!("cannot use {}", path.display()))
            })
            .await??
        }
        None => Vec::new(),
    };
    let layer = BuildOptions {
        chunk_size: args.chunk_size,
        level: Some(args.level),
        prioritized,
        ..BuildOptions::default()
    };
    let platform = args.platform.unwrap_or_else(Platform::host);
    let options = ConvertOptions { layer, platform, oci: args.oci };
    // Dropped, and so removed, when all is done or has failed.
    let work_dir = work_dir(&args.dst)?;
    let mut access = Access::layouts();
    if [&args.src, &args.dst].iter().any(|place| matches!(place, Location::Registry(_))) {
        access = access.with_registries(registry::client(&args.plain_http)?);
    }
    if let Some(dir) = &work_dir {
        access = access.with_work_dir(dir.path());
    }
    let bar = progress_bar();
    let show = |event| match event {
        Progress::Started { size, .. } => bar.inc_length(size),
        Progress::Read { bytes, .. } => bar.inc(bytes),
        _ => {}
    };
    let report = convert_image(&access, &args.src, &args.dst, &options, show).await;
    bar.finish_and_clear();
    let report = report?;
    if args.json { output::json(&report) } else { print(&args.dst, &report) }
}

/// Layers on their way to a registry lie here, readable by nobody else.
fn work_dir(dst: &Location) -> Result<Option<TempDir>> {
    match dst {
        Location::Registry(_) => {
            let dir = tempfile::Builder::new().prefix("bolide-").tempdir();
            dir.map(Some).context("cannot make a temporary directory")
        }
        Location::Layout { .. } => Ok(None),
    }
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
    for layer in &report.layers {
        let sizes = format!("{} -> {}", HumanBytes(layer.source_size), HumanBytes(layer.size));
        let toc = layer.toc_digest.map_or_else(String::new, |toc| format!("  toc {toc}"));
        output::line(&format!("{}  {sizes}{toc}", layer.digest))?;
    }
    output::line(&format!("{dst} {}", report.digest))
}

#[derive(Deserialize)]
struct Recorded {
    path: String,
}

pub(crate) fn read_record(path: &Path) -> Result<Vec<String>> {
    let file = File::open(path)?;
    ensure!(file.metadata()?.len() <= MAX_RECORD, "a list of paths may have 64 MiB");
    let mut paths = Vec::new();
    for (at, line) in BufReader::new(file.take(MAX_RECORD)).lines().enumerate() {
        let line = line.with_context(|| format!("line {}", at + 1))?;
        if line.starts_with('{') {
            let recorded: Recorded =
                serde_json::from_str(&line).with_context(|| format!("line {}", at + 1))?;
            paths.push(recorded.path);
        } else if !line.is_empty() {
            paths.push(line);
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn record(text: &str) -> Result<Vec<String>> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(text.as_bytes())?;
        read_record(file.path())
    }

    #[test]
    fn both_forms_of_a_record_are_read() {
        let text = "bin/a b\n\n{\"path\": \"etc/x\", \"layerIndex\": 1}\n";
        assert_eq!(record(text).expect("record"), ["bin/a b", "etc/x"]);
        let error = record("ok\n{\"no\": 1}\n").expect_err("no path");
        assert!(format!("{error:#}").starts_with("line 2: "), "{error:#}");
    }
}
