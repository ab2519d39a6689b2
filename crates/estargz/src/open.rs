//! From an opened blob to an index: the one place of this crate that waits for bytes.
use std::{io::Read as _, sync::Arc};

use bolide_core::{ByteRange, Digest, Error, ErrorKind, OpenedBlob, ReadOptions, Result};
use bytes::Bytes;
use flate2::bufread::GzDecoder;
use serde::{Deserialize, Serialize};

use crate::{EstargzIndex, Footer, format};

/// How much of a blob's end to ask for: footer and TOC of 4,000 files and more, in 10 ms of a
/// 100 Mbit/s line, half a round trip. A longer TOC costs one more request for exactly the rest.
pub const TAIL_HINT: u64 = 128 * 1024;

/// On what ground a TOC is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TocTrust {
    /// Its digest is annotated in a verified manifest.
    Digest(Digest),
    /// The operator turned verification off, by name.
    Unverified,
}

/// Which variant of the format a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerFormat {
    /// eStargz.
    Estargz,
    /// stargz as CRFS wrote it.
    LegacyStargz,
}

/// What must be known of a blob, beside its TOC, to mount the layer again without asking anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobFacts {
    /// Digest of the blob.
    pub blob: Digest,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Where the TOC starts and payloads end, in bytes.
    pub toc_offset: u64,
    /// Variant.
    pub format: LayerFormat,
}

/// A layer whose TOC was read and verified.
#[derive(Clone, Debug)]
pub struct OpenedLayer {
    /// Its index.
    pub index: Arc<EstargzIndex>,
    /// Its TOC document, as it was in the blob.
    pub toc: Bytes,
    /// What was learned of the blob.
    pub facts: BlobFacts,
}

/// A TOC as it lies in its blob: compressed, and believed by nobody yet.
#[derive(Clone, Debug)]
pub struct RawToc {
    compressed: Bytes,
    facts: BlobFacts,
}

impl RawToc {
    /// What was learned of the blob.
    #[must_use]
    pub fn facts(&self) -> BlobFacts {
        self.facts
    }

    /// Inflates, verifies and indexes the TOC. That takes processor time in proportion to the files
    /// of the layer, so a caller on a runtime runs it where it may block.
    ///
    /// `Corrupt` when it is not the trusted one, `Malformed` when it breaks a rule of the format,
    /// `Exhausted` when it is too large.
    pub fn index(self, trust: TocTrust) -> Result<OpenedLayer> {
        let Self { compressed, facts } = self;
        let toc = extract(&compressed).map_err(|error| error.with_context("blob", facts.blob))?;
        let toc = Bytes::from(toc);
        let index = Arc::new(EstargzIndex::from_toc(&toc, trust, &facts)?);
        Ok(OpenedLayer { index, toc, facts })
    }
}

/// Reads footer and TOC of an opened blob, from its tail where that holds them.
///
/// `Unsupported` when the blob is no eStargz, `Malformed` when its footer points outside it,
/// `Exhausted` when the TOC is too large.
pub async fn read_toc(opened: &OpenedBlob) -> Result<RawToc> {
    let source = &opened.source;
    let footer = read_footer(opened).await?;
    let format = match footer {
        Footer::Estargz { .. } => LayerFormat::Estargz,
        Footer::Legacy { .. } => LayerFormat::LegacyStargz,
        Footer::ExternalToc | Footer::ZstdChunked(_) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "estargz::open",
                "only layers with a TOC of eStargz are read",
            )
            .with_context("blob", source.digest()));
        }
    };
    let toc_offset = footer.payload_end(source.size());
    let member_end = source.size() - footer.size() as u64;
    let member = ByteRange::new(toc_offset..member_end)?;
    if member.len() > format::MAX_TOC_BYTES {
        return Err(too_large()
            .with_context("compressed", member.len())
            .with_context("blob", source.digest()));
    }
    let compressed = read(opened, member).await?;
    let facts = BlobFacts { blob: source.digest(), blob_size: source.size(), toc_offset, format };
    Ok(RawToc { compressed, facts })
}

/// [`read_toc`] and [`RawToc::index`] in one, on the thread of the caller: for tools and small
/// layers. Fails as they do.
pub async fn open_layer(opened: &OpenedBlob, trust: TocTrust) -> Result<OpenedLayer> {
    read_toc(opened).await?.index(trust)
}

/// The footer, from the tail or, when none was asked for, from the blob.
async fn read_footer(opened: &OpenedBlob) -> Result<Footer> {
    let source = &opened.source;
    let start = source.size().saturating_sub(Footer::SIZE as u64);
    let read = match ByteRange::new(start..source.size()) {
        Ok(range) => read(opened, range).await?,
        Err(_) => Bytes::new(),
    };
    Footer::parse(&read, source.size()).map_err(|error| error.with_context("blob", source.digest()))
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

/// The TOC document in its member: one tar entry.
fn extract(compressed: &[u8]) -> Result<Vec<u8>> {
    // Room for the tar header, padding and end marks beside the document.
    let mut member = GzDecoder::new(compressed).take(format::MAX_TOC_BYTES + 4096);
    let mut header = [0; 512];
    member.read_exact(&mut header).map_err(broken)?;
    let name_end = header[..100].iter().position(|byte| *byte == 0).unwrap_or(100);
    if &header[..name_end] != format::TOC_NAME.as_bytes() {
        return Err(refuse("the footer must point to a tar entry named stargz.index.json"));
    }
    let size =
        octal(&header[124..136]).ok_or_else(|| refuse("the tar header of the TOC has no size"))?;
    if size > format::MAX_TOC_BYTES {
        return Err(too_large().with_context("size", size));
    }
    let mut document = Vec::new();
    let read = member.take(size).read_to_end(&mut document).map_err(broken)?;
    if read as u64 == size { Ok(document) } else { Err(refuse("the TOC ends early")) }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}

fn broken(error: std::io::Error) -> Error {
    refuse("the TOC must be a whole gzip member").with_source(error)
}

fn too_large() -> Error {
    Error::new(ErrorKind::Exhausted, "estargz::open", "a TOC may have 512 MiB")
}

fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "estargz::open", rule)
}
