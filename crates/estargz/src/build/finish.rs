//! What comes after the last segment: TOC and footer, as each format has them.
use std::collections::BTreeMap;

use bolide_core::{ByteRange, Digest, Digester, Error, ErrorKind, Result};
use bytes::Bytes;

use super::{
    BlobFormat, BuildOptions, BuildReport,
    assemble::Assembler,
    compress::Compressor,
    draft::Draft,
    header, podman,
    tar_split::{TarSplit, TarSplitDocument},
    trace::Traced,
    writer::Written,
};
use crate::{
    Footer, ZstdDocument, ZstdFooter,
    footer::{MANIFEST_TYPE, skippable_header},
    format,
    toc::{TocDocument, TocEntry},
};

/// A blob whose segments are all there.
pub(super) struct Finish<'a> {
    blob: Assembler<'a>,
    compressor: Compressor,
    diff: Digester,
    raw_size: u64,
    annotations: BTreeMap<String, String>,
    toc_digest: Option<Digest>,
    external_toc: Option<Bytes>,
}

/// Completes a blob.
pub(super) fn finish(
    mut blob: Assembler<'_>,
    traced: Traced,
    written: Written,
    options: &BuildOptions,
) -> Result<BuildReport> {
    blob.digests(&traced.digests);
    let prioritized_size = written.landmark.map_or(0, |entry| blob.offset(entry));
    let drafts = blob.take_drafts();
    let mut finish = Finish {
        blob,
        compressor: Compressor::new(options)?,
        diff: traced.diff,
        raw_size: traced.size,
        annotations: BTreeMap::new(),
        toc_digest: None,
        external_toc: None,
    };
    match options.format {
        BlobFormat::Estargz => finish.estargz(drafts)?,
        BlobFormat::EstargzExternalToc => finish.external(drafts)?,
        BlobFormat::ZstdChunked => finish.zstd_chunked(drafts)?,
        BlobFormat::ZstdChunkedPodman => finish.podman(&drafts, traced.split)?,
        BlobFormat::TarGzip | BlobFormat::TarZstd => finish.plain()?,
    }
    finish.report(written.entries, prioritized_size, options.format)
}

