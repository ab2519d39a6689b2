//! Fills chunks of a member that is too large to hold.
use std::{collections::VecDeque, io::Write as _};

use bolide_core::{ChunkSpan, Codec, Error, LayerImage, Result, SlotFill};
use bytes::Bytes;

use super::decode::{broken, end_of};

/// Compressed bytes decoded at once: the format expands at most some thousand times, so that what
/// comes out of one step stays under 64 MiB.
const STEP: usize = 32 * 1024;

#[allow(clippy::large_enum_variant, reason = "there is one for a member of megabytes")]
enum Decoder {
    Stored(Vec<u8>),
    Gzip(flate2::write::MultiGzDecoder<Vec<u8>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

/// Decodes pieces of one member and writes what belongs to its chunks into the layer image.
pub(super) struct StreamFill<'a> {
    image: &'a dyn LayerImage,
    decoder: Decoder,
    /// Chunks not yet filled, in the order of their place.
    waiting: VecDeque<ChunkSpan>,
    current: Option<(ChunkSpan, SlotFill)>,
    /// Decoded bytes seen so far.
    position: u64,
}

impl<'a> StreamFill<'a> {
    pub(super) fn new(image: &'a dyn LayerImage, spans: Vec<ChunkSpan>) -> Result<Self> {
        let codec = spans.first().map_or(Codec::Stored, |span| span.codec);
        let decoder = match codec {
            Codec::Stored => Decoder::Stored(Vec::new()),
            Codec::Gzip => Decoder::Gzip(flate2::write::MultiGzDecoder::new(Vec::new())),
            Codec::Zstd => Decoder::Zstd(
                zstd::stream::write::Decoder::new(Vec::new()).map_err(|error| broken(&error))?,
            ),
        };
        Ok(Self { image, decoder, waiting: spans.into(), current: None, position: 0 })
    }

    /// Whether every chunk was filled.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.current.is_none()
    }

    /// Takes the next compressed bytes.
    pub(super) async fn push(&mut self, compressed: &Bytes) -> Result<()> {
        for step in compressed.chunks(STEP) {
            if self.is_done() {
                return Ok(());
            }
            let decoded = self.decode(step).map_err(|error| broken(&error))?;
            self.distribute(decoded).await?;
        }
        Ok(())
    }

    /// Ends the member; an error when a chunk is still waiting.
    pub(super) fn finish(self) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        Err(Error::new(
            bolide_core::ErrorKind::Corrupt,
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
        if let Some(fill) = SlotFill::begin(self.image, &span.slot()).await? {
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
