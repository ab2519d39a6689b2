//! Rewrites an image with other layers.
mod documents;
mod layer;
mod report;
mod reuse;
mod rules;
mod shares;
mod sources;
mod toc_image;

use std::collections::{BTreeSet, HashMap};

use bolide_core::{Digest, Result};
use bolide_estargz::{BlobFormat, BuildOptions, format::TOC_IMAGE_SUFFIX};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;

pub use report::{ConvertReport, ConvertedImage, ConvertedLayer, Progress};

use self::{
    layer::check_layer,
    shares::Shares,
    sources::{Listed, ListedKind, Sources},
};
use crate::{
    Access, ImageSink, ImageSource, Location, Platform, Prioritized,
    manifest::{Descriptor, Index},
};

/// Layers converted at once, at most. Each keeps a spool file open and holds some chunks in memory.
const CONCURRENT_LAYERS: usize = 4;

/// How to convert an image.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// How to write each layer. Its threads are shared by all layers; what comes first says
    /// [`prioritized`](Self::prioritized).
    pub layer: BuildOptions,
    /// What comes first in which layer. Layers pass over what they lack.
    pub prioritized: Prioritized,
    /// Which images of an index to convert.
    pub platforms: Platforms,
    /// Whether Docker's media types are kept where the source has them, and otherwise become OCI's.
    /// Docker's have no room for annotations, so some registries and tools drop those.
    pub docker: bool,
    /// Whether a layer is taken over as it is when it already has the wanted lazy format, its TOC is
    /// the annotated one, and nothing in it is prioritized.
    pub reuse: bool,
}

/// Which images of a multi-platform one to convert. An image that is alone is converted whatever
/// its platform is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// One, written without an index.
    One(Platform),
    /// Several, written as an index of them, with the attestations of them.
    Several(Vec<Platform>),
    /// All, written as an index of them, with what else is listed: that is copied as it is.
    All,
}

impl Default for Platforms {
    fn default() -> Self {
        Self::One(Platform::host())
    }
}

/// Converts every layer of the image at `src` and writes the image to `dst`.
///
/// The source's blobs are verified as they are read, and `dst` gets its name when everything else
/// is stored. A blob that is several layers, of one image or of several, is converted once.
/// Annotations, history and fields that are not known stay as they are. What lies beside an image
/// and refers to it by digest (referrers, attestations) speaks of the source and is not rewritten.
///
/// With a latest modification time, the image is said to be created then, and no step of its
/// history later.
///
/// `Config` when `options` do not go together or not with `dst`, `Corrupt` when a blob does not
/// match its digest, `Unsupported` when the image holds a layer that is no tar, is encrypted or must
/// not be distributed, and whatever reading and writing fail with.
pub async fn convert_image(
    access: &Access,
    src: &Location,
    dst: &Location,
    options: &ConvertOptions,
    progress: impl Fn(Progress) + Sync,
) -> Result<ConvertReport> {
    options.check(dst)?;
    let sources = Sources::read(access, src, &options.platforms).await?;
    for image in sources.images() {
        image.manifest().layers.iter().try_for_each(check_layer)?;
    }
    let sink = ImageSink::open(access, dst).await?;
    let layers = distinct(&sources);
    let shares = Shares::new(options.layer.parallelism, layers.len(), CONCURRENT_LAYERS);
    let convert = Conversion {
        sources: &sources,
        sink: &sink,
        src,
        options,
        progress: &progress,
        shares,
        matched: Mutex::default(),
    };
    let converted = convert.layers(layers).await?;
    convert.publish(converted, dst).await
}

/// A layer of some image, and what its configuration says it holds.
#[derive(Clone, Copy, Debug)]
struct Unit<'a> {
    image: &'a ImageSource,
    name: &'a Descriptor,
    diff_id: Digest,
}

/// The layers of all images, each blob once, image after image, bottom to top.
fn distinct(sources: &Sources) -> Vec<Unit<'_>> {
    let mut known = BTreeSet::new();
    let layers = sources.images().flat_map(|image| {
        let ids = &image.config().rootfs.diff_ids;
        let named = image.manifest().layers.iter().zip(ids);
        named.map(move |(name, diff_id)| Unit { image, name, diff_id: *diff_id })
    });
    layers.filter(|unit| known.insert(key(unit.name))).collect()
}

/// What tells blobs apart.
fn key(name: &Descriptor) -> (Digest, u64) {
    (name.digest, name.size)
}

/// What became of each blob.
type Converted = HashMap<(Digest, u64), ConvertedLayer>;

struct Conversion<'a, P> {
    sources: &'a Sources,
    sink: &'a ImageSink,
    src: &'a Location,
    options: &'a ConvertOptions,
    progress: &'a P,
    shares: Shares,
    /// Lines of the common list that matched something in some layer.
    matched: Mutex<BTreeSet<usize>>,
}

impl<P: Fn(Progress) + Sync> Conversion<'_, P> {
    async fn layers(&self, units: Vec<Unit<'_>>) -> Result<Converted> {
        stream::iter(units.into_iter().enumerate())
            .map(|(number, unit)| async move {
                let done = self.layer(number, unit).await;
                done.map(|layer| (key(unit.name), layer))
            })
            .buffered(self.shares.concurrent())
            .try_collect()
            .await
    }

    /// Stores every document, and then gives the name.
    async fn publish(&self, converted: Converted, dst: &Location) -> Result<ConvertReport> {
        let toc_image = if self.options.layer.format == BlobFormat::EstargzExternalToc {
            // Before the image, so that nobody finds it without.
            self.publish_tocs(&converted).await?;
            Some(format!("{dst}{TOC_IMAGE_SUFFIX}"))
        } else {
            None
        };
        let (mut images, mut layers) = (Vec::new(), Vec::new());
        let mut entries = Vec::new();
        let mut only = None;
        for listed in &self.sources.listed {
            let (name, document) = match &listed.kind {
                ListedKind::Image(image) => {
                    let of_image = image.manifest().layers.iter();
                    let of_image: Vec<_> = of_image.map(|l| &converted[&key(l)]).collect();
                    let (config, name, document) = self.documents(image, &of_image)?;
                    self.sink.put_document(config).await?;
                    images.push(ConvertedImage::new(image, name.digest));
                    layers.extend(of_image.into_iter().cloned());
                    (name, document)
                }
                ListedKind::Other(other) => {
                    self.copy_other(&other.manifest).await?;
                    (other.name.clone(), other.document.to_vec())
                }
            };
            if self.sources.root.is_some() {
                self.sink.put_manifest(&name, document).await?;
                entries.push(documents::entry(listed, &name));
            } else {
                only = Some((name, document));
            }
        }
        let (name, document) = match (&self.sources.root, only) {
            (Some(root), _) => self.index(root, entries)?,
            (None, Some(only)) => only,
            (None, None) => return Err(sources::nothing()),
        };
        let digest = name.digest;
        self.sink.publish(name, document).await?;
        let unmatched = self.options.prioritized.common().unmatched(&self.matched.lock());
        Ok(ConvertReport { digest, images, layers, toc_image, unmatched })
    }
}
