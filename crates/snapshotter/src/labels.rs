//! From the labels of a Prepare call to the layer it wants mounted.
use std::collections::BTreeMap;

use bolide_core::{Digest, Error, ErrorKind, Result};
use bolide_estargz::TocTrust;

/// Labels of a snapshot, in the order of their keys.
pub type Labels = BTreeMap<String, String>;

/// Chain id to commit a layer under; its presence asks for a remote snapshot.
pub const TARGET: &str = "containerd.io/snapshot.ref";
/// Marks a snapshot whose layer is mounted lazily.
pub const REMOTE: &str = "containerd.io/snapshot/remote";
/// Value of [`REMOTE`].
pub const REMOTE_VALUE: &str = "remote snapshot";
/// Why a layer that was asked for lazily is not lazy.
pub const NOT_LAZY: &str = "containerd.io/snapshot/bolide.not-lazy";
/// Digest of the layer's TOC, from the annotation of its descriptor.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The same for layers on whose descriptors the reference's key cannot stand.
pub const OWN_TOC_DIGEST: &str = bolide_estargz::format::ANNOTATION_OWN_TOC_DIGEST;
/// Digest of a zstd:chunked layer's TOC as it lies in its blob. containerd forwards no annotation that
/// says this, so `bolide pull` does, and the service itself once it has asked the registry.
pub const MANIFEST_CHECKSUM: &str = "containerd.io/snapshot/bolide/zstd-chunked.manifest-checksum";
/// Digest of the image's manifest, from containerd's CRI plugin and transfer service.
pub const IMAGE_MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
/// Bytes to prefetch where the layer does not say, in decimal.
pub const PREFETCH_SIZE: &str = "containerd.io/snapshot/remote/stargz.prefetch";
/// Present when the client asks not to verify.
pub const SKIP_VERIFY: &str = "containerd.io/snapshot/remote/stargz.skipverify";

/// The labels by which one kind of client names a layer.
struct Dialect {
    reference: &'static str,
    digest: &'static str,
    layers: &'static str,
}

/// In the order they are tried: containerd's CRI plugin and transfer service, then the clients of
/// stargz-snapshotter.
const DIALECTS: [Dialect; 2] = [
    Dialect {
        reference: "containerd.io/snapshot/cri.image-ref",
        digest: "containerd.io/snapshot/cri.layer-digest",
        layers: "containerd.io/snapshot/cri.image-layers",
    },
    Dialect {
        reference: "containerd.io/snapshot/remote/stargz.reference",
        digest: "containerd.io/snapshot/remote/stargz.digest",
        layers: "containerd.io/snapshot/remote/stargz.layers",
    },
];

/// Layers of one image that are opened ahead at most. An image has fewer than 128.
const MAX_LAYERS: usize = 128;

/// A layer to mount lazily.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteLayerRequest {
    /// Chain id, the name the snapshot gets.
    pub target: String,
    /// Name of the parent snapshot; empty for the lowest layer.
    pub parent: String,
    /// Image reference, as the client wrote it.
    pub reference: String,
    /// Digest of the blob.
    pub layer_digest: Digest,
    /// What vouches for its TOC, where the manifest says and the client passed it on.
    pub trust: Option<TocTrust>,
    /// Digest of the image's manifest, which may say what the client did not pass on.
    pub image_manifest: Option<Digest>,
    /// Bytes to prefetch where the layer does not say.
    pub prefetch_size: Option<u64>,
    /// Whether the client asks not to verify. Heeded only where the operator allows it.
    pub skip_verify: bool,
    /// Other layers of the image that will be asked for next, in order.
    pub image_layers: Vec<Digest>,
}

impl RemoteLayerRequest {
    /// Reads the labels of a Prepare call; `None` when it does not ask for a remote snapshot.
    ///
    /// `Malformed` when the labels ask for one and do not name a layer: the message is the reason
    /// the snapshot is not lazy. Hints (prefetch size, other layers) that cannot be read are left
    /// out.
    #[must_use]
    pub fn from_labels(parent: &str, labels: &Labels) -> Option<Result<Self>> {
        let target = labels.get(TARGET).filter(|target| !target.is_empty())?;
        Some(Self::named(target, parent, labels))
    }

