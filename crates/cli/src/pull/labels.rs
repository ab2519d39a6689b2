//! The labels by which containerd's parts understand each other: what keeps what, where it came
//! from, and which layer a snapshot is to show.
use std::collections::{BTreeMap, HashMap};

use bolide_core::Digest;
use bolide_estargz::TocTrust;
use bolide_fetch::ImageReference;
use bolide_image::manifest::{Descriptor, Index, Manifest};
use bolide_snapshotter::labels::{NOT_LAZY, PREFETCH_SIZE, REMOTE, TARGET, of_trust};

/// Labels of a blob or a snapshot.
pub(super) type Labels = HashMap<String, String>;

/// containerd's limit for key and value of a label together, in bytes.
const MAX_LABEL: usize = 4096;
/// Annotations with this prefix become labels of the layer's snapshot.
const INHERITED: &str = "containerd.io/snapshot/";
const REFERENCE: &str = "containerd.io/snapshot/remote/stargz.reference";
const DIGEST: &str = "containerd.io/snapshot/remote/stargz.digest";
const LAYERS: &str = "containerd.io/snapshot/remote/stargz.layers";

/// diffID of a compressed layer.
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// When a lease ends by itself.
pub(super) const EXPIRE: &str = "containerd.io/gc.expire";

/// What an index keeps. containerd names all manifests, also those it does not hold.
pub(super) fn of_index(index: &Index) -> Labels {
    numbered("m", &index.manifests).collect()
}

/// What a manifest keeps: its layers too, so that a blob fetched later stays.
pub(super) fn of_manifest(manifest: &Manifest) -> Labels {
    let config = ("containerd.io/gc.ref.content.config".to_owned(), manifest.config.digest);
    let config = (config.0, config.1.to_string());
    numbered("l", &manifest.layers).chain([config]).collect()
}

fn numbered<'a>(
    kind: &'a str,
    children: &'a [Descriptor],
) -> impl Iterator<Item = (String, String)> + 'a {
    let key = move |at| format!("containerd.io/gc.ref.content.{kind}.{at}");
    children.iter().enumerate().map(move |(at, child)| (key(at), child.digest.to_string()))
}

/// What a configuration keeps: the snapshot of the whole image.
pub(super) fn of_config(snapshotter: &str, chain_id: Digest) -> Labels {
    let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    Labels::from([(key, chain_id.to_string())])
}

/// Where a blob came from, beside what is known of that.
pub(super) fn source(reference: &ImageReference, known: &Labels) -> Option<(String, String)> {
    let key = format!("containerd.io/distribution.source.{}", hostname(reference.host()));
    let known = known.get(&key).map_or("", String::as_str);
    let mut repositories: Vec<_> = known.split(',').filter(|name| !name.is_empty()).collect();
    repositories.push(reference.repository());
    repositories.sort_unstable();
    repositories.dedup();
    let value = repositories.join(",");
    fits(&key, &value).then_some((key, value))
}

/// A registry without its port, as containerd names sources.
fn hostname(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    name.trim_matches(['[', ']'])
}

/// What asks the snapshotter for the first of `upwards`: a layer and those above it.
pub(super) fn of_snapshot(
    reference: &ImageReference,
    upwards: &[&Descriptor],
    chain_id: Digest,
    prefetch: Option<u64>,
) -> Labels {
    let mut labels = Labels::new();
    if let Some(layer) = upwards.first() {
        labels.extend(inherited(&layer.annotations));
        // Of zstd:chunked layers the annotation that vouches is not one that is inherited.
        labels.extend(trust(layer).and_then(of_trust).map(|(key, value)| (key.to_owned(), value)));
        labels.insert(DIGEST.to_owned(), layer.digest.to_string());
    }
    labels.insert(LAYERS.to_owned(), listed(upwards));
    labels.insert(REFERENCE.to_owned(), reference.to_string());
    if let Some(size) = prefetch {
        labels.insert(PREFETCH_SIZE.to_owned(), size.to_string());
    }
    labels.insert(TARGET.to_owned(), chain_id.to_string());
    labels
}

/// What an image says of its layer to the snapshotter. It cannot say what became of the snapshot,
/// and one label that is too long must not make it unpullable.
fn inherited(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    annotations
        .iter()
        .filter(|(key, value)| {
            key.starts_with(INHERITED)
                && fits(key, value)
                && ![REMOTE, NOT_LAZY].contains(&key.as_str())
        })
        .map(|(key, value)| (key.clone(), value.clone()))
}

/// The layer and those above it, as many as a label holds: the rest are opened a little later.
fn listed(layers: &[&Descriptor]) -> String {
    let mut list = String::new();
    for layer in layers {
        let name = layer.digest.to_string();
        if LAYERS.len() + list.len() + 1 + name.len() > MAX_LABEL {
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&name);
    }
    list
}

fn fits(key: &str, value: &str) -> bool {
    key.len() + value.len() <= MAX_LABEL
}

/// What vouches for a layer's TOC. An annotation that is no digest vouches for nothing.
fn trust(layer: &Descriptor) -> Option<TocTrust> {
    TocTrust::of_annotations(&layer.annotations).ok().flatten()
}

/// Whether the manifest says that a layer has a TOC.
pub(super) fn names_toc(layer: &Descriptor) -> bool {
    trust(layer).is_some()
}

