//! Fills chunks of a member that is too large to hold.
use std::{collections::VecDeque, io::Write as _, sync::Arc};

use bolide_core::{ChunkSpan, Codec, Error, ErrorKind, LayerImage, Result, SlotFill};
use bytes::Bytes;

use super::decode::{broken, end_of};

/// Compressed bytes decoded at once. Deflate expands at most 1032 times; a block of zstd may be 4
/// bytes that stand for 128 KiB. What comes out of one step stays near 32 MiB.
const fn step(codec: Codec) -> usize {
    match codec {
        Codec::Stored => 1024 * 1024,
        Codec::Gzip => 32 * 1024,
        Codec::Zstd => 1024,
    }
}

#[allow(clippy::large_enum_variant, reason = "there is one for a member of megabytes")]
enum Decoder {
    Stored(Vec<u8>),
    Gzip(flate2::write::MultiGzDecoder<Vec<u8>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

/// Decodes pieces of one member and writes what belongs to its chunks into the layer image.
pub(super) struct StreamFill {
    image: Arc<dyn LayerImage>,
    codec: Codec,
    decoder: Decoder,
    /// Chunks not yet filled, in the order of their place.
    waiting: VecDeque<ChunkSpan>,
    current: Option<(ChunkSpan, SlotFill)>,
    /// The chunk that was begun last, for messages.
    last: Option<ChunkSpan>,
    /// Decoded bytes seen so far.
    position: u64,
}

impl StreamFill {
    pub(super) fn new(image: Arc<dyn LayerImage>, mut spans: Vec<ChunkSpan>) -> Result<Self> {
        spans.sort_by_key(|span| span.inner_offset);
        let codec = spans.first().map_or(Codec::Stored, |span| span.codec);
        let decoder = match codec {
            Codec::Stored => Decoder::Stored(Vec::new()),
            Codec::Gzip => Decoder::Gzip(flate2::write::MultiGzDecoder::new(Vec::new())),
            Codec::Zstd => Decoder::Zstd(
                zstd::stream::write::Decoder::new(Vec::new()).map_err(|error| broken(&error))?,
            ),
        };
        let waiting = spans.into();
        Ok(Self { image, codec, decoder, waiting, current: None, last: None, position: 0 })
    }

    /// Whether every chunk was filled.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.current.is_none()
    }

    /// The chunk that was being filled when something failed.
    pub(super) fn current(&self) -> Option<&ChunkSpan> {
        self.last.as_ref()
    }

    /// Takes the next compressed bytes.
    pub(super) async fn push(&mut self, compressed: &Bytes) -> Result<()> {
        for step in compressed.chunks(step(self.codec)) {
            if self.is_done() {
                return Ok(());
            }
            let decoded = self.decode(step).map_err(|error| broken(&error))?;
            self.distribute(decoded).await?;
        }
        Ok(())
    }

    /// Ends the member; an error when a chunk is still waiting.
    pub(super) fn finish(&self) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            "stream_fill::finish",
            "the member ends before its chunks do",
        )
        .with_context("decoded", self.position))
    }

    fn decode(&mut self, step: &[u8]) -> std::io::Result<Bytes> {
        let out = match &mut self.decoder {
            Decoder::Stored(out) => {
                out.extend_from_slice(step);
                out
            }
            Decoder::Gzip(decoder) => {
                decoder.write_all(step)?;
                decoder.flush()?;
                decoder.get_mut()
            }
            Decoder::Zstd(decoder) => {
                decoder.write_all(step)?;
                decoder.flush()?;
                decoder.get_mut()
            }
        };
        Ok(std::mem::take(out).into())
    }

    async fn distribute(&mut self, mut decoded: Bytes) -> Result<()> {
        while !decoded.is_empty() && !self.is_done() {
            if let Some((span, fill)) = self.current.take() {
                let bytes = take(&mut decoded, end_of(&span) - self.position);
                self.write(span, fill, bytes).await?;
                continue;
            }
            let start = self.waiting.front().map_or(u64::MAX, |span| span.inner_offset);
            self.position += take(&mut decoded, start.saturating_sub(self.position)).len() as u64;
            if self.position >= start {
                self.begin().await?;
            }
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<()> {
        let Some(span) = self.waiting.pop_front() else { return Ok(()) };
        self.last = Some(span);
        if span.inner_offset < self.position {
            return Err(Error::new(
                ErrorKind::Malformed,
                "stream_fill::begin",
                "chunks of one member must not overlap",
            )
            .with_context("inner_offset", span.inner_offset));
        }
        if let Some(fill) = SlotFill::begin(&*self.image, &span.slot()).await? {
            self.current = Some((span, fill));
        }
        Ok(())
    }

    async fn write(&mut self, span: ChunkSpan, mut fill: SlotFill, bytes: Bytes) -> Result<()> {
        self.position += bytes.len() as u64;
        fill.write(bytes).await?;
        if self.position == end_of(&span) {
            return fill.finish().await;
        }
        self.current = Some((span, fill));
        Ok(())
    }
}

/// Splits up to `len` bytes off the front.
fn take(decoded: &mut Bytes, len: u64) -> Bytes {
    decoded.split_to(usize::try_from(len).unwrap_or(usize::MAX).min(decoded.len()))
}
