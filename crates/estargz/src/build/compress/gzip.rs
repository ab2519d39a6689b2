//! Members of gzip (RFC 1952). At once by libdeflate, which is faster and smaller at the same
//! level; in parts or step by step by zlib-rs, which libdeflate cannot.
use bolide_core::Result;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use libdeflater::CompressionLvl;

use super::{Encode, Part, failed};

/// No name, no time, no flags, of an unknown system: what RFC 1952 lets every writer say.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Room that is asked for at a time, in bytes.
const ROOM: usize = 64 * 1024;

/// Compresses members of gzip.
pub(super) struct Gzip {
    at_once: libdeflater::Compressor,
    stream: Compress,
    sum: Crc,
}

impl std::fmt::Debug for Gzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip").finish_non_exhaustive()
    }
}

impl Gzip {
    /// At a level from 0 to 9.
    pub(super) fn new(level: u32) -> Result<Self> {
        let known = CompressionLvl::new(level.cast_signed());
        // The error of this crate is none that std knows.
        let known = known.map_err(|error| failed(std::io::Error::other(format!("{error:?}"))))?;
        Ok(Self {
            at_once: libdeflater::Compressor::new(known),
            stream: Compress::new(Compression::new(level), false),
            sum: Crc::new(),
        })
    }

    fn deflate(&mut self, mut raw: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> Result<()> {
        loop {
            out.reserve(ROOM);
            let before = self.stream.total_in();
            let status = self.stream.compress_vec(raw, out, flush).map_err(failed)?;
            // No more than was given.
            let taken = usize::try_from(self.stream.total_in() - before).unwrap_or(raw.len());
            raw = &raw[taken..];
            let done = match flush {
                FlushCompress::Finish => status == Status::StreamEnd,
                // All was written when there was room for more.
                _ => raw.is_empty() && out.len() < out.capacity(),
            };
            if done {
                return Ok(());
            }
        }
    }
}

/// The eight bytes that end a member.
pub(in super::super) fn trailer(sum: &Crc) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&sum.sum().to_le_bytes());
    out[4..].copy_from_slice(&sum.amount().to_le_bytes());
    out
}

impl Encode for Gzip {
    fn bound(&mut self, len: usize) -> usize {
        self.at_once.gzip_compress_bound(len)
    }

    fn whole(&mut self, raw: &[u8], out: &mut [u8]) -> Result<usize> {
        self.at_once.gzip_compress(raw, out).map_err(failed)
    }

    /// Parts begin with nothing remembered and end at whole bytes, so that they can be put one
    /// after another; checksum and length are for whoever does that.
    fn part(&mut self, raw: &[u8], part: &mut Part, out: &mut Vec<u8>) -> Result<()> {
        if part.first {
            out.extend_from_slice(&HEADER);
        }
        let mut sum = Crc::new();
        sum.update(raw);
        part.sum = Some(sum);
        self.stream.reset();
        let flush = if part.last { FlushCompress::Finish } else { FlushCompress::Full };
        self.deflate(raw, flush, out)
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&HEADER);
        self.stream.reset();
        self.sum.reset();
        Ok(())
    }

    fn step(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.sum.update(raw);
        self.deflate(raw, FlushCompress::Sync, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.deflate(&[], FlushCompress::Finish, out)?;
        out.extend_from_slice(&trailer(&self.sum));
        Ok(())
    }
}