impl Finish<'_> {
    fn estargz(&mut self, drafts: Vec<Draft>) -> Result<()> {
        // The document is written right into its tar entry, since it may have many MiB.
        let head = header::plain(format::TOC_NAME, 0)?.len();
        let mut tar = vec![0; head];
        json(&toc_document(&entries(drafts)), &mut tar)?;
        let len = (tar.len() - head) as u64;
        tar[..head].copy_from_slice(&header::plain(format::TOC_NAME, len)?);
        self.toc_digest = Some(Digest::of(&tar[head..]));
        tar.extend_from_slice(header::zero_padding(len));
        tar.extend_from_slice(&header::END);
        self.diff.update(&tar);
        self.raw_size += tar.len() as u64;
        let offset = self.blob.size();
        let member = self.compressor.document(&tar)?;
        self.blob.write(&member)?;
        self.blob.write(&Footer::write(offset))
    }

    fn external(&mut self, drafts: Vec<Draft>) -> Result<()> {
        let mut document = Vec::new();
        json(&toc_document(&entries(drafts)), &mut document)?;
        self.toc_digest = Some(Digest::of(&document));
        self.external_toc = Some(document.into());
        self.blob.write(&Footer::write_external())
    }

    fn zstd_chunked(&mut self, drafts: Vec<Draft>) -> Result<()> {
        let mut document = Vec::new();
        json(&toc_document(&entries(drafts)), &mut document)?;
        let toc = self.toc_frame(
            &document,
            format::ANNOTATION_ZSTD_CHECKSUM,
            format::ANNOTATION_ZSTD_POSITION,
        )?;
        let footer = ZstdFooter { toc, tar_split: None, podman: false };
        self.blob.write(&footer.write())
    }

    fn podman(&mut self, drafts: &[Draft], split: Option<TarSplit>) -> Result<()> {
        let split = split.map(TarSplit::finish).transpose()?;
        let mut document = Vec::new();
        let split_digest = split.as_ref().map(TarSplitDocument::digest);
        json(&podman::document(drafts, split_digest), &mut document)?;
        let toc = self.toc_frame(
            &document,
            format::ANNOTATION_PODMAN_CHECKSUM,
            format::ANNOTATION_PODMAN_POSITION,
        )?;
        let tar_split = match split {
            Some(split) => {
                let found = self.frame(&split.compressed, split.raw_size)?;
                let (start, len) = (found.range.start(), found.range.len());
                let position = format!("{start}:{len}:{}", found.raw_size);
                self.annotate(format::ANNOTATION_PODMAN_TAR_SPLIT, position);
                Some(found)
            }
            None => None,
        };
        self.blob.write(&ZstdFooter { toc, tar_split, podman: true }.write())
    }

    /// Writes a TOC into a frame that decompressors skip, and annotates where.
    fn toc_frame(
        &mut self,
        document: &[u8],
        checksum: &'static str,
        position: &'static str,
    ) -> Result<ZstdDocument> {
        self.toc_digest = Some(Digest::of(document));
        let compressed = self.compressor.document(document)?;
        let toc = self.frame(&compressed, document.len() as u64)?;
        self.annotate(checksum, Digest::of(&compressed).to_string());
        let (start, len) = (toc.range.start(), toc.range.len());
        self.annotate(position, format!("{start}:{len}:{}:{MANIFEST_TYPE}", toc.raw_size));
        Ok(toc)
    }

    fn frame(&mut self, compressed: &[u8], raw_size: u64) -> Result<ZstdDocument> {
        let len = u32::try_from(compressed.len()).map_err(|_| {
            let rule =
                "the TOC of a zstd:chunked layer may have 4 GiB; choose estargz-external-toc";
            Error::new(ErrorKind::Exhausted, "estargz::write", rule)
        })?;
        self.blob.write(&skippable_header(len))?;
        let start = self.blob.size();
        self.blob.write(compressed)?;
        Ok(ZstdDocument { range: ByteRange::new(start..self.blob.size())?, raw_size })
    }

    /// A blob of no bytes is no gzip and no zstd.
    fn plain(&mut self) -> Result<()> {
        if self.blob.size() > 0 {
            return Ok(());
        }
        let empty = self.compressor.document(&[])?;
        self.blob.write(&empty)
    }

    fn annotate(&mut self, key: &str, value: String) {
        self.annotations.insert(key.to_owned(), value);
    }

    fn report(
        mut self,
        entries: u32,
        prioritized_size: u64,
        format: BlobFormat,
    ) -> Result<BuildReport> {
        if let Some(digest) = self.toc_digest {
            // containers/storage refuses a layer that has the reference's key beside its own.
            let key = match format {
                BlobFormat::ZstdChunkedPodman => format::ANNOTATION_OWN_TOC_DIGEST,
                _ => format::ANNOTATION_TOC_DIGEST,
            };
            self.annotate(key, digest.to_string());
            self.annotate(format::ANNOTATION_UNCOMPRESSED_SIZE, self.raw_size.to_string());
        }
        let (blob_digest, blob_size) = self.blob.finish()?;
        Ok(BuildReport {
            blob_digest,
            blob_size,
            diff_id: self.diff.finish(),
            uncompressed_size: self.raw_size,
            toc_digest: self.toc_digest,
            external_toc: self.external_toc,
            annotations: self.annotations,
            entries,
            prioritized_size,
        })
    }
}

fn entries(drafts: Vec<Draft>) -> Vec<TocEntry> {
    drafts.into_iter().map(|draft| draft.toc).collect()
}

fn toc_document(entries: &[TocEntry]) -> TocDocument<'_> {
    TocDocument { version: 1, entries }
}

fn json(document: &impl serde::Serialize, out: &mut Vec<u8>) -> Result<()> {
    let written = serde_json::to_writer(out, document);
    written.map_err(|error| Error::io("estargz::write", std::io::Error::other(error)))
}
