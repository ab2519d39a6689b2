//! Compresses segments: members of gzip or frames of zstd, a function of their bytes and the
//! options alone.
mod gzip;
mod zstd;

use bolide_core::{Digest, Error, ErrorKind, Result};

pub(super) use self::gzip::trailer;
use self::{gzip::Gzip, zstd::Zstd};
use super::{
    BuildOptions,
    segment::{Field, Segment, Shape},
};

/// A segment once it is compressed.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) data: Vec<u8>,
    /// TOC entry by TOC entry: offset of its member in `data`, and of its chunk in the member once
    /// that is decompressed, in bytes.
    pub(super) places: Vec<(u32, u64, u64)>,
    /// Where the content of files ends in `data`.
    pub(super) ends: Vec<(u32, u64)>,
    pub(super) digests: Vec<(u32, Field, Digest)>,
    /// What the next segment needs to go on with the same member.
    pub(super) part: Option<Part>,
}

/// A part of a member.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) first: bool,
    pub(super) last: bool,
    /// Checksum and length of its bytes; none where members need none.
    pub(super) sum: Option<flate2::Crc>,
}

/// Compresses one segment after another; each thread has one.
#[derive(Debug)]
pub(super) struct Compressor {
    codec: Codec,
    /// Compressed size at which a member takes no more files; 0 if each chunk has its own.
    enough: u64,
}

#[derive(Debug)]
enum Codec {
    Gzip(Box<Gzip>),
    Zstd(Box<Zstd>),
}

/// What both formats can do.
trait Encode {
    /// Most that [`whole`](Self::whole) makes of `len` bytes.
    fn bound(&mut self, len: usize) -> usize;

    /// Compresses a member at once; tells its size.
    fn whole(&mut self, raw: &[u8], out: &mut [u8]) -> Result<usize>;

    /// Compresses a part of one.
    fn part(&mut self, raw: &[u8], part: &mut Part, out: &mut Vec<u8>) -> Result<()>;

    /// Begins a member that is compressed step by step.
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<()>;

    /// Goes on with it; all that was given is in `out` then.
    fn step(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()>;

    /// Ends it.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<()>;
}

impl Compressor {
    pub(super) fn new(options: &BuildOptions) -> Result<Self> {
        let level = options.effective_level();
        let codec = if options.format.is_zstd() {
            Codec::Zstd(Box::new(Zstd::new(level)?))
        } else {
            Codec::Gzip(Box::new(Gzip::new(level)?))
        };
        let enough = if options.format.is_lazy() { options.min_chunk_size } else { 0 };
        Ok(Self { codec, enough })
    }

    fn encoder(&mut self) -> &mut dyn Encode {
        match &mut self.codec {
            Codec::Gzip(gzip) => &mut **gzip,
            Codec::Zstd(zstd) => &mut **zstd,
        }
    }

    /// Compresses a document as one member.
    pub(super) fn document(&mut self, raw: &[u8]) -> Result<Vec<u8>> {
        let encoder = self.encoder();
        let mut data = vec![0; encoder.bound(raw.len())];
        let len = encoder.whole(raw, &mut data)?;
        data.truncate(len);
        Ok(data)
    }

    /// Digests and compresses a segment.
    pub(super) fn pack(&mut self, segment: &Segment) -> Result<Packed> {
        let mut part = match segment.shape {
            Shape::Whole => None,
            Shape::Part { first, last } => Some(Part { first, last, sum: None }),
        };
        let enough = self.enough;
        let encoder = self.encoder();
        let (data, begins) = match &mut part {
            // Only TOC entries were left.
            None if segment.bytes.is_empty() => (Vec::new(), vec![(0, 0)]),
            Some(part) => {
                let mut data = Vec::new();
                encoder.part(&segment.bytes, part, &mut data)?;
                (data, vec![(0, 0)])
            }
            None if enough > 0 => steps(encoder, segment, enough)?,
            None => members(encoder, segment)?,
        };
        let place = |at: usize| {
            // The first begins at 0.
            let last = begins.partition_point(|(begin, _)| *begin <= at).saturating_sub(1);
            let (begin, offset) = begins[last];
            (offset as u64, (at - begin) as u64)
        };
        let end = |at: usize| {
            if at == segment.bytes.len() { data.len() as u64 } else { place(at).0 }
        };
        let chunks = segment.chunks.iter();
        let digests = chunks.clone().filter(|chunk| !chunk.fields.is_empty()).flat_map(|chunk| {
            let digest = Digest::of(&segment.bytes[chunk.range.clone()]);
            chunk.fields.iter().map(move |field| (chunk.entry, *field, digest))
        });
        let places = chunks.map(|chunk| {
            let (offset, inner) = place(chunk.range.start);
            (chunk.entry, offset, inner)
        });
        Ok(Packed {
            places: places.collect(),
            ends: segment.ends.iter().map(|mark| (mark.entry, end(mark.at))).collect(),
            digests: digests.collect(),
            data,
            part,
        })
    }
}

/// Compressed bytes, and where members begin: offsets in the segment and in those bytes.
type Members = (Vec<u8>, Vec<(usize, usize)>);

/// Compresses each member at once.
fn members(encoder: &mut dyn Encode, segment: &Segment) -> Result<Members> {
    let starts: Vec<usize> = segment.cuts.iter().map(|cut| cut.at).collect();
    let ends = starts.iter().skip(1).copied().chain([segment.bytes.len()]);
    let ranges: Vec<_> = starts.iter().copied().zip(ends).filter(|(at, end)| at < end).collect();
    let bound = ranges.iter().map(|(at, end)| encoder.bound(end - at)).sum();
    // Zeroed memory of this size costs nothing until it is written to.
    let mut data = vec![0; bound];
    let mut filled = 0;
    let mut begins = Vec::with_capacity(ranges.len());
    for (at, end) in ranges {
        begins.push((at, filled));
        filled += encoder.whole(&segment.bytes[at..end], &mut data[filled..])?;
    }
    data.truncate(filled);
    data.shrink_to_fit();
    Ok((data, begins))
}

/// Lets each member take chunks until it has `enough` compressed bytes.
fn steps(encoder: &mut dyn Encode, segment: &Segment, enough: u64) -> Result<Members> {
    let mut data = Vec::new();
    let mut begins: Vec<(usize, usize)> = Vec::new();
    let ends = segment.cuts.iter().skip(1).map(|cut| cut.at).chain([segment.bytes.len()]);
    for (cut, end) in segment.cuts.iter().zip(ends).filter(|(cut, end)| cut.at < *end) {
        let full = begins.last().is_none_or(|(_, begin)| (data.len() - begin) as u64 >= enough);
        if full || cut.must {
            if !begins.is_empty() {
                encoder.end(&mut data)?;
            }
            begins.push((cut.at, data.len()));
            encoder.begin(&mut data)?;
        }
        encoder.step(&segment.bytes[cut.at..end], &mut data)?;
    }
    encoder.end(&mut data)?;
    data.shrink_to_fit();
    Ok((data, begins))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unexpected, "estargz::compress", "a member was not compressed")
        .with_source(error)
}
