//! What an image is made of, from its documents, footers and TOCs alone.
mod toc;
mod verify;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bolide_core::{Digest, Error, ErrorKind, PrefetchMark, Result, TocIndex as _};
use bolide_estargz::{
    EstargzIndex, Footer, LayerFormat, ListedFile, OpenedLayer, RawToc, TocTrust,
    format::MAX_TOC_BYTES,
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use toc::{Found, Tocs};
use verify::{Said, verify};

use crate::{Access, ImageSource, Location, Platform, blob_reader::blocking, manifest::Descriptor};

/// What to read of a blob's end: the longest footer, with the header of its frame.
const FOOTER: u64 = Footer::MAX_SIZE as u64 + 8;
/// TOCs read at one time. Each may take [`MAX_TOC_BYTES`] and as much again for its index.
const CONCURRENT_LAYERS: usize = 2;
/// Most bytes of TOCs that are held for one report.
const MAX_KEPT_BYTES: u64 = 2 * MAX_TOC_BYTES;

/// What to report of an image.
#[derive(Clone, Debug)]
pub struct InspectOptions {
    /// Which image of an index to look at.
    pub platform: Platform,
    /// Whether to list the files of each layer.
    pub files: bool,
    /// Whether to keep the TOC documents.
    pub tocs: bool,
    /// Whether to read every layer as a whole and compare all that is said of it with what it is.
    /// Each lies in the work directory of [`Access`] meanwhile.
    pub verify: bool,
}

impl Default for InspectOptions {
    fn default() -> Self {
        Self { platform: Platform::host(), files: false, tocs: false, verify: false }
    }
}

/// What an image is made of.
#[derive(Clone, Debug, Serialize)]
pub struct ImageReport {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Media type of the manifest.
    pub media_type: String,
    /// Digest of its configuration.
    pub config: Digest,
    /// The layers, bottom to top.
    pub layers: Vec<LayerReport>,
}

/// What one layer is.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob, in bytes.
    pub size: u64,
    /// Media type.
    pub media_type: String,
    /// How it can be read.
    pub format: Format,
    /// Digest of the TOC document; none of a plain layer, and of one whose TOC lies in an image that
    /// is not there.
    pub toc_digest: Option<Digest>,
    /// What the manifest says of that digest, or of that of its compressed form; none where there is
    /// none.
    pub annotation: Option<Annotation>,
    /// What the TOC tells; none for a plain layer and for a TOC that is not the annotated one.
    #[serde(flatten)]
    pub contents: Option<Contents>,
    /// The files in tar order, if they were asked for and the TOC may be believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<ListedFile>>,
    /// What is wrong with it, if it was verified: paths and what TOC and tar, or digest and content,
    /// say otherwise. Nothing when it is sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<Vec<String>>,
    /// The TOC document, if it was asked for. Not part of the written report.
    #[serde(skip)]
    pub toc: Option<Bytes>,
}

/// How a layer can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// File by file, as eStargz.
    Estargz,
    /// File by file, as stargz of CRFS.
    LegacyStargz,
    /// File by file, as eStargz whose TOC lies in an image of its own.
    EstargzExternalToc,
    /// File by file, as zstd:chunked of the reference.
    ZstdChunked,
    /// File by file, as zstd:chunked of Podman, Buildah and skopeo.
    ZstdChunkedPodman,
    /// As a whole only.
    Plain,
}

impl From<LayerFormat> for Format {
    fn from(format: LayerFormat) -> Self {
        match format {
            LayerFormat::Estargz => Self::Estargz,
            LayerFormat::LegacyStargz => Self::LegacyStargz,
            LayerFormat::EstargzExternalToc => Self::EstargzExternalToc,
            LayerFormat::ZstdChunked => Self::ZstdChunked,
            LayerFormat::ZstdChunkedPodman => Self::ZstdChunkedPodman,
        }
    }
}

/// What the manifest says of a TOC's digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Annotation {
    /// The digest of the TOC that the blob has.
    Matches,
    /// Another digest: the layer is not to be believed.
    Differs,
    /// Nothing, so that the layer cannot be verified.
    Missing,
}

/// What a TOC tells of its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// Files, directories and all other nodes but the root; hard links are no nodes of their own.
    pub nodes: u64,
    /// Chunks.
    pub chunks: u32,
    /// What is marked for prefetching.
    pub prefetch: Prefetch,
}

/// What the author of a layer marked for prefetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefetch {
    /// Nothing is said.
    Absent,
    /// That nothing is worth it.
    Nothing,
    /// So many bytes from the start of the blob.
    UpTo(u64),
}

