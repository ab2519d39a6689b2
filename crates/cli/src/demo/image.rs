//! The image of the demonstration: this machine's software in three layers.
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use bolide_estargz::BuildOptions;
use bolide_image::{
    Access, ConvertOptions, Layout, Location, Platform, Prioritized, convert_image,
    manifest::{Descriptor, media_type, to_bytes},
};
use serde_json::json;

use super::{
    layer::{LayerBlob, LayerWriter},
    software::{self, APPLICATION, Interpreter, Software},
};

/// Tag of the image whose layers are plain tars in gzip.
pub(crate) const PLAIN: &str = "plain";
/// Tag of the same image whose layers can be mounted lazily.
pub(crate) const LAZY: &str = "lazy";
/// The lazy image once more, laid out by what its program uses first.
pub(crate) const OPTIMIZED: &str = "optimized";
/// Smallest image that shows something, in bytes of its layers.
pub(crate) const MIN_SIZE: u64 = 100_000_000;

/// The image in both forms.
#[derive(Debug)]
pub(crate) struct DemoImage {
    pub(crate) layout: Layout,
    /// What its program runs in.
    pub(crate) interpreter: &'static str,
    /// Files that the program reads by name, beside what the interpreter loads.
    pub(crate) reads: usize,
    /// Bytes of the layers in the plain form.
    pub(crate) size: u64,
}

/// Builds the image under `dir`, which must exist.
pub(crate) async fn build(dir: PathBuf, min_size: u64) -> Result<DemoImage> {
    let plain = dir.clone();
    let building = tokio::task::spawn_blocking(move || build_plain(&plain, min_size));
    let (image, first_used) = building.await??;
    let at = |tag: &str| Location::Layout { dir: dir.clone(), tag: Some(tag.to_owned()) };
    let parallelism = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    for (tag, prioritized) in [(LAZY, Vec::new()), (OPTIMIZED, first_used)] {
        let level = Some(1);
        let layer = BuildOptions { level, parallelism, ..BuildOptions::default() };
        let prioritized = Prioritized::everywhere(prioritized.into_iter().collect());
        let options = ConvertOptions { layer, prioritized, ..ConvertOptions::default() };
        convert_image(&Access::layouts(), &at(PLAIN), &at(tag), &options, |_| ()).await?;
    }
    Ok(image)
}

fn build_plain(dir: &Path, min_size: u64) -> Result<(DemoImage, Vec<String>)> {
    let layout = Layout::create(dir)?;
    let software = software::find()?;
    let work = layout.blob_dir();
    let base = base_layer(&work, &software)?;
    let application = application_layer(&work, &software)?;
    let left = min_size.saturating_sub(base.size + application.size).max(min_size / 5);
    let layers = [base, software_layer(&work, &software, left)?, application];
    let size = layers.iter().map(|layer| layer.size).sum();
    ensure!(
        size >= min_size,
        "the software installed here makes an image of {size} bytes and {min_size} are wanted: \
         install more, or name an image: bolide demo REF"
    );
    publish(&layout, &software.interpreter, layers)?;
    let (interpreter, reads) = (software.interpreter.name, software.reads.len());
    Ok((DemoImage { layout, interpreter, reads, size }, software.first_used))
}

fn base_layer(work: &Path, software: &Software) -> Result<LayerBlob> {
    let mut layer = LayerWriter::new(work)?;
    for (path, entry) in &software.base {
        layer.add(path, entry)?;
    }
    for (dir, mode) in [("/dev", 0o755), ("/proc", 0o755), ("/sys", 0o755), ("/tmp", 0o1777)] {
        layer.directory(Path::new(dir), mode, 0)?;
    }
    layer.finish()
}

/// Ends when its blob has `size` bytes.
fn software_layer(work: &Path, software: &Software, size: u64) -> Result<LayerBlob> {
    let mut layer = LayerWriter::new(work)?;
    for (path, entry) in &software.more {
        if layer.written() >= size {
            break;
        }
        layer.add(path, entry)?;
    }
    layer.finish()
}

fn application_layer(work: &Path, software: &Software) -> Result<LayerBlob> {
    let mut layer = LayerWriter::new(work)?;
    let directory = Path::new("/app");
    layer.directory(directory, 0o755, 0)?;
    layer.file(Path::new(APPLICATION), software.interpreter.program.as_bytes())?;
    let mut list = String::new();
    for path in &software.reads {
        list.push_str(path.to_str().context("a path that is read is UTF-8")?);
        list.push('\n');
    }
    layer.file(&directory.join("files"), list.as_bytes())?;
    layer.file(Path::new("/etc/passwd"), b"root:x:0:0:root:/:/bin/sh\n")?;
    layer.file(Path::new("/etc/group"), b"root:x:0:\n")?;
    layer.finish()
}

fn publish(layout: &Layout, interpreter: &Interpreter, layers: [LayerBlob; 3]) -> Result<()> {
    let platform = Platform::host();
    let config = to_bytes(&json!({
        "os": platform.os, "architecture": platform.architecture,
        "config": {
            "Cmd": interpreter.command(), "WorkingDir": "/",
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
                "PYTHONDONTWRITEBYTECODE=1"],
        },
        "rootfs": {"type": "layers",
            "diff_ids": layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>()},
    }))?;
    layout.put_document(&config)?;
    let mut names = Vec::new();
    for layer in layers {
        names.push(Descriptor::new(media_type::OCI_LAYER_GZIP, layer.digest, layer.size));
        layout.put_blob(layer.file, layer.digest)?;
    }
    let manifest = to_bytes(&json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": names,
    }))?;
    layout.put_document(&manifest)?;
    layout.tag(&Descriptor::of(media_type::OCI_MANIFEST, &manifest), Some(PLAIN))?;
    Ok(())
}