    fn named(target: &str, parent: &str, labels: &Labels) -> Result<Self> {
        let named = DIALECTS.iter().find_map(|dialect| {
            Some((labels.get(dialect.reference)?, labels.get(dialect.digest)?, dialect))
        });
        let (reference, digest, dialect) = named.ok_or_else(missing)?;
        let layer_digest: Digest =
            digest.parse().map_err(|error: Error| error.with_context("label", dialect.digest))?;
        let mut image_layers = Vec::new();
        let listed = labels.get(dialect.layers).map_or("", String::as_str).split(',');
        for layer in listed.take(MAX_LAYERS).filter_map(|text| text.trim().parse().ok()) {
            // An image may hold one layer several times.
            if layer != layer_digest && !image_layers.contains(&layer) {
                image_layers.push(layer);
            }
        }
        Ok(Self {
            target: target.to_owned(),
            parent: parent.to_owned(),
            reference: reference.clone(),
            layer_digest,
            trust: trust(labels)?,
            image_manifest: labels.get(IMAGE_MANIFEST).and_then(|text| text.parse().ok()),
            prefetch_size: labels.get(PREFETCH_SIZE).and_then(|size| size.parse().ok()),
            skip_verify: labels.contains_key(SKIP_VERIFY),
            image_layers,
        })
    }
}

/// What labels vouch for: the digest of the document before that of its compressed form.
fn trust(labels: &Labels) -> Result<Option<TocTrust>> {
    let said = |key: &'static str| {
        let parsed = labels.get(key).map(|text| text.parse()).transpose();
        parsed.map_err(|error: Error| error.with_context("label", key))
    };
    for key in [TOC_DIGEST, OWN_TOC_DIGEST] {
        if let Some(digest) = said(key)? {
            return Ok(Some(TocTrust::Digest(digest)));
        }
    }
    Ok(said(MANIFEST_CHECKSUM)?.map(TocTrust::Compressed))
}

/// The label that says what vouches for a layer's TOC; none for one that nothing vouches for.
#[must_use]
pub fn of_trust(trust: TocTrust) -> Option<(&'static str, String)> {
    match trust {
        TocTrust::Digest(digest) => Some((TOC_DIGEST, digest.to_string())),
        TocTrust::Compressed(digest) => Some((MANIFEST_CHECKSUM, digest.to_string())),
        TocTrust::Unverified => None,
    }
}

/// Whether a label is this service's word on a snapshot, which no client may say.
pub(crate) fn is_mark(key: &str) -> bool {
    key == REMOTE || key == NOT_LAZY
}

/// Labels as a client may give them.
pub(crate) fn without_marks(mut labels: Labels) -> Labels {
    labels.retain(|key, _| !is_mark(key));
    labels
}

/// Whether a label may be one that says which layer is mounted.
pub(crate) fn names_layer(key: &str) -> bool {
    key == TARGET || key.starts_with("containerd.io/snapshot/")
}

