//! Frames of zstd (RFC 8878).
use ::zstd::{
    bulk,
    stream::raw::{self, CParameter, InBuffer, Operation as _, OutBuffer},
    zstd_safe,
};
use bolide_core::Result;

use super::{Encode, Part, failed};

/// Room that is asked for at a time, in bytes.
const ROOM: usize = 128 * 1024;
/// Window of frames whose size is not known at first, of the levels that take more: 4 MiB, which
/// is what a segment has. Level 22 would take ten times the memory for nothing.
const WINDOW: (u32, i32) = (22, 16);

/// Compresses frames; the context is used again and again.
pub(super) struct Zstd {
    at_once: bulk::Compressor<'static>,
    stream: raw::Encoder<'static>,
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zstd").finish_non_exhaustive()
    }
}

impl Zstd {
    /// At a level from 1 to 22.
    pub(super) fn new(level: u32) -> Result<Self> {
        let level = level.cast_signed();
        let at_once = bulk::Compressor::new(level).map_err(failed)?;
        let mut stream = raw::Encoder::new(level).map_err(failed)?;
        if level >= WINDOW.1 {
            stream.set_parameter(CParameter::WindowLog(WINDOW.0)).map_err(failed)?;
        }
        Ok(Self { at_once, stream })
    }

    /// Calls `step` with room for more until it says that nothing is left.
    fn drain(
        &mut self,
        out: &mut Vec<u8>,
        mut step: impl FnMut(
            &mut raw::Encoder<'static>,
            &mut OutBuffer<'_, [u8]>,
        ) -> std::io::Result<bool>,
    ) -> Result<()> {
        let mut piece = vec![0; ROOM];
        loop {
            let mut room = OutBuffer::around(&mut piece[..]);
            let done = step(&mut self.stream, &mut room).map_err(failed)?;
            let len = room.pos();
            out.extend_from_slice(&piece[..len]);
            if done {
                return Ok(());
            }
        }
    }
}

impl Encode for Zstd {
    fn bound(&mut self, len: usize) -> usize {
        zstd_safe::compress_bound(len)
    }

    fn whole(&mut self, raw: &[u8], out: &mut [u8]) -> Result<usize> {
        self.at_once.compress_to_buffer(raw, out).map_err(failed)
    }

    /// Each part is a frame: decompressors take several for one stream.
    fn part(&mut self, raw: &[u8], _: &mut Part, out: &mut Vec<u8>) -> Result<()> {
        if raw.is_empty() {
            return Ok(());
        }
        out.resize(self.bound(raw.len()), 0);
        let len = self.whole(raw, out)?;
        out.truncate(len);
        out.shrink_to_fit();
        Ok(())
    }

    fn begin(&mut self, _: &mut Vec<u8>) -> Result<()> {
        self.stream.reinit().map_err(failed)
    }

    fn step(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut input = InBuffer::around(raw);
        self.drain(out, |stream, room| {
            stream.run(&mut input, room)?;
            Ok(input.pos() == raw.len())
        })?;
        self.drain(out, |stream, room| Ok(stream.flush(room)? == 0))
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.drain(out, |stream, room| Ok(stream.finish(room, true)? == 0))
    }
}
