//! What a conversion reads: one image, or those of an index.
use std::collections::HashSet;

use bolide_core::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};

use super::Platforms;
use crate::{
    Access, ImageSource, Location, Platform,
    backend::{self, Origin},
    manifest::{Descriptor, Index, Manifest},
    source::{check_depth, choose, decode},
};

/// Names, in an index, what an attestation is about.
const ATTESTS: &str = "vnd.docker.reference.digest";
/// Says, in an index, that an entry is about another one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Most manifests of an index that are looked at.
const MAX_MANIFESTS: usize = 1000;

/// The images that are read, and the index that lists them.
#[derive(Debug)]
pub(super) struct Sources {
    /// The outermost index, and what names it; none when a single image is written.
    pub(super) root: Option<(Descriptor, Index)>,
    /// What is to be written, in the order of the index. What lies in an index within the index
    /// is listed in its place.
    pub(super) listed: Vec<Listed>,
    blobs: std::sync::Arc<dyn bolide_core::BlobOpener>,
}

/// One manifest.
#[derive(Debug)]
pub(super) struct Listed {
    /// How the index lists it.
    pub(super) entry: Descriptor,
    pub(super) kind: ListedKind,
}

#[derive(Debug)]
pub(super) enum ListedKind {
    Image(Box<ImageSource>),
    Other(Box<Other>),
}

/// What is no image of a tree of files: copied as it is.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) name: Descriptor,
    pub(super) document: Bytes,
    pub(super) manifest: Manifest,
}

impl Sources {
    /// Reads the documents of what is chosen.
    pub(super) async fn read(
        access: &Access,
        src: &Location,
        platforms: &Platforms,
    ) -> Result<Self> {
        let read = async {
            let origin = backend::origin(src, access)?;
            Self::read_from(&*origin, platforms).await
        };
        read.await.map_err(|error| error.with_context("image", src))
    }

    async fn read_from(origin: &dyn Origin, platforms: &Platforms) -> Result<Self> {
        let (name, document) = origin.root().await?;
        let mut sources = Self { root: None, listed: Vec::new(), blobs: origin.blobs() };
        if !name.is_index() {
            sources.take(origin, name, document).await?;
            return sources.checked();
        }
        let index: Index = decode(&name, document).await?;
        let mut leaves = Vec::new();
        leaves_of(origin, &name, index.clone(), 1, &mut leaves).await?;
        let chosen = match platforms {
            Platforms::One(platform) => {
                vec![choose(Index { manifests: leaves, ..index.clone() }, platform)?]
            }
            Platforms::Several(platforms) => several(&index, leaves, platforms)?,
            Platforms::All => leaves,
        };
        if !matches!(platforms, Platforms::One(_)) {
            sources.root = Some((name, index));
        }
        for entry in chosen {
            let document = origin.manifest(&entry).await?;
            sources.take(origin, entry, document).await?;
        }
        sources.checked()
    }

    /// Reads what a manifest needs.
    async fn take(
        &mut self,
        origin: &dyn Origin,
        entry: Descriptor,
        document: Bytes,
    ) -> Result<()> {
        let manifest: Manifest = decode(&entry, document.clone()).await?;
        // How an index describes an image is no part of its name.
        let name = Descriptor::new(&entry.media_type, entry.digest, entry.size);
        let kind = if self.root.is_some() && !is_image(&entry, &manifest) {
            ListedKind::Other(Box::new(Other { name, document, manifest }))
        } else {
            let image = ImageSource::of_manifest(origin.blobs(), name, manifest).await?;
            ListedKind::Image(Box::new(image))
        };
        self.listed.push(Listed { entry, kind });
        Ok(())
    }

    fn checked(self) -> Result<Self> {
        if self.images().next().is_none() { Err(nothing()) } else { Ok(self) }
    }

    pub(super) fn images(&self) -> impl Iterator<Item = &ImageSource> {
        self.listed.iter().filter_map(|listed| match &listed.kind {
            ListedKind::Image(image) => Some(&**image),
            ListedKind::Other(_) => None,
        })
    }

    /// Where the blobs of all of them are.
    pub(super) fn blobs(&self) -> &dyn bolide_core::BlobOpener {
        &*self.blobs
    }
}

/// There is nothing to convert.
pub(super) fn nothing() -> Error {
    Error::new(ErrorKind::NotFound, "convert::open", "the index lists no container image")
}

/// Every manifest that an index and the indexes in it list, once each.
fn leaves_of<'a>(
    origin: &'a dyn Origin,
    name: &'a Descriptor,
    index: Index,
    depth: usize,
    leaves: &'a mut Vec<Descriptor>,
) -> BoxFuture<'a, Result<()>> {
    async move {
        check_depth(depth, name)?;
        for entry in index.manifests {
            if entry.is_index() {
                let inner: Index = decode(&entry, origin.manifest(&entry).await?).await?;
                leaves_of(origin, &entry, inner, depth + 1, leaves).await?;
            } else if leaves.len() >= MAX_MANIFESTS {
                let rule = "an index may list a thousand manifests";
                return Err(Error::new(ErrorKind::Exhausted, "convert::open", rule));
            } else if !leaves.contains(&entry) {
                leaves.push(entry);
            }
        }
        Ok(())
    }
    .boxed()
}

/// The images of these platforms, in the order of the index, and what attests them.
fn several(
    index: &Index,
    leaves: Vec<Descriptor>,
    platforms: &[Platform],
) -> Result<Vec<Descriptor>> {
    let mut kept = HashSet::new();
    for platform in platforms {
        let offered = Index { manifests: leaves.clone(), ..index.clone() };
        kept.insert(choose(offered, platform)?.digest);
    }
    let attests = |entry: &Descriptor| entry.annotations.get(ATTESTS)?.parse::<Digest>().ok();
    let is_kept = |entry: &Descriptor| {
        kept.contains(&entry.digest) || attests(entry).is_some_and(|about| kept.contains(&about))
    };
    Ok(leaves.into_iter().filter(is_kept).collect())
}

/// Whether a manifest of an index is that of a container image. Attestations have the form of one,
/// so the index and their layers tell.
fn is_image(entry: &Descriptor, manifest: &Manifest) -> bool {
    let layers = &manifest.layers;
    crate::source::check_kind(manifest).is_ok()
        && !entry.annotations.contains_key(REFERENCE_TYPE)
        && (layers.is_empty() || layers.iter().any(|layer| layer.media_type.contains(".tar")))
}