/// Reads the manifest, the configuration and of each layer the footer and TOC of the image at
/// `location`.
///
/// A layer that cannot be read file by file is reported as plain. Fails as [`ImageSource::open`]
/// does, and with `Malformed` when an annotation or a TOC breaks a rule, `Corrupt` when a blob has
/// another size than its descriptor says, `Exhausted` when there is more to list than is held.
pub async fn inspect_image(
    access: &Access,
    location: &Location,
    options: &InspectOptions,
) -> Result<ImageReport> {
    let image = ImageSource::open(access, location, &options.platform).await?;
    let tocs = Tocs::new(access, location);
    let work_dir = options.verify.then(|| access.work_dir()).transpose()?;
    let kept = AtomicU64::new(0);
    let inspection = Inspection { image: &image, tocs, options, work_dir, kept };
    // The configuration has one diffID for each layer.
    let layers = stream::iter(image.manifest().layers.iter().zip(&image.config().rootfs.diff_ids))
        .map(|(layer, diff_id)| async {
            let report = inspection.layer(layer, *diff_id).await;
            report.map_err(|error| error.with_context("layer", layer.digest))
        })
        .buffered(CONCURRENT_LAYERS)
        .try_collect()
        .await?;
    Ok(ImageReport {
        manifest: image.target().digest,
        media_type: image.target().media_type.clone(),
        config: image.manifest().config.digest,
        layers,
    })
}

struct Inspection<'a> {
    image: &'a ImageSource,
    tocs: Tocs<'a>,
    options: &'a InspectOptions,
    /// Given when layers are to be verified.
    work_dir: Option<&'a Path>,
    kept: AtomicU64,
}

impl Inspection<'_> {
    async fn layer(&self, layer: &Descriptor, diff_id: Digest) -> Result<LayerReport> {
        let annotated = TocTrust::of_annotations(&layer.annotations)?;
        // Not the usual guess of a TOC's size: nothing but what is reported is read.
        let opened = self.image.open_blob(layer, FOOTER).await?;
        let mut report = LayerReport {
            digest: layer.digest,
            size: layer.size,
            media_type: layer.media_type.clone(),
            format: Format::Plain,
            toc_digest: None,
            annotation: None,
            contents: None,
            files: None,
            faults: None,
            toc: None,
        };
        let mut index = None;
        match self.tocs.find(&opened).await? {
            Found::Toc(raw) => index = Some(self.describe(raw, annotated, &mut report).await?),
            Found::Missing(facts) => report.format = facts.format.into(),
            Found::Plain => {}
        }
        if let Some(work_dir) = self.work_dir {
            let said = Said { layer: layer.clone(), diff_id, index };
            report.faults = Some(verify(self.image, work_dir, said).await?);
        }
        Ok(report)
    }

    async fn describe(
        &self,
        raw: RawToc,
        annotated: Option<TocTrust>,
        report: &mut LayerReport,
    ) -> Result<Arc<EstargzIndex>> {
        let list = self.options.files;
        let (opened, annotation, files) = blocking(move || {
            let compressed = raw.compressed_ground();
            // Not verified yet: whether it matches is what is asked.
            let opened = raw.index(TocTrust::Unverified)?;
            let ground = TocTrust::Digest(opened.index.digest());
            let annotation = match annotated {
                None => Annotation::Missing,
                Some(said) if said == ground || Some(said) == compressed => Annotation::Matches,
                Some(_) => Annotation::Differs,
            };
            let list = list && annotation != Annotation::Differs;
            let files = list.then(|| opened.list()).transpose()?;
            Ok((opened, annotation, files))
        })
        .await?;
        report.format = opened.facts.format.into();
        report.toc_digest = Some(opened.index.digest());
        report.annotation = Some(annotation);
        if annotation != Annotation::Differs {
            report.contents = Some(contents(&opened));
        }
        if self.options.files || self.options.tocs {
            self.keep(opened.toc.len())?;
        }
        report.files = files;
        report.toc = self.options.tocs.then_some(opened.toc);
        Ok(opened.index)
    }

    fn keep(&self, bytes: usize) -> Result<()> {
        let kept = self.kept.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if kept <= MAX_KEPT_BYTES {
            return Ok(());
        }
        let rule = "the TOCs of an image that is listed may have 1 GiB together";
        Err(Error::new(ErrorKind::Exhausted, "image::inspect", rule).with_context("bytes", kept))
    }
}

fn contents(layer: &OpenedLayer) -> Contents {
    Contents {
        nodes: layer.index.len().saturating_sub(1) as u64,
        chunks: layer.index.chunk_count(),
        prefetch: match layer.index.prefetch_mark() {
            PrefetchMark::Absent => Prefetch::Absent,
            PrefetchMark::Nothing => Prefetch::Nothing,
            PrefetchMark::UpTo(range) => Prefetch::UpTo(range.end()),
        },
    }
}
