//! From an opened blob to an index: the one place of this crate that waits for bytes.
use std::sync::Arc;

use bolide_core::{ByteRange, Digest, Error, ErrorKind, OpenedBlob, ReadOptions, Result};
use bytes::Bytes;

use crate::{
    BlobFacts, EstargzIndex, Footer, LayerFormat, OpenedLayer, TocTrust,
    document::{self, Wrapping},
};

/// How much of a blob's end to ask for: footer and TOC of 4,000 files and more (1,500 where a tar-split
/// lies between them), in 10 ms of a 100 Mbit/s line, half a round trip. A longer TOC costs one more
/// request for exactly the rest.
pub const TAIL_HINT: u64 = 128 * 1024;

/// A TOC as it lies in its blob: compressed, and believed by nobody yet.
#[derive(Clone, Debug)]
pub struct RawToc {
    compressed: Bytes,
    wrapping: Wrapping,
    facts: BlobFacts,
}

impl RawToc {
    /// What was learned of the blob.
    #[must_use]
    pub fn facts(&self) -> BlobFacts {
        self.facts
    }

    /// The ground that would let it be believed as it lies in its blob; none in formats that have no
    /// annotation for that. Takes time in proportion to its size.
    #[must_use]
    pub fn compressed_ground(&self) -> Option<TocTrust> {
        let is_zstd = matches!(self.wrapping, Wrapping::Zstd { .. });
        is_zstd.then(|| TocTrust::Compressed(Digest::of(&self.compressed)))
    }

    /// Inflates, verifies and indexes the TOC. That takes processor time in proportion to the files
    /// of the layer, so a caller on a runtime runs it where it may block.
    ///
    /// `Corrupt` when it is not the trusted one, `Malformed` when it breaks a rule of the format,
    /// `Exhausted` when it is too large.
    pub fn index(self, trust: TocTrust) -> Result<OpenedLayer> {
        let blob = self.facts.blob;
        self.try_index(trust).map_err(|error| error.with_context("blob", blob))
    }

    fn try_index(self, trust: TocTrust) -> Result<OpenedLayer> {
        let Self { compressed, wrapping, facts } = self;
        if let TocTrust::Compressed(expected) = trust {
            // Before it is inflated: what nobody vouches for is not even that.
            trust.check(Digest::of(&compressed))?;
            if wrapping == Wrapping::GzipTar {
                return Err(Error::new(
                    ErrorKind::Malformed,
                    "estargz::open",
                    "the checksum of a zstd:chunked TOC can vouch for no other TOC",
                ));
            }
            let toc = Bytes::from(document::unwrap(&compressed, wrapping)?);
            let index = Arc::new(EstargzIndex::of_document(&toc, expected, &facts)?);
            return Ok(OpenedLayer { index, toc, kept: compressed, facts });
        }
        let toc = Bytes::from(document::unwrap(&compressed, wrapping)?);
        let digest = Digest::of(&toc);
        trust.check(digest)?;
        let index = Arc::new(EstargzIndex::of_document(&toc, digest, &facts)?);
        Ok(OpenedLayer { index, kept: toc.clone(), toc, facts })
    }
}

/// Where the TOC of a blob is.
#[derive(Clone, Debug)]
pub enum FoundToc {
    /// In the blob.
    Here(RawToc),
    /// In an image of TOCs, for [`read_external_toc`].
    Elsewhere(BlobFacts),
}

/// Reads the footer of an opened blob, and the TOC when it is in the blob; from its tail where that
/// holds them.
///
/// `Unsupported` when the blob can only be read as a whole, `Malformed` when its footer points
/// outside it, `Exhausted` when the TOC is too large.
pub async fn find_toc(opened: &OpenedBlob) -> Result<FoundToc> {
    let found = try_find(opened).await;
    found.map_err(|error| error.with_context("blob", opened.source.digest()))
}

