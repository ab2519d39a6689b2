//! Checks a layer that is there as a whole: its blob digest, its diffID, and its TOC against its
//! tar.
//!
//! Chunk digests vouch for what readers get. They say nothing of the bytes between chunks, and a TOC
//! may describe another tree than the tar does, which other runtimes would unpack.
mod chunks;
mod compare;

use std::io::{self, BufReader, Read, Write};

use bolide_core::{Digest, Digester, Error, ErrorKind, Result, TocIndex};

pub use self::chunks::check_chunks;
use self::compare::Comparison;
use crate::build::{TarEntries, decompress};

/// What a blob turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobVerdict {
    /// Digest of the blob: the expected one.
    pub blob: Digest,
    /// Digest of the uncompressed blob, to be compared with what the image's configuration says.
    pub diff_id: Digest,
    /// Where TOC and tar disagree, path by path; at most 100, and a line that counts the others.
    pub disagreements: Vec<String>,
}

/// Reads a whole blob (gzip or zstd over tar, or a tar) and compares it with its index, entry by
/// entry: name, type, size, permissions, owner, modification time in seconds, target, device and
/// extended attributes. Content is not compared, chunk digests cover it; but of the holes of a file,
/// which have none that is always checked, that they are zeros.
///
/// It reads and computes for as long as the blob is large: use it off the runtime's workers. Memory
/// does not grow with the blob, only by some bytes for each name of the index.
///
/// `Corrupt` when the blob is not the expected one; `Malformed` when it is no compressed tar, or
/// unpacks to much more than its index describes; `Exhausted` when that is more than 1 TiB; `Io` when
/// it cannot be read.
pub fn check_blob(
    blob: &mut dyn Read,
    expected: Digest,
    toc: &dyn TocIndex,
) -> Result<BlobVerdict> {
    let mut raw = Hashing::new(blob);
    let compared = read_tar(&mut raw, toc);
    // What the decompressor left, all of it when it failed: the digest says more than its error.
    io::copy(&mut raw, &mut io::sink())
        .map_err(|error| Error::io("check_blob::read", error).with_context("blob", expected))?;
    let found = raw.digester.finish();
    if found != expected {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "check_blob::digest",
            "the blob does not match the digest that names it",
        )
        .with_context("expected", expected)
        .with_context("found", found));
    }
    let (diff_id, disagreements) =
        compared.map_err(|error| error.with_context("blob", expected))?;
    Ok(BlobVerdict { blob: found, diff_id, disagreements })
}

/// Largest layer that is checked, in bytes: a quarter of an hour's work. Holes can make a layer larger
/// than any time would do.
const MAX_CHECKED: u64 = 1 << 40;

/// Digest of what a blob (gzip or zstd over tar, or a tar) unpacks to.
///
/// It reads and computes for as long as the blob is large. `Malformed` when it cannot be
/// decompressed.
pub fn diff_id(blob: &mut dyn Read) -> Result<Digest> {
    let mut tar = Hashing::new(decompress(BufReader::with_capacity(64 * 1024, blob))?);
    io::copy(&mut tar, &mut io::sink()).map_err(unread)?;
    Ok(tar.digester.finish())
}

fn read_tar(raw: &mut dyn Read, toc: &dyn TocIndex) -> Result<(Digest, Vec<String>)> {
    if toc.image_size() > MAX_CHECKED {
        let rule = "a layer of more than 1 TiB is not checked as a whole";
        return Err(Error::new(ErrorKind::Exhausted, "check_blob::tar", rule)
            .with_context("bytes", toc.image_size()));
    }
    let unpacked = decompress(BufReader::with_capacity(64 * 1024, raw))?;
    let mut tar = Hashing::new(Limited { inner: unpacked, left: limit(toc) });
    let mut comparison = Comparison::new(toc);
    let mut entries = TarEntries::new(&mut tar);
    while let Some(entry) = entries.next_entry()? {
        let holes = comparison.entry(&entry)?;
        let mut filled = None;
        let mut at = 0;
        for hole in holes {
            skip(&mut entries, hole.start.saturating_sub(at))?;
            if !is_zeros(&mut entries, hole.end - hole.start)? {
                filled = filled.or(Some(hole.start));
            }
            at = hole.end;
        }
        if let Some(at) = filled {
            comparison.hole_is_filled(&entry, at)?;
        }
    }
    Ok((tar.digester.finish(), comparison.finish()?))
}

fn skip(tar: &mut dyn Read, len: u64) -> Result<()> {
    let skipped = io::copy(&mut tar.take(len), &mut io::sink()).map_err(unread)?;
    if skipped == len { Ok(()) } else { Err(cut_short()) }
}

/// Whether the next bytes are all zero. Reads all of them.
fn is_zeros(tar: &mut dyn Read, len: u64) -> Result<bool> {
    let mut zeros = Zeros(true);
    let read = io::copy(&mut tar.take(len), &mut zeros).map_err(unread)?;
    if read == len { Ok(zeros.0) } else { Err(cut_short()) }
}

/// Whether all that was written is zero.
struct Zeros(bool);

impl Write for Zeros {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 &= buf.iter().all(|byte| *byte == 0);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cut_short() -> Error {
    malformed("the tar is cut short inside a file")
}

/// How many bytes an honest layer may unpack to: its files, also when an earlier version of each is
/// there too, and, generously, headers and the TOC. A bomb ends there.
fn limit(toc: &dyn TocIndex) -> u64 {
    let headers = (toc.len() as u64).saturating_add(1024).saturating_mul(64 * 1024);
    let chunks = u64::from(toc.chunk_count()).saturating_mul(1024);
    toc.image_size().saturating_mul(2).saturating_add(headers).saturating_add(chunks)
}

fn unread(error: io::Error) -> Error {
    malformed("the layer must be a whole tar, alone or compressed by gzip or zstd")
        .with_source(error)
}

fn malformed(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "check_blob::tar", rule)
}

/// Digests what is read through it.
struct Hashing<R> {
    inner: R,
    digester: Digester,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, digester: Digester::new() }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.digester.update(&buf[..read]);
        Ok(read)
    }
}

/// Fails when more is read than was allowed.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| {
            io::Error::other("the layer unpacks to much more than its TOC describes")
        })?;
        Ok(read)
    }
}
