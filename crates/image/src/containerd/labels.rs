//! The labels by which garbage collection finds what an image needs.
use bolide_core::Result;

use super::Labels;
use crate::manifest::{self, Descriptor, Index, Manifest};

/// diffID of a compressed layer.
pub(crate) const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// What a manifest or an index keeps, as containerd's clients write it.
pub(crate) fn gc_labels(name: &Descriptor, document: &[u8]) -> Result<Labels> {
    let numbered = |kind: &'static str, children: Vec<Descriptor>| {
        let key = move |at| format!("containerd.io/gc.ref.content.{kind}.{at}");
        children.into_iter().enumerate().map(move |(at, child)| (key(at), child.digest.to_string()))
    };
    if name.is_index() {
        let index: Index = manifest::parse(name, document)?;
        return Ok(numbered("m", index.manifests).collect());
    }
    let manifest: Manifest = manifest::parse(name, document)?;
    let config = ("containerd.io/gc.ref.content.config".to_owned(), manifest.config.digest);
    Ok(numbered("l", manifest.layers).chain([(config.0, config.1.to_string())]).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::media_type;

    #[test]
    fn everything_that_is_named_is_kept() {
        let name = |text: &str| Descriptor::of("m", text.as_bytes());
        let document = manifest::to_bytes(&json!({"schemaVersion": 2, "config": name("c"),
            "layers": [name("0"), name("1")]}));
        let document = document.expect("json");
        let labels = gc_labels(&Descriptor::of(media_type::OCI_MANIFEST, &document), &document);
        let labels = labels.expect("labels");
        for (key, text) in [("config", "c"), ("l.0", "0"), ("l.1", "1")] {
            let key = format!("containerd.io/gc.ref.content.{key}");
            assert_eq!(labels[&key], name(text).digest.to_string());
        }
        let document = manifest::to_bytes(&json!({"schemaVersion": 2, "manifests": [name("m")]}));
        let document = document.expect("json");
        let labels = gc_labels(&Descriptor::of(media_type::OCI_INDEX, &document), &document);
        let key = "containerd.io/gc.ref.content.m.0";
        assert_eq!(labels.expect("labels")[key], name("m").digest.to_string());
    }
}
