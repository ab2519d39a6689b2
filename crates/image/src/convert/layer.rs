//! One layer: converted, or taken over as it is.
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Read, Seek as _, SeekFrom, Write as _},
    num::NonZeroUsize,
    path::Path,
};

use bolide_core::{Digest, Error, ErrorKind, Result};
use bolide_estargz::{
    BlobFormat, BuildOptions, BuildReport, Footer, Spool, TAIL_HINT, TarEntries, TocTrust,
    convert_layer,
    format::{ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE},
    open_layer,
};
use parking_lot::Mutex;
use tempfile::NamedTempFile;

use super::{Conversion, ConvertedLayer, Progress, Unit};
use crate::{
    NewBlob, PathList,
    blob_reader::{BlobReader, blocking, feed},
    manifest::{Descriptor, Manifest, media_type},
    prioritize::{Expanded, normal},
    source::stream_blob,
    unpack::decompressed,
};

/// Most names of a layer that are held to match patterns against.
const MAX_NAMES: usize = 2_000_000;

/// Threads that layers share.
#[derive(Debug)]
pub(super) struct Shares {
    concurrent: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    running: usize,
    waiting: usize,
}

impl Shares {
    pub(super) fn new(threads: NonZeroUsize, layers: usize, most: usize) -> Self {
        let concurrent = threads.get().min(layers).clamp(1, most);
        let state = State { free: threads.get(), running: 0, waiting: layers };
        Self { concurrent, state: Mutex::new(state) }
    }

    /// Layers at work at once.
    pub(super) fn concurrent(&self) -> usize {
        self.concurrent
    }

    /// The threads of the next layer: those that are free, shared with who may start beside it.
    fn take(&self) -> NonZeroUsize {
        let mut state = self.state.lock();
        let places = self.concurrent.saturating_sub(state.running).min(state.waiting).max(1);
        let taken = NonZeroUsize::new(state.free / places).unwrap_or(NonZeroUsize::MIN);
        state.free = state.free.saturating_sub(taken.get());
        state.running += 1;
        state.waiting = state.waiting.saturating_sub(1);
        taken
    }

    /// One layer needs no threads.
    fn pass(&self) {
        let mut state = self.state.lock();
        state.waiting = state.waiting.saturating_sub(1);
    }

    fn give(&self, taken: NonZeroUsize) {
        let mut state = self.state.lock();
        state.free += taken.get();
        state.running -= 1;
    }
}

