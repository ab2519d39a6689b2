//! `bolide inspect`: what an image is made of.
use std::fmt::Write as _;

use anyhow::{Result, bail};
use bolide_estargz::ListedFile;
use bolide_image::{
    Access, Annotation, Format, ImageReport, InspectOptions, LayerReport, Location, Platform,
    Prefetch, inspect_image,
};
use indicatif::HumanBytes;

use crate::{output, registry};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to read: a reference into a registry, oci:DIR or oci:DIR:TAG
    src: Location,
    /// List the files of each layer
    #[arg(long)]
    files: bool,
    /// Print the TOC document of each layer and nothing else
    #[arg(long, conflicts_with = "files")]
    toc: bool,
    /// Which image of a multi-platform one, for example linux/arm64 [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Registry to speak to without TLS; this machine is one anyway
    #[arg(long, value_name = "HOST", value_parser = registry::plain_host)]
    plain_http: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut access = Access::layouts();
    if let Location::Registry(_) = args.src {
        access = access.with_registries(registry::client(&args.plain_http)?);
    }
    let platform = args.platform.unwrap_or_else(Platform::host);
    let options = InspectOptions { platform, files: args.files, tocs: args.toc };
    let report = inspect_image(&access, &args.src, &options).await?;
    if args.toc {
        print_tocs(&report)?;
    } else if args.json {
        output::json(&report)?;
    } else {
        print(&args.src, &report)?;
    }
    let differs = |layer: &&LayerReport| layer.annotation == Some(Annotation::Differs);
    if let Some(layer) = report.layers.iter().find(differs) {
        bail!("layer {}: its TOC is not the one that its manifest annotates", layer.digest);
    }
    Ok(())
}

fn print_tocs(report: &ImageReport) -> Result<()> {
    for toc in report.layers.iter().filter_map(|layer| layer.toc.as_ref()) {
        output::document(toc)?;
    }
    Ok(())
}

fn print(src: &Location, report: &ImageReport) -> Result<()> {
    let media_type = printable(&report.media_type);
    output::line(&format!("{src}  {}  {media_type}", report.manifest))?;
    for (number, layer) in report.layers.iter().enumerate() {
        output::line(&format!("layer {number}  {}", describe(layer)))?;
        for file in layer.files.iter().flatten() {
            output::line(&format!("  {}", file_line(file)))?;
        }
    }
    Ok(())
}

fn describe(layer: &LayerReport) -> String {
    let kind = match layer.format {
        Format::Estargz => "eStargz",
        Format::LegacyStargz => "stargz",
        Format::EstargzExternalToc => "eStargz, its TOC in another image",
        Format::ZstdChunked => "zstd:chunked",
        Format::ZstdChunkedPodman => "zstd:chunked of Podman",
        Format::Plain => "plain: not lazy",
    };
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
            Prefetch::UpTo(bytes) => format!("first {} to be prefetched", HumanBytes(bytes)),
        };
        let (files, chunks) = (contents.nodes, contents.chunks);
        let _ = write!(text, "\n  {files} files and directories, {chunks} chunks, {prefetch}");
    }
    text
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
