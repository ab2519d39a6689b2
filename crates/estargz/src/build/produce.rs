//! The stage that reads: from the input to entries, in the order to write them.
use std::io::{self, BufRead, BufReader, Read, Write};

use bolide_core::{Error, ErrorKind, Result};

use super::{
    BlobFormat, BuildOptions, Spool, entry, header,
    order::{self, Placed},
    sparse::Payload,
    spool::{SpoolReader, SpoolWriter},
    tar_reader::{Item, TarReader, cut_short},
    writer::{LayerWriter, Written},
};
use crate::format;

/// Reads a layer as it comes.
pub(super) fn in_order(
    tar: &mut dyn Read,
    mut writer: LayerWriter<'_>,
    options: &BuildOptions,
) -> Result<Written> {
    let podman = options.format == BlobFormat::ZstdChunkedPodman;
    if options.format.is_lazy() && !options.keep_diff_id && !podman {
        writer.landmark(format::NO_PREFETCH_LANDMARK)?;
    }
    let mut reader = TarReader::default();
    loop {
        match reader.next(tar)? {
            Item::Global(raw) => writer.global(&raw)?,
            Item::Entry(entry) if !entry::is_reserved(&entry.name) => writer.entry(*entry, tar)?,
            Item::Entry(entry) if !options.keep_diff_id => {
                Payload::new(&entry).skip(tar).map_err(cut_short)?;
            }
            // What was recompressed without a TOC may hold one.
            Item::Entry(entry) if !options.format.is_lazy() => writer.entry(*entry, tar)?,
            Item::Entry(entry) if entry::clean(&entry.name) == format::TOC_NAME.as_bytes() => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "estargz::convert",
                    "the layer holds a TOC already, which cannot be replaced where the diffID is \
                     kept; convert it without keeping the diffID",
                )
                .with_context("entry", entry::text(&entry.name)));
            }
            Item::Entry(entry) => writer.entry(*entry, tar)?,
            Item::End(end) => return writer.finish(&end, tar),
        }
    }
}

/// Reads a layer into a spool, and from there what is prioritized, the landmark, and the rest.
pub(super) fn reordered(
    tar: &mut dyn Read,
    mut writer: LayerWriter<'_>,
    options: &BuildOptions,
    spool: &mut dyn Spool,
) -> Result<Written> {
    let mut spooled = Spooled::fill(tar, spool)?;
    let order = order::order(&spooled.entries, &options.prioritized, options.allow_missing)?;
    let (order, first) = order;
    let (before, after) = order.split_at(first);
    for number in before {
        spooled.write(*number, &mut writer)?;
    }
    let podman = options.format == BlobFormat::ZstdChunkedPodman;
    match options.format.is_lazy() {
        true if first > 0 => writer.landmark(format::PREFETCH_LANDMARK)?,
        true if !podman => writer.landmark(format::NO_PREFETCH_LANDMARK)?,
        _ => {}
    }
    for number in after {
        spooled.write(*number, &mut writer)?;
    }
    writer.finish(&[], &mut io::empty())
}

struct Spooled<'a> {
    tar: SpoolReader<'a>,
    entries: Vec<Placed>,
    /// Readers that remember what the global headers said at some place.
    readers: Vec<TarReader>,
}

impl<'a> Spooled<'a> {
    fn fill(tar: &mut dyn Read, spool: &'a mut dyn Spool) -> Result<Self> {
        let mut tar = Copying { tar, spool: SpoolWriter::new(spool)? };
        let (mut entries, mut readers) = (Vec::new(), vec![TarReader::default()]);
        let mut reader = TarReader::default();
        loop {
            let at = tar.spool.position();
            match reader.next(&mut tar)? {
                Item::Global(_) => readers.push(reader.clone()),
                Item::Entry(entry) => {
                    Payload::new(&entry).skip(&mut tar).map_err(cut_short)?;
                    let path = entry::clean(&entry.name);
                    let target = (entry.kind == b'1').then(|| entry::clean(&entry.link));
                    if !entry::is_reserved(&entry.name) {
                        order::check(entries.len())?;
                        entries.push(Placed { path, target, at, globals: readers.len() - 1 });
                    }
                }
                Item::End(_) => {
                    io::copy(&mut tar.tar, &mut io::sink()).map_err(cut_short)?;
                    return Ok(Self { tar: tar.spool.finish()?, entries, readers });
                }
            }
        }
    }

    /// Writes an entry; records of global headers, which do not move with it, become its own.
    fn write(&mut self, number: usize, writer: &mut LayerWriter<'_>) -> Result<()> {
        let placed = &self.entries[number];
        self.tar.seek(placed.at);
        let item = self.readers[placed.globals].clone().next(&mut self.tar)?;
        let Item::Entry(mut entry) = item else {
            let rule = "the spool must give back what was written to it";
            return Err(Error::new(ErrorKind::Io, "estargz::spool", rule));
        };
        if entry.has_globals {
            entry.has_globals = false;
            header::renew(&mut entry)?;
        }
        writer.entry(*entry, &mut self.tar)
    }
}

/// Writes what is read through it to a spool.
struct Copying<'a, 'b> {
    tar: &'a mut dyn Read,
    spool: SpoolWriter<'b>,
}

impl Read for Copying<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tar.read(buffer)?;
        self.spool.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// Decompresses what begins like gzip or zstd; anything else is given as it is.
pub(crate) fn decompress<'a>(mut input: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
    let magic = input.fill_buf().map_err(read_failed)?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        let decoder = flate2::bufread::MultiGzDecoder::new(input);
        return Ok(Box::new(BufReader::with_capacity(READ_AHEAD, decoder)));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(magic) {
        let decoder = zstd::Decoder::with_buffer(input).map_err(read_failed)?;
        return Ok(Box::new(BufReader::with_capacity(READ_AHEAD, decoder)));
    }
    Ok(Box::new(input))
}

/// How much is decompressed at a time, in bytes: headers are read in blocks.
const READ_AHEAD: usize = 64 * 1024;

/// A zstd stream may begin with a frame that is to be skipped (RFC 8878, section 3.1.2).
fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn read_failed(error: io::Error) -> Error {
    Error::io("estargz::convert", error)
}
