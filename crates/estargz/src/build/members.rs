//! A row of gzip members, digested inside and out while it is written.
use std::io::{self, Write};

use bolide_core::{Digest, Digester};
use flate2::{Compression, write::GzEncoder};

/// Digests and counts what it passes on.
#[derive(Debug)]
struct Measured<W> {
    inner: W,
    digester: Digester,
    len: u64,
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buf)?;
        self.digester.update(&buf[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What a row of members came to.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) blob_digest: Digest,
    pub(super) blob_size: u64,
    pub(super) diff_id: Digest,
    pub(super) uncompressed_size: u64,
}

#[allow(clippy::large_enum_variant, reason = "there is one, and it changes at every member")]
enum State<W: Write> {
    Between(Measured<W>),
    Inside(GzEncoder<Measured<W>>),
}

/// Writes members; a new one begins with the first byte after [`cut`](Self::cut).
pub(super) struct Members<W: Write> {
    state: Option<State<W>>,
    level: Compression,
    diff: Digester,
    uncompressed: u64,
}

impl<W: Write> Members<W> {
    pub(super) fn new(inner: W, level: u32) -> Self {
        let measured = Measured { inner, digester: Digester::new(), len: 0 };
        Self {
            state: Some(State::Between(measured)),
            level: Compression::new(level.min(9)),
            diff: Digester::new(),
            uncompressed: 0,
        }
    }

    /// Writes uncompressed bytes into the current member.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut encoder = match self.state.take().ok_or_else(failed_before)? {
            State::Inside(encoder) => encoder,
            State::Between(measured) => GzEncoder::new(measured, self.level),
        };
        encoder.write_all(bytes)?;
        self.state = Some(State::Inside(encoder));
        self.diff.update(bytes);
        self.uncompressed += bytes.len() as u64;
        Ok(())
    }

    /// Ends the current member, and says at which offset of the blob the next one will begin.
    pub(super) fn cut(&mut self) -> io::Result<u64> {
        let measured = match self.state.take().ok_or_else(failed_before)? {
            State::Inside(encoder) => encoder.finish()?,
            State::Between(measured) => measured,
        };
        let offset = measured.len;
        self.state = Some(State::Between(measured));
        Ok(offset)
    }

    /// Ends the row with bytes that are written as they are.
    pub(super) fn finish(mut self, footer: &[u8]) -> io::Result<Sums> {
        self.cut()?;
        let Some(State::Between(mut measured)) = self.state.take() else {
            return Err(failed_before());
        };
        measured.write_all(footer)?;
        measured.flush()?;
        Ok(Sums {
            blob_digest: measured.digester.finish(),
            blob_size: measured.len,
            diff_id: self.diff.finish(),
            uncompressed_size: self.uncompressed,
        })
    }
}

fn failed_before() -> io::Error {
    io::Error::other("an earlier write of the layer failed")
}
