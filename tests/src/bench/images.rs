//! The images that are measured: plain, converted, and converted in the order of first use.
use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bolide_e2e::{
    Image, Registry, bolide, detach_below, entrypoint, from_environment, opened_files, run,
};
use flate2::read::GzDecoder;

use crate::{cache, node::Node};

const CONVERSION: Duration = Duration::from_mins(10);
/// Size of the footer that says where the table of contents begins.
const FOOTER: usize = 51;
/// What the author of an image puts behind the files that a program uses at its start.
const LANDMARK: &str = ".prefetch.landmark";

/// Pushes all three as `python:plain`, `python:esgz` and `python:landmark`; returns the plain one
/// and the bytes that the program needs: the compressed size of the files it opens.
pub(crate) fn push(registry: &Registry) -> Result<(Image, u64)> {
    let layout = from_environment("BOLIDE_E2E_LAYOUT")?;
    let plain = Image::open(&layout)?;
    registry.push(&plain, "python", "plain")?;

    let source = format!("oci:{}:python", layout.display());
    let digest = plain.digest();
    let converted = cache::directory("python-esgz", &digest, |dir| convert(&source, dir, None))?;
    registry.push(&Image::open(&converted)?, "python", "esgz")?;

    let optimized = cache::directory("python-landmark", &digest, |dir| {
        let list = tempfile::NamedTempFile::new()?;
        fs::write(list.path(), recorded(registry, &plain)?.join("\n"))?;
        convert(&source, dir, Some(list.path()))
    })?;
    let optimized = Image::open(&optimized)?;
    registry.push(&optimized, "python", "landmark")?;
    Ok((plain, needed_bytes(&optimized)?))
}

/// Converts an image into an empty layout.
pub(crate) fn convert(source: &str, dir: &Path, record: Option<&Path>) -> Result<()> {
    let mut command = bolide(["convert", source])?;
    command.arg(format!("oci:{}", dir.display()));
    if let Some(record) = record {
        command.arg("--record-in").arg(record);
    }
    run(&mut command, CONVERSION)?.success("bolide convert").map(drop)
}

/// Bytes before the landmarks of all layers.
fn needed_bytes(image: &Image) -> Result<u64> {
    let blobs = image.blobs()?;
    // The first is the configuration.
    blobs[1..].iter().map(|(_, file)| landmark(file)).sum()
}

fn landmark(blob: &Path) -> Result<u64> {
    let mut file = File::open(blob)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::End(-i64::try_from(FOOTER)?))?;
    let mut footer = [0; FOOTER];
    file.read_exact(&mut footer)?;
    // A gzip header of 10 bytes, the length of its extra field, and a subfield "SG" of 22 bytes.
    let digits = std::str::from_utf8(&footer[16..32]).context("footer")?;
    let start = u64::from_str_radix(digits, 16).context("footer")?;
    file.seek(SeekFrom::Start(start))?;
    let mut tar = tar::Archive::new(GzDecoder::new(file.take(size - FOOTER as u64 - start)));
    let toc = tar.entries()?.next().context("the table of contents is a file of a tar")??;
    let toc: serde_json::Value = serde_json::from_reader(toc)?;
    let entries = toc["entries"].as_array().context("entries")?;
    let mark = entries.iter().find(|entry| entry["name"] == LANDMARK);
    Ok(mark.and_then(|entry| entry["offset"].as_u64()).unwrap_or(0))
}

/// Runs the program of an image of `registry` on an overlay of its unpacked layers; returns the
/// regular files it opened, relative to the root.
fn recorded(registry: &Registry, image: &Image) -> Result<Vec<String>> {
    let node = Node::start(&registry.host())?;
    node.pull_whole("python:plain")?;
    let root = node.dir().join("record");
    fs::create_dir(&root)?;
    let reference = node.reference("python:plain");
    let shown = root.to_str().context("a path of ours is UTF-8")?;
    let mount = ["images", "mount", "--snapshotter", "overlayfs", &reference, shown];
    node.containerd.ctr("default", mount)?;
    let files = opened_files(&root, &entrypoint(image)?);
    detach_below(&root)?;
    files
}
