//! One layer: converted, or taken over as it is.
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Read, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
    sync::{Arc, Weak},
};

use bolide_core::{Error, ErrorKind, Result};
use bolide_estargz::{BuildOptions, BuildReport, Spool, TarEntries, convert_layer};
use tempfile::NamedTempFile;

use super::{Conversion, ConvertedLayer, Progress, Unit};
use crate::{
    NewBlob, PathList,
    blob_reader::{BlobReader, WhileWanted, blocking, feed},
    manifest::Descriptor,
    prioritize::{Expanded, normal},
    unpack::decompressed,
};

/// Most names of a layer that are held to match patterns against.
const MAX_NAMES: usize = 2_000_000;

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
        let wanted = Arc::new(());
        let job = Build { work_dir, options, list, wanted: Arc::downgrade(&wanted) };
        let work = blocking(move || job.run(reader));
        let fed = feed(stream, sender, |bytes| {
            (self.progress)(Progress::Read { layer: number, bytes });
        });
        // Dropping this future drops the sender and what says that the layer is wanted, whereupon
        // the thread ends, whatever it is at.
        let (built, ()) = futures::join!(work, fed);
        drop(wanted);
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

/// The part of the work that blocks.
struct Build {
    work_dir: PathBuf,
    options: BuildOptions,
    list: PathList,
    /// Gone when nobody waits for the layer any more.
    wanted: Weak<()>,
}

impl Build {
    fn run(mut self, mut reader: BlobReader) -> Result<Built> {
        if !self.list.needs_names() {
            self.options.prioritized = self.list.paths();
            let built = self.write(&mut reader);
            // A broken source explains whatever the build complains of.
            reader.finish()?;
            let (file, report) = built?;
            return Ok(Built { file, report, matched: BTreeSet::new() });
        }
        // The names are known at the end of the layer, so it is kept, as it is compressed.
        let mut blob = tempfile::tempfile_in(&self.work_dir).map_err(read_failed)?;
        let copied = io::copy(&mut reader, &mut blob).map_err(read_failed);
        reader.finish()?;
        copied?;
        let Expanded { paths, matched } = self.list.expand(&self.names(&mut blob)?);
        self.options.prioritized = paths;
        let (file, report) = self.write(&mut blob)?;
        Ok(Built { file, report, matched })
    }

    /// The names of what a layer holds, directories aside. Afterwards it is at its start again.
    fn names(&self, blob: &mut File) -> Result<BTreeSet<String>> {
        blob.seek(SeekFrom::Start(0)).map_err(read_failed)?;
        let mut names = BTreeSet::new();
        let mut input = WhileWanted::new(&mut *blob, Weak::clone(&self.wanted));
        let mut entries = TarEntries::new(decompressed(&mut input).map_err(read_failed)?);
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
        blob.seek(SeekFrom::Start(0)).map_err(read_failed)?;
        Ok(names)
    }

    fn write(&self, input: &mut (dyn Read + Send)) -> Result<(NamedTempFile, BuildReport)> {
        let failed = |error| Error::io("convert::write", error);
        let file = NamedTempFile::new_in(&self.work_dir).map_err(failed)?;
        let mut spool = if self.options.prioritized.is_empty() {
            None
        } else {
            Some(tempfile::tempfile_in(&self.work_dir).map_err(failed)?)
        };
        let spool = spool.as_mut().map(|file| file as &mut dyn Spool);
        let output = WhileWanted::new(file.as_file(), Weak::clone(&self.wanted));
        let mut output = BufWriter::with_capacity(256 * 1024, output);
        let report = convert_layer(input, &mut output, &self.options, spool)?;
        output.flush().map_err(failed)?;
        drop(output);
        Ok((file, report))
    }
}

fn read_failed(error: io::Error) -> Error {
    Error::io("convert::read", error)
}
