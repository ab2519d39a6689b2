//! What manifests say of layers: for clients that pass on no word of it, and of TOCs that lie in an
//! image of their own.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use bolide_core::{BlobRef, Digest, Error, ErrorKind, Result};
use bolide_estargz::{
    TocTrust,
    format::{ANNOTATION_LAYER_DIGEST, MAX_TOC_BYTES},
};
use bolide_fs::WorkerPool;
use bolide_image::manifest::{Descriptor, Manifest, media_type, parse};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::places::{ManifestName, Places};

/// Manifests held for the other layers of their images.
const MAX_HELD: usize = 16;
/// The layers of an image are asked for within this time.
const MAX_AGE: Duration = Duration::from_mins(2);

type Key = (String, ManifestName);
type Layers = Arc<Vec<Descriptor>>;

#[derive(Clone, Debug)]
struct Held {
    begun: Instant,
    /// Set once, by the first of those who wait for it.
    layers: Arc<OnceCell<Layers>>,
}

/// Manifests that were read a short while ago, once for all layers of an image.
#[derive(Debug)]
pub(super) struct Manifests {
    places: Arc<dyn Places>,
    workers: WorkerPool,
    held: Mutex<HashMap<Key, Held>>,
}

impl Manifests {
    pub(super) fn new(places: Arc<dyn Places>, workers: WorkerPool) -> Self {
        Self { places, workers, held: Mutex::default() }
    }

    /// What the manifest of this digest says of a layer's TOC.
    pub(super) async fn trust(
        &self,
        reference: &str,
        manifest: Digest,
        layer: Digest,
    ) -> Result<Option<TocTrust>> {
        let key = (reference.to_owned(), ManifestName::Digest(manifest));
        let layers = self.layers(&key).await?;
        let found = layers.iter().find(|descriptor| descriptor.digest == layer);
        found.map_or(Ok(None), |descriptor| TocTrust::of_annotations(&descriptor.annotations))
    }

    /// The blob that holds the TOC of a layer, in the image of TOCs beside the layer's own.
    pub(super) async fn toc_of(&self, reference: &str, layer: Digest) -> Result<BlobRef> {
        let key = (reference.to_owned(), ManifestName::TocImage);
        let mut found = None;
        // A tag may have been moved since its manifest was read.
        for _ in 0..2 {
            let was_held = self.held.lock().contains_key(&key);
            let layers =
                self.layers(&key).await.map_err(|error| without_toc_image(layer, error))?;
            found = layers.iter().find(|descriptor| is_of(&descriptor.annotations, layer)).cloned();
            if found.is_some() || !was_held {
                break;
            }
            self.held.lock().remove(&key);
        }
        let found = found.ok_or_else(|| {
            let rule = "the image of TOCs beside the image has none of this layer: push it again \
                        together with the image";
            Error::new(ErrorKind::NotFound, "manifests::toc_of", rule)
                .with_context("layer", layer)
                .with_context("image", reference)
        })?;
        if found.size > MAX_TOC_BYTES {
            let error =
                Error::new(ErrorKind::Exhausted, "manifests::toc_of", "a TOC may have 512 MiB");
            return Err(error.with_context("layer", layer).with_context("size", found.size));
        }
        Ok(BlobRef { digest: found.digest, size: Some(found.size) })
    }

    /// Lets go of everything.
    pub(super) fn clear(&self) {
        self.held.lock().clear();
    }

    async fn layers(&self, key: &Key) -> Result<Layers> {
        let held = self.hold(key);
        held.layers.get_or_try_init(|| self.read(key)).await.cloned()
    }

    fn hold(&self, key: &Key) -> Held {
        let mut all = self.held.lock();
        all.retain(|_, held| held.begun.elapsed() < MAX_AGE);
        if let Some(held) = all.get(key) {
            return held.clone();
        }
        let held = Held { begun: Instant::now(), layers: Arc::default() };
        if all.len() < MAX_HELD {
            all.insert(key.clone(), held.clone());
        }
        held
    }

    async fn read(&self, (reference, wanted): &Key) -> Result<Layers> {
        let wanted = *wanted;
        let read = async {
            let bytes = self.places.manifest(reference, wanted).await?;
            let parsed = self.workers.run(move || {
                let actual = Digest::of(&bytes);
                if let ManifestName::Digest(expected) = wanted
                    && expected != actual
                {
                    let rule = "the manifest does not match its digest";
                    return Err(Error::new(ErrorKind::Corrupt, "manifests::read", rule)
                        .with_context("expected", expected)
                        .with_context("actual", actual));
                }
                let name = Descriptor::new(media_type::OCI_MANIFEST, actual, bytes.len() as u64);
                parse::<Manifest>(&name, &bytes)
            });
            Ok(Arc::new(parsed.await?.layers))
        };
        read.await.map_err(|error: Error| error.with_context("image", reference))
    }
}

fn is_of(annotations: &BTreeMap<String, String>, layer: Digest) -> bool {
    let said = annotations.get(ANNOTATION_LAYER_DIGEST).and_then(|text| text.parse().ok());
    said == Some(layer)
}

/// Says what to do about a TOC image that is not there; other failures say it themselves.
fn without_toc_image(layer: Digest, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error.with_context("layer", layer);
    }
    let rule = "the layer's TOC lies in an image of its own, which is not beside the image: push it \
                under the image's tag and -esgztoc";
    Error::new(ErrorKind::NotFound, "manifests::toc_of", rule)
        .with_context("layer", layer)
        .with_context("cause", &error)
        .with_source(error)
}