#[cfg(test)]
mod tests {
    use bolide_estargz::format::{
        ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_TOC_DIGEST, ANNOTATION_ZSTD_CHECKSUM,
    };
    use bolide_snapshotter::RemoteLayerRequest;

    use super::*;

    fn layer(seed: u32) -> Descriptor {
        Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", &seed.to_le_bytes())
    }

    fn reference() -> ImageReference {
        "python:3".parse().expect("reference")
    }

    fn manifest(layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: None,
            config: Descriptor::of("config", b"{}"),
            layers,
            other: serde_json::Map::new(),
        }
    }

    #[test]
    fn the_snapshotter_reads_what_is_asked_of_it() {
        let mut layers = [layer(0), layer(1), layer(2)];
        let toc = Digest::of(b"toc");
        layers[1].annotations.insert(ANNOTATION_TOC_DIGEST.to_owned(), toc.to_string());
        let chain_id = Digest::of(b"chain");
        let sent = of_snapshot(
            &reference(),
            &layers[1..].iter().collect::<Vec<_>>(),
            chain_id,
            Some(1 << 20),
        );
        let request = RemoteLayerRequest::from_labels("below", &sent.into_iter().collect());
        let request = request.expect("remote").expect("complete");
        assert_eq!(request.target, chain_id.to_string());
        assert_eq!(request.reference, "docker.io/library/python:3");
        assert_eq!(request.layer_digest, layers[1].digest);
        assert_eq!(request.trust, Some(TocTrust::Digest(toc)));
        assert_eq!(request.image_layers, [layers[2].digest]);
        assert_eq!(request.prefetch_size, Some(1 << 20));
    }

    #[test]
    fn what_podman_says_of_a_layer_reaches_the_snapshotter() {
        let checksum = Digest::of(b"checksum");
        for key in [ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_ZSTD_CHECKSUM] {
            let mut layer = layer(0);
            assert!(!names_toc(&layer));
            layer.annotations.insert(key.to_owned(), checksum.to_string());
            assert!(names_toc(&layer));
            let sent = of_snapshot(&reference(), &[&layer], Digest::of(b"chain"), None);
            let request = RemoteLayerRequest::from_labels("", &sent.into_iter().collect());
            let trust = request.expect("remote").expect("complete").trust;
            assert_eq!(trust, Some(TocTrust::Compressed(checksum)), "{key}");
            layer.annotations.insert(key.to_owned(), "no digest".to_owned());
            assert!(!names_toc(&layer));
        }
    }

    #[test]
    fn every_label_keeps_to_the_limit_of_containerd() {
        let mut layers: Vec<_> = (0..127).map(layer).collect();
        let huge = format!("{INHERITED}huge");
        layers[0].annotations.insert(huge.clone(), "x".repeat(MAX_LABEL));
        let labels = of_snapshot(
            &reference(),
            &layers.iter().collect::<Vec<_>>(),
            Digest::of(b"chain"),
            None,
        );
        assert!(!labels.contains_key(&huge));
        for (key, value) in &labels {
            assert!(fits(key, value), "{key}");
        }
        let listed: Vec<_> = labels[LAYERS].split(',').collect();
        assert_eq!(listed[0], layers[0].digest.to_string());
        let longer = labels[LAYERS].len() + 1 + listed[0].len();
        assert!(LAYERS.len() + longer > MAX_LABEL, "{} layers are not all that fit", listed.len());
    }

    #[test]
    fn an_image_cannot_say_what_became_of_a_snapshot() {
        let mut layers = [layer(0)];
        for key in [REMOTE, NOT_LAZY, "org.example/x", TARGET, DIGEST] {
            layers[0].annotations.insert(key.to_owned(), "forged".to_owned());
        }
        let labels = of_snapshot(
            &reference(),
            &layers.iter().collect::<Vec<_>>(),
            Digest::of(b"chain"),
            None,
        );
        assert!(!labels.values().any(|value| value == "forged"), "{labels:?}");
    }

    #[test]
    fn documents_keep_their_children() {
        let kept = of_manifest(&manifest(vec![layer(7), layer(8)]));
        let expected =
            [("config", Digest::of(b"{}")), ("l.0", layer(7).digest), ("l.1", layer(8).digest)];
        for (suffix, digest) in expected {
            assert_eq!(kept[&format!("containerd.io/gc.ref.content.{suffix}")], digest.to_string());
        }
        assert_eq!(kept.len(), 3);
        let chain_id = Digest::of(b"chain");
        let kept = of_config("bolide", chain_id);
        assert_eq!(kept["containerd.io/gc.ref.snapshot.bolide"], chain_id.to_string());
    }

    #[test]
    fn sources_are_added_to_those_known() {
        let key = "containerd.io/distribution.source.docker.io";
        let first = source(&reference(), &Labels::new()).expect("fits");
        assert_eq!(first, (key.to_owned(), "library/python".to_owned()));
        let known = Labels::from([(key.to_owned(), "me/app,library/python".to_owned())]);
        assert_eq!(source(&reference(), &known).expect("fits").1, "library/python,me/app");
        for (host, name) in [("lan:5000", "lan"), ("[::1]:5000", "::1"), ("[::1]", "::1")] {
            assert_eq!(hostname(host), name);
        }
        let full = Labels::from([(key.to_owned(), "x".repeat(MAX_LABEL - key.len()))]);
        assert_eq!(source(&reference(), &full), None);
    }
}
