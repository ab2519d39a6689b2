//! Finds the TOC of a layer, in its blob or in the image of TOCs beside its own.
use bolide_core::{BlobRef, Digest, Error, ErrorKind, OpenedBlob, Result};
use bolide_estargz::{
    BlobFacts, FoundToc, RawToc, find_toc,
    format::{ANNOTATION_LAYER_DIGEST, MAX_TOC_BYTES, TOC_IMAGE_SUFFIX},
    read_external_toc,
};
use tokio::sync::OnceCell;

use crate::{
    Access, Location,
    backend::{self, Origin},
    blob_reader::blocking,
    manifest::{self, Descriptor, Manifest},
};

/// What was found of a layer's TOC.
pub(super) enum Found {
    /// The TOC.
    Toc(RawToc),
    /// That it lies in an image that is not there.
    Missing(BlobFacts),
    /// That there is none.
    Plain,
}

/// TOCs of the layers of one image.
pub(super) struct Tocs<'a> {
    access: &'a Access,
    location: &'a Location,
    /// What the image of TOCs holds; nothing when there is no such image.
    external: OnceCell<Option<External>>,
}

struct External {
    origin: Box<dyn Origin>,
    layers: Vec<Descriptor>,
}

impl<'a> Tocs<'a> {
    pub(super) fn new(access: &'a Access, location: &'a Location) -> Self {
        Self { access, location, external: OnceCell::new() }
    }

    /// Finds the TOC of a layer whose blob was opened.
    pub(super) async fn find(&self, opened: &OpenedBlob) -> Result<Found> {
        let facts = match find_toc(opened).await {
            Ok(FoundToc::Here(raw)) => return Ok(Found::Toc(raw)),
            Ok(FoundToc::Elsewhere(facts)) => facts,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Found::Plain),
            Err(error) => return Err(error),
        };
        let Some(external) = self.external.get_or_try_init(|| self.open()).await? else {
            return Ok(Found::Missing(facts));
        };
        let Some(holder) = external.layers.iter().find(|holder| is_of(holder, facts.blob)) else {
            return Ok(Found::Missing(facts));
        };
        if holder.size > MAX_TOC_BYTES {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "image::inspect",
                "a TOC may have 512 MiB",
            )
            .with_context("size", holder.size));
        }
        let wanted = BlobRef { digest: holder.digest, size: Some(holder.size) };
        let holder = external.origin.blobs().open(wanted, holder.size).await?;
        Ok(Found::Toc(read_external_toc(facts, &holder).await?))
    }

    /// Reads the manifest of the image of TOCs.
    async fn open(&self) -> Result<Option<External>> {
        let Some(location) = beside(self.location) else { return Ok(None) };
        let origin = backend::origin(&location, self.access)?;
        let (name, document) = match origin.root().await {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.with_context("image", location)),
        };
        let parsed = blocking(move || {
            manifest::verify(&name, &document)?;
            manifest::parse::<Manifest>(&name, &document)
        });
        let layers = parsed.await.map_err(|error| error.with_context("image", location))?.layers;
        Ok(Some(External { origin, layers }))
    }
}

/// Where the image of TOCs of an image lies, if that has a tag.
fn beside(location: &Location) -> Option<Location> {
    match location {
        Location::Layout { dir, tag: Some(tag) } => Some(Location::Layout {
            dir: dir.clone(),
            tag: Some(format!("{tag}{TOC_IMAGE_SUFFIX}")),
        }),
        Location::Registry(image) => {
            let (host, repository, tag) = (image.host(), image.repository(), image.tag()?);
            let name = format!("{host}/{repository}:{tag}{TOC_IMAGE_SUFFIX}");
            name.parse().ok().map(Location::Registry)
        }
        Location::OciArchive { file, tag: Some(tag) } => Some(Location::OciArchive {
            file: file.clone(),
            tag: Some(format!("{tag}{TOC_IMAGE_SUFFIX}")),
        }),
        Location::Containerd(_) => {
            location.tag()?;
            format!("{location}{TOC_IMAGE_SUFFIX}").parse().ok()
        }
        // An archive of Docker has no room for it.
        Location::Layout { tag: None, .. }
        | Location::OciArchive { tag: None, .. }
        | Location::DockerArchive { .. } => None,
    }
}

fn is_of(holder: &Descriptor, layer: Digest) -> bool {
    let said = holder.annotations.get(ANNOTATION_LAYER_DIGEST).and_then(|text| text.parse().ok());
    said == Some(layer)
}