impl<P: Fn(Progress) + Sync> Conversion<'_, P> {
    pub(super) async fn layer(&self, number: usize, unit: Unit<'_>) -> Result<ConvertedLayer> {
        let name = unit.name;
        (self.progress)(Progress::Started { layer: number, size: name.size });
        let done = match self.reusable(&unit).await? {
            Some(kept) => {
                self.shares.pass();
                let read = |bytes| (self.progress)(Progress::Read { layer: number, bytes });
                self.copy(name, Some(unit.diff_id), read).await?;
                kept
            }
            None => self.convert(number, unit).await?,
        };
        (self.progress)(Progress::Stored { layer: number, size: done.size });
        Ok(done)
    }

    async fn convert(&self, number: usize, unit: Unit<'_>) -> Result<ConvertedLayer> {
        let name = unit.name;
        let stream = unit.image.blob(name).await?;
        let (sender, reader) = BlobReader::new(name.digest, name.size);
        let list = self.options.prioritized.of(name.digest).clone();
        let threads = self.shares.take();
        let mut options = self.options.layer.clone();
        options.parallelism = threads;
        let work_dir = self.sink.work_dir().to_owned();
        let work = blocking(move || build_layer(reader, &work_dir, options, &list));
        let fed = feed(stream, sender, |bytes| {
            (self.progress)(Progress::Read { layer: number, bytes });
        });
        // Dropping this future drops the sender, whereupon the thread sees a short blob and ends.
        let (built, ()) = futures::join!(work, fed);
        self.shares.give(threads);
        let Built { file, report, matched } =
            built.map_err(|error| error.with_context("layer", name.digest))?;
        self.matched.lock().extend(matched);
        if self.options.layer.keep_diff_id && report.diff_id != unit.diff_id {
            let rule = "the layer's tar must be what the configuration says, to keep its diffID";
            return Err(Error::new(ErrorKind::Corrupt, "convert::layer", rule)
                .with_context("layer", name.digest)
                .with_context("expected", unit.diff_id)
                .with_context("actual", report.diff_id));
        }
        let blob = NewBlob { digest: report.blob_digest, diff_id: Some(report.diff_id) };
        self.sink.put_blob(file, blob).await?;
        Ok(ConvertedLayer {
            source: name.digest,
            source_size: name.size,
            digest: report.blob_digest,
            size: report.blob_size,
            diff_id: report.diff_id,
            uncompressed_size: Some(report.uncompressed_size),
            toc_digest: report.toc_digest,
            reused: false,
            prioritized_size: report.prioritized_size,
            annotations: Some(report.annotations),
            external_toc: report.external_toc,
        })
    }

    /// What a layer is when it is taken over; none when it must be converted.
    async fn reusable(&self, unit: &Unit<'_>) -> Result<Option<ConvertedLayer>> {
        let (name, wanted) = (unit.name, &self.options.layer);
        let toc = name.annotations.get(ANNOTATION_TOC_DIGEST).and_then(|toc| toc.parse().ok());
        let is_wanted = if wanted.latest_mtime.is_some() {
            false
        } else if wanted.format.is_lazy() {
            let asked = self.options.reuse && wanted.format != BlobFormat::EstargzExternalToc;
            match toc {
                Some(toc) if asked => self.is_lazy_as_wanted(unit, toc).await?,
                _ => false,
            }
        } else {
            // The same bytes again, unless another level was asked for.
            wanted.level.is_none() && is_plain_in(name, wanted.format)
        };
        let size = name.annotations.get(ANNOTATION_UNCOMPRESSED_SIZE);
        Ok(is_wanted.then(|| ConvertedLayer {
            source: name.digest,
            source_size: name.size,
            digest: name.digest,
            size: name.size,
            diff_id: unit.diff_id,
            uncompressed_size: size.and_then(|size| size.parse().ok()),
            toc_digest: toc,
            reused: true,
            prioritized_size: 0,
            annotations: None,
            external_toc: None,
        }))
    }

    async fn is_lazy_as_wanted(&self, unit: &Unit<'_>, toc: Digest) -> Result<bool> {
        let opened = unit.image.open_blob(unit.name, TAIL_HINT).await?;
        let footer = Footer::parse(&opened.tail, opened.source.size());
        let format = match footer {
            Ok(Footer::Estargz { .. }) => BlobFormat::Estargz,
            Ok(Footer::ZstdChunked(footer)) if footer.podman => BlobFormat::ZstdChunkedPodman,
            Ok(Footer::ZstdChunked(_)) => BlobFormat::ZstdChunked,
            _ => return Ok(false),
        };
        if format != self.options.layer.format {
            return Ok(false);
        }
        let opened = match open_layer(&opened, TocTrust::Digest(toc)).await {
            Ok(opened) => opened,
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, layer = %unit.name.digest, "a layer is converted anew");
                return Ok(false);
            }
        };
        let list = self.options.prioritized.of(unit.name.digest);
        let own: PathList = self.options.layer.prioritized.iter().cloned().collect();
        let list = if list.is_empty() { own } else { list.clone() };
        if list.is_empty() {
            return Ok(true);
        }
        blocking(move || {
            let names = opened.list()?.into_iter().map(|file| file.name).collect();
            Ok(list.expand(&names).paths.is_empty())
        })
        .await
    }

    /// Takes a blob over as it is, moving its bytes only where they must be.
    async fn copy(
        &self,
        name: &Descriptor,
        diff_id: Option<Digest>,
        read: impl Fn(u64),
    ) -> Result<()> {
        if self.sink.adopt(name, self.src).await? {
            read(name.size);
            return Ok(());
        }
        let stream = stream_blob(self.sources.blobs(), name).await?;
        let (sender, mut reader) = BlobReader::new(name.digest, name.size);
        let work_dir = self.sink.work_dir().to_owned();
        let work = blocking(move || {
            let failed = |error| Error::io("convert::copy", error);
            let mut file = NamedTempFile::new_in(work_dir).map_err(failed)?;
            let copied = io::copy(&mut reader, &mut file).map_err(failed);
            // A broken source explains whatever copying complains of.
            reader.finish()?;
            copied.map(|_| file)
        });
        let (file, ()) = futures::join!(work, feed(stream, sender, read));
        self.sink.put_blob(file?, NewBlob { digest: name.digest, diff_id }).await
    }

    /// Takes over what a manifest names that is no image.
    pub(super) async fn copy_other(&self, manifest: &Manifest) -> Result<()> {
        for name in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let copied = self.copy(name, None, |_| ()).await;
            copied.map_err(|error| error.with_context("blob", name.digest))?;
        }
        Ok(())
    }
}

