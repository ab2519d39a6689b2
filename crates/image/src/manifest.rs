//! The documents of an image: index, manifest and configuration, of OCI and of Docker.
//!
//! Fields that bolide does not know are kept, so a rewritten document loses nothing.
use std::collections::BTreeMap;

use bolide_core::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::Platform;

/// Largest document that is read, in bytes: what registries must accept (distribution-spec,
/// "Pushing Manifests").
pub const MAX_DOCUMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Media types, by their usual names.
pub mod media_type {
    /// OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer: tar in gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer: tar in zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer: tar in gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// Names one blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Fields that are kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// Describes `bytes`.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Names a blob of a known digest and size, in bytes.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
            other: Map::new(),
        }
    }

    /// Whether it names a list of manifests.
    #[must_use]
    pub fn is_index(&self) -> bool {
        [media_type::OCI_INDEX, media_type::DOCKER_LIST].contains(&self.media_type.as_str())
    }
}

/// A list of manifests, most often one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Fields that are kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A manifest: configuration and layers, bottom to top.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Names the configuration.
    pub config: Descriptor,
    /// Names the layers, bottom to top.
    pub layers: Vec<Descriptor>,
    /// Fields that are kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The configuration of an image, as far as conversion must understand it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The layers' uncompressed digests.
    pub rootfs: RootFs,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The uncompressed layers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers, bottom to top.
    pub diff_ids: Vec<Digest>,
    /// Fields that are kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ImageConfig {
    /// Names of the snapshots that hold each layer and those under it, bottom to top (image-spec,
    /// "Layer `ChainID`").
    #[must_use]
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff_id in &self.rootfs.diff_ids {
            let id = match chain.last() {
                Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
                None => *diff_id,
            };
            chain.push(id);
        }
        chain
    }
}

/// Parses the document that `name` names; `Malformed`, naming it, when it is not one.
pub fn parse<T: DeserializeOwned>(name: &Descriptor, document: &[u8]) -> Result<T> {
    serde_json::from_slice(document).map_err(|error| {
        Error::new(
            ErrorKind::Malformed,
            "manifest::parse",
            format!("the document breaks the image specification: {error}"),
        )
        .with_context("document", name.digest)
        .with_context("media_type", &name.media_type)
    })
}

/// The bytes of a document as they are stored.
pub fn to_bytes<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|error| Error::new(ErrorKind::Unexpected, "manifest::to_bytes", error.to_string()))
}

/// Checks that `bytes` are what `name` names; `Corrupt` when they are not.
pub fn verify(name: &Descriptor, bytes: &[u8]) -> Result<()> {
    let actual = Digest::of(bytes);
    if actual == name.digest && bytes.len() as u64 == name.size {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "manifest::verify",
        "a document must have the digest and size that its descriptor says",
    )
    .with_context("expected", name.digest)
    .with_context("actual", actual)
    .with_context("size", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let digest = Digest::of(b"x");
        let document = serde_json::json!({
            "schemaVersion": 2, "artifactType": "a/b", "subject": {"x": 1},
            "config": {"mediaType": "m", "digest": digest, "size": 1, "urls": ["u"]},
            "layers": [], "annotations": {"k": "v"},
        });
        let bytes = serde_json::to_vec(&document).expect("json");
        let manifest: Manifest = parse(&Descriptor::of("m", &bytes), &bytes).expect("manifest");
        let rewritten: Value =
            serde_json::from_slice(&to_bytes(&manifest).expect("bytes")).expect("json");
        assert_eq!(rewritten, document);
    }

    #[test]
    fn broken_documents_are_refused_by_name() {
        for bytes in [&b"{"[..], b"[]", b"{\"schemaVersion\":2}", b"{\"schemaVersion\":-1}"] {
            let name = Descriptor::of("m", bytes);
            let error = parse::<Manifest>(&name, bytes).expect_err("broken");
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert_eq!(error.context("document"), Some(name.digest.to_string().as_str()));
        }
    }

    #[test]
    fn chains_follow_the_specification() {
        let ids = [Digest::of(b"a"), Digest::of(b"b")];
        let config = ImageConfig {
            rootfs: RootFs { diff_ids: ids.to_vec(), other: Map::new() },
            other: Map::new(),
        };
        let second = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
        assert_eq!(config.chain_ids(), [ids[0], second]);
    }

    #[test]
    fn other_bytes_are_corrupt() {
        let name = Descriptor::of("m", b"one");
        assert!(verify(&name, b"one").is_ok());
        assert_eq!(verify(&name, b"two").expect_err("other").kind(), ErrorKind::Corrupt);
    }
}