/// The error of labels that do not name a layer.
pub(crate) fn missing() -> Error {
    Error::new(
        ErrorKind::Malformed,
        "labels::parse",
        "the client sent no labels that name image and layer: use bolide pull, nerdctl, or CRI \
         with disable_snapshot_annotations = false",
    )
    .with_context("wanted", DIALECTS[0].reference)
    .with_context("and", DIALECTS[0].digest)
    .with_context("or", DIALECTS[1].reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(seed: u8) -> Digest {
        Digest::of(&[seed])
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn complete() -> Labels {
        let layers = format!("{},{},junk,{},{}", digest(1), digest(2), digest(3), digest(2));
        labels(&[
            (TARGET, "sha256:chain"),
            (DIALECTS[1].reference, "docker.io/library/python:3"),
            (DIALECTS[1].digest, &digest(1).to_string()),
            (DIALECTS[1].layers, &layers),
            (TOC_DIGEST, &digest(9).to_string()),
            (PREFETCH_SIZE, "10485760"),
        ])
    }

    #[test]
    fn without_a_target_nothing_remote_is_asked_for() {
        let mut labels = complete();
        labels.remove(TARGET);
        assert!(RemoteLayerRequest::from_labels("", &labels).is_none());
        labels.insert(TARGET.into(), String::new());
        assert!(RemoteLayerRequest::from_labels("", &labels).is_none());
    }

    #[test]
    fn stargz_labels() {
        let request = RemoteLayerRequest::from_labels("below", &complete());
        let request = request.expect("remote").expect("complete");
        assert_eq!(
            request,
            RemoteLayerRequest {
                target: "sha256:chain".into(),
                parent: "below".into(),
                reference: "docker.io/library/python:3".into(),
                layer_digest: digest(1),
                trust: Some(TocTrust::Digest(digest(9))),
                image_manifest: None,
                prefetch_size: Some(10 << 20),
                skip_verify: false,
                image_layers: vec![digest(2), digest(3)],
            }
        );
    }

    #[test]
    fn cri_labels_come_first() {
        let mut labels = complete();
        labels.insert(DIALECTS[0].reference.into(), "cri/image".into());
        // Half a pair does not count.
        let request = RemoteLayerRequest::from_labels("", &labels).expect("remote").expect("parse");
        assert_eq!(request.reference, "docker.io/library/python:3");
        labels.insert(DIALECTS[0].digest.into(), digest(7).to_string());
        let request = RemoteLayerRequest::from_labels("", &labels).expect("remote").expect("parse");
        assert_eq!((request.reference.as_str(), request.layer_digest), ("cri/image", digest(7)));
        assert_eq!(request.image_layers, []);
    }

    #[test]
    fn what_does_not_name_a_layer_says_why() {
        let refused = |labels: &Labels| {
            let parsed = RemoteLayerRequest::from_labels("", labels).expect("remote");
            let error = parsed.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Malformed);
            error.to_string()
        };
        assert!(refused(&labels(&[(TARGET, "t")])).contains("cri.image-ref"));
        for key in [DIALECTS[1].digest, TOC_DIGEST, OWN_TOC_DIGEST, MANIFEST_CHECKSUM] {
            let mut labels = complete();
            labels.remove(TOC_DIGEST);
            labels.insert(key.into(), "sha256:../../etc".into());
            assert!(refused(&labels).contains(key), "{key}");
        }
    }

    #[test]
    fn what_vouches_for_a_toc_is_said_in_one_of_two_ways() {
        let trust = |labels: &Labels| {
            let request = RemoteLayerRequest::from_labels("", labels).expect("remote");
            request.expect("complete").trust
        };
        let mut labels = complete();
        labels.insert(MANIFEST_CHECKSUM.into(), digest(8).to_string());
        assert_eq!(trust(&labels), Some(TocTrust::Digest(digest(9))));
        labels.remove(TOC_DIGEST);
        assert_eq!(trust(&labels), Some(TocTrust::Compressed(digest(8))));
        labels.remove(MANIFEST_CHECKSUM);
        labels.insert(IMAGE_MANIFEST.into(), digest(7).to_string());
        assert_eq!(trust(&labels), None);
        for said in [TocTrust::Digest(digest(1)), TocTrust::Compressed(digest(2))] {
            let (key, value) = of_trust(said).expect("a label");
            assert_eq!(
                trust(
                    &[&complete_without_trust()[..], &[(key.into(), value)]]
                        .concat()
                        .into_iter()
                        .collect()
                ),
                Some(said)
            );
        }
        assert_eq!(of_trust(TocTrust::Unverified), None);
    }

    fn complete_without_trust() -> Vec<(String, String)> {
        complete().into_iter().filter(|(key, _)| key != TOC_DIGEST).collect()
    }

    #[test]
    fn hints_are_bounded_and_may_be_wrong() {
        let mut labels = complete();
        let many: Vec<_> =
            (0..1000_u32).map(|n| Digest::of(&n.to_le_bytes()).to_string()).collect();
        labels.insert(DIALECTS[1].layers.into(), many.join(","));
        labels.insert(PREFETCH_SIZE.into(), "-1".into());
        let request = RemoteLayerRequest::from_labels("", &labels).expect("remote").expect("parse");
        assert_eq!(request.image_layers.len(), MAX_LAYERS);
        assert_eq!(request.prefetch_size, None);
    }
}