async fn try_find(opened: &OpenedBlob) -> Result<FoundToc> {
    let source = &opened.source;
    let footer = read_footer(opened).await?;
    let toc_offset = footer.payload_end(source.size());
    let facts =
        |format| BlobFacts { blob: source.digest(), blob_size: source.size(), toc_offset, format };
    let (format, range, wrapping) = match footer {
        Footer::ExternalToc => {
            return Ok(FoundToc::Elsewhere(facts(LayerFormat::EstargzExternalToc)));
        }
        Footer::ZstdChunked(footer) => {
            document::check_size("raw_size", footer.toc.raw_size)?;
            let format = if footer.podman {
                LayerFormat::ZstdChunkedPodman
            } else {
                LayerFormat::ZstdChunked
            };
            (format, footer.toc.range, Wrapping::Zstd { raw_size: footer.toc.raw_size })
        }
        Footer::Estargz { .. } | Footer::Legacy { .. } => {
            let legacy = matches!(footer, Footer::Legacy { .. });
            let format = if legacy { LayerFormat::LegacyStargz } else { LayerFormat::Estargz };
            let range = ByteRange::new(toc_offset..source.size() - footer.size() as u64)?;
            (format, range, Wrapping::GzipTar)
        }
    };
    document::check_size("compressed", range.len())?;
    let compressed = read(opened, range).await?;
    Ok(FoundToc::Here(RawToc { compressed, wrapping, facts: facts(format) }))
}

/// [`find_toc`] for a TOC in the blob; `Unsupported` as well when it is in an image of its own.
pub async fn read_toc(opened: &OpenedBlob) -> Result<RawToc> {
    match find_toc(opened).await? {
        FoundToc::Here(raw) => Ok(raw),
        FoundToc::Elsewhere(facts) => Err(Error::new(
            ErrorKind::Unsupported,
            "estargz::open",
            "the TOC of this layer lies in an image of its own",
        )
        .with_context("blob", facts.blob)),
    }
}

/// Reads the TOC of a layer from the blob that an image of TOCs has for it: a tar in gzip.
///
/// `Exhausted` when it is too large, and whatever reading it fails with.
pub async fn read_external_toc(facts: BlobFacts, holder: &OpenedBlob) -> Result<RawToc> {
    let size = holder.source.size();
    let read = async {
        document::check_size("compressed", size)?;
        read(holder, ByteRange::new(0..size)?).await
    };
    let compressed = read.await.map_err(|error| {
        error.with_context("toc_blob", holder.source.digest()).with_context("blob", facts.blob)
    })?;
    Ok(RawToc { compressed, wrapping: Wrapping::GzipTar, facts })
}

/// [`read_toc`] and [`RawToc::index`] in one, on the thread of the caller: for tools and small
/// layers. Fails as they do.
pub async fn open_layer(opened: &OpenedBlob, trust: TocTrust) -> Result<OpenedLayer> {
    read_toc(opened).await?.index(trust)
}

/// The footer, from the tail or, when none was asked for, from the blob.
async fn read_footer(opened: &OpenedBlob) -> Result<Footer> {
    let source = &opened.source;
    let start = source.size().saturating_sub(Footer::MAX_SIZE as u64);
    let read = match ByteRange::new(start..source.size()) {
        Ok(range) => read(opened, range).await?,
        Err(_) => Bytes::new(),
    };
    Footer::parse(&read, source.size())
}

/// Bytes of the blob: what the tail holds is not asked for again.
async fn read(opened: &OpenedBlob, wanted: ByteRange) -> Result<Bytes> {
    let tail_start = opened.source.size().saturating_sub(opened.tail.len() as u64);
    let held = ByteRange::new(tail_start.max(wanted.start())..wanted.end()).ok();
    let in_tail = held.and_then(|held| {
        let at = |offset: u64| usize::try_from(offset - tail_start).ok();
        opened.tail.get(at(held.start())?..at(held.end())?)
    });
    let Ok(missing) = ByteRange::new(wanted.start()..tail_start.min(wanted.end())) else {
        return Ok(Bytes::copy_from_slice(in_tail.unwrap_or_default()));
    };
    let before = opened.source.read_at(missing, ReadOptions::default()).await?;
    Ok([&before[..], in_tail.unwrap_or_default()].concat().into())
}
