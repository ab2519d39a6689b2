//! Writes layers.
//!
//! ```text
//! produce: input ─> tar entries (tar_reader, pax, sparse; spool and order where it changes)
//!   writer: what goes into tar and TOC   plan: members and segments
//!     ├─> compress: each segment, on many threads ─> assemble: in order ─> finish: TOC, footer
//!     └─> trace: diffID, digests across segments, tar-split, in order
//! ```
//!
//! The stages are pure; [`pipeline`] runs them on threads that have ended when the call returns.
mod assemble;
mod blob_format;
mod compress;
mod draft;
pub(crate) mod entry;
mod finish;
mod header;
mod holes;
mod options;
mod order;
mod pax;
mod pipeline;
mod plan;
mod podman;
mod produce;
mod report;
mod segment;
mod sparse;
mod spool;
mod tar_entries;
pub(crate) mod tar_reader;
mod tar_split;
mod trace;
mod writer;

use std::io::{BufReader, Read, Seek, Write};

use bolide_core::{Error, ErrorKind, Result};

use self::{
    assemble::Assembler,
    compress::Compressor,
    draft::Draft,
    pipeline::{Give, Stages},
    plan::{Planner, Style},
    segment::Segment,
    tar_split::TarSplit,
    trace::Tracer,
    writer::{LayerWriter, Written},
};
pub(crate) use produce::decompress;
pub use {
    blob_format::BlobFormat, options::BuildOptions, report::BuildReport, tar_entries::TarEntries,
    tar_reader::TarEntry,
};

/// Room for the tar, compressed, while it is put in another order. It is empty at first.
pub trait Spool: Read + Write + Seek + Send {}

impl<T: Read + Write + Seek + Send> Spool for T {}

/// Reads a layer (tar, gzip or zstd over tar) and writes it in the wanted format.
///
/// A `spool` is needed when paths are prioritized; then, of two entries with one path, only the
/// later is written. Without one both are, and readers take the later.
///
/// It reads, compresses and digests on threads of its own, one for each of the options'
/// `parallelism` and two more, and writes on the caller's. They have ended when it returns. Some
/// MiB are held for each, and the TOC.
///
/// `Config` when the options contradict each other, `Malformed` when the input is not a tar or cut
/// short, `Unsupported` for entries that the format cannot say, `NotFound` when a prioritized path
/// is missing that must not be, `Io` when reading or writing fails.
pub fn convert_layer(
    input: &mut (dyn Read + Send),
    output: &mut (dyn Write + Send),
    options: &BuildOptions,
    spool: Option<&mut dyn Spool>,
) -> Result<BuildReport> {
    options.check()?;
    if spool.is_none() && !options.prioritized.is_empty() {
        return Err(Error::new(
            ErrorKind::Config,
            "estargz::convert",
            "a spool file is needed to put prioritized files first",
        ));
    }
    let style = match options.format {
        BlobFormat::TarGzip | BlobFormat::TarZstd => Style::Plain,
        BlobFormat::ZstdChunkedPodman => Style::Split,
        _ => Style::Chunked,
    };
    let split = (style == Style::Split).then(|| TarSplit::new(options.effective_level()));
    let mut tracer = Tracer::new(split.transpose()?);
    let mut blob = Assembler::new(output);
    let written = pipeline::run(
        options.parallelism,
        Stages {
            produce: |give: Give<'_, Segment, Vec<Draft>>| {
                produce(input, options, spool, Planner::new(give, style))
            },
            observe: |segment: &Segment| tracer.see(segment),
            worker: || {
                let mut compressor = Compressor::new(options)?;
                Ok(move |segment: &Segment| compressor.pack(segment))
            },
            collect: |packed, drafts| blob.add(&packed, drafts),
        },
    )?;
    finish::finish(blob, tracer.finish(), written, options)
}

fn produce<'a>(
    input: &mut (dyn Read + Send),
    options: &'a BuildOptions,
    spool: Option<&mut dyn Spool>,
    planner: Planner<'a>,
) -> Result<Written> {
    let mut tar = decompress(BufReader::with_capacity(64 * 1024, input))?;
    let writer = LayerWriter::new(planner, options);
    match spool.filter(|_| !options.prioritized.is_empty()) {
        Some(spool) => produce::reordered(&mut *tar, writer, options, spool),
        None => produce::in_order(&mut *tar, writer, options),
    }
}