/// Whether a layer is a tar in the compression of a format that is not lazy, and nothing else.
fn is_plain_in(name: &Descriptor, format: BlobFormat) -> bool {
    let media_type = name.media_type.as_str();
    let fits = match format {
        BlobFormat::TarGzip => {
            [media_type::OCI_LAYER_GZIP, media_type::DOCKER_LAYER_GZIP].contains(&media_type)
        }
        BlobFormat::TarZstd => media_type == media_type::OCI_LAYER_ZSTD,
        _ => false,
    };
    let is_lazy = |key: &String| key == ANNOTATION_TOC_DIGEST || key.contains(".zstd-chunked.");
    fits && !name.annotations.keys().any(is_lazy)
}

pub(super) fn check_layer(layer: &Descriptor) -> Result<()> {
    let media_type = layer.media_type.as_str();
    let rule = if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        "a layer that must not be distributed cannot be converted"
    } else if media_type.ends_with("+encrypted") {
        "a layer that is encrypted cannot be converted; decrypt the image first"
    } else if media_type.contains(".tar") {
        return Ok(());
    } else {
        "only layers that are tars can be converted"
    };
    Err(Error::new(ErrorKind::Unsupported, "convert::layer", rule)
        .with_context("layer", layer.digest)
        .with_context("media_type", media_type))
}

struct Built {
    file: NamedTempFile,
    report: BuildReport,
    matched: BTreeSet<usize>,
}

/// Runs on a blocking thread.
fn build_layer(
    mut reader: BlobReader,
    work_dir: &Path,
    mut options: BuildOptions,
    list: &PathList,
) -> Result<Built> {
    if !list.needs_names() {
        if !list.is_empty() {
            options.prioritized = list.paths();
        }
        let built = write_layer(&mut reader, work_dir, &options);
        // A broken source explains whatever the build complains of.
        reader.finish()?;
        let (file, report) = built?;
        return Ok(Built { file, report, matched: BTreeSet::new() });
    }
    // The names are known at the end of the layer, so it is kept, as it is compressed.
    let failed = |error| Error::io("convert::read", error);
    let mut blob = tempfile::tempfile_in(work_dir).map_err(failed)?;
    let copied = io::copy(&mut reader, &mut blob).map_err(failed);
    reader.finish()?;
    copied?;
    let Expanded { paths, matched } = list.expand(&names(&mut blob)?);
    options.prioritized = paths;
    let (file, report) = write_layer(&mut blob, work_dir, &options)?;
    Ok(Built { file, report, matched })
}

/// The names of what a layer holds, directories aside. Afterwards it is at its start again.
fn names(blob: &mut File) -> Result<BTreeSet<String>> {
    let failed = |error| Error::io("convert::read", error);
    blob.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut names = BTreeSet::new();
    let mut entries = TarEntries::new(decompressed(blob).map_err(failed)?);
    while let Some(entry) = entries.next_entry()? {
        if entry.kind == b'5' {
            continue;
        }
        // A pattern is text, and matches text.
        if let Ok(name) = str::from_utf8(&entry.name) {
            names.insert(normal(name).to_owned());
        }
        if names.len() > MAX_NAMES {
            let rule = "a layer may have two million files";
            return Err(Error::new(ErrorKind::Exhausted, "convert::read", rule));
        }
    }
    drop(entries);
    blob.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(names)
}

fn write_layer(
    input: &mut (dyn Read + Send),
    work_dir: &Path,
    options: &BuildOptions,
) -> Result<(NamedTempFile, BuildReport)> {
    let failed = |error| Error::io("convert::write", error);
    let file = NamedTempFile::new_in(work_dir).map_err(failed)?;
    let mut spool = if options.prioritized.is_empty() {
        None
    } else {
        Some(tempfile::tempfile_in(work_dir).map_err(failed)?)
    };
    let spool = spool.as_mut().map(|file| file as &mut dyn Spool);
    let mut output = BufWriter::with_capacity(256 * 1024, file.as_file());
    let report = convert_layer(input, &mut output, options, spool)?;
    output.flush().map_err(failed)?;
    drop(output);
    Ok((file, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_the_threads() {
        let threads = |count| NonZeroUsize::new(count).expect("some");
        let alone = Shares::new(threads(8), 1, 4);
        assert_eq!((alone.concurrent(), alone.take().get()), (1, 8));
        let many = Shares::new(threads(8), 10, 4);
        let taken: Vec<_> = (0..4).map(|_| many.take()).collect();
        assert_eq!(taken.iter().map(|share| share.get()).collect::<Vec<_>>(), [2; 4]);
        many.give(taken[0]);
        assert_eq!(many.take().get(), 2);
        assert_eq!(Shares::new(threads(1), 10, 4).concurrent(), 1);
    }
}
