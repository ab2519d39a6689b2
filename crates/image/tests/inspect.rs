//! What is told of an image equals what it was made of, and little is read to tell it.
mod support;

use std::fs;

use bolide_core::ErrorKind;
use bolide_estargz::{
    BlobFormat,
    format::{ANNOTATION_LAYER_DIGEST, ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_TOC_DIGEST},
};
use bolide_image::{
    Annotation, Format, ImageReport, InspectOptions, Layout, Location, Prefetch, convert_image,
    inspect_image, manifest::media_type,
};
use serde_json::{Value, json};
use support::{
    LAYERS, access, add_blob, add_image, add_layer, add_true_image, amd64, assert_empty, location,
    options_of, reference, sample, serve, testdata,
};
use tempfile::tempdir;

const TOC1: &str = "sha256:d8d4be8cfab9055cfc650733cce0ef7f04f71d5fb297adc519d74468cc80d7af";
const TOC2: &str = "sha256:97501dd3e83a40de689de1094d3cd6993bde3712c3634e4e2eec6d6be2d19596";
const LAYER1: &str = "4aaf7f11dc1017324bc72bc18012b0f9404a98655d3f1c384caeb1ed1958df30";
const LAYER2: &str = "047e3b1fbd6df2ee4a781426a1a119b77726c48f1ee648a69bb4e0cf1f154de0";
/// Images that the reference implementation made: name, layers and TOC digests.
const IMAGES: [(&str, [(&str, &str); 2]); 3] = [
    ("estargz", [(LAYER1, TOC1), (LAYER2, TOC2)]),
    (
        "chunk64k",
        [
            (
                "4ac9ec8669240b63c7b0070320aafb639ead343cb06654d3791a541325800104",
                "sha256:3724b4c5071b0b109fd4c7c7f7f71fbda407ce34e5adbeb5a2546dcd7677502c",
            ),
            (LAYER2, TOC2),
        ],
    ),
    (
        "prioritized",
        [
            (
                "8077b1a0ca411cf704d8c809d6061800e3388518811949740e3c20b6af588517",
                "sha256:a4981c6adc9e72613039328a781a7f3496aad423659d9b5fcdd06ccae3059f51",
            ),
            (
                "fc0c013a14ffc379bcdfaaa9de143a61ca1a5b53a79232fb85083045e89be610",
                "sha256:a6e3f154c4b7498f40319386bc33f3c9861a0c3a9134e5f209dc3692204b3fb4",
            ),
        ],
    ),
];

fn add_images(layout: &Layout) {
    for (name, layers) in IMAGES {
        let layers = layers
            .map(|(hex, toc)| add_layer(layout, hex, &json!({ (ANNOTATION_TOC_DIGEST): toc })));
        add_image(layout, media_type::OCI_MANIFEST, &layers, name);
    }
}

fn listing(number: usize) -> Vec<Value> {
    let text = fs::read(testdata(&format!("layer{}.listing.json", number + 1))).expect("listing");
    serde_json::from_slice(&text).expect("listing")
}

async fn inspect(location: &Location, files: bool) -> bolide_core::Result<ImageReport> {
    let options = InspectOptions { platform: amd64(), files, ..InspectOptions::default() };
    let dir = tempdir().expect("dir");
    inspect_image(&access(dir.path()), location, &options).await
}

/// Compressed size of a layer's TOC with its footer: the footer tells where they start.
fn index_size(hex: &str) -> u64 {
    let blob = fs::read(testdata("blobs").join(hex)).expect("blob");
    let start = &blob[blob.len() - 51 + 16..][..16];
    let start = u64::from_str_radix(str::from_utf8(start).expect("hex"), 16).expect("hex");
    blob.len() as u64 - start
}

#[tokio::test]
async fn listings_are_exact_and_only_tables_are_read() {
    let dir = tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    add_images(&layout);
    for (name, layers) in IMAGES {
        let server = serve(layout.clone()).await;
        let remote = inspect(&reference(server.address(), name), true).await.expect("inspected");
        let config = fs::metadata(layout.blob_path(remote.config)).expect("config").len();
        let tables: u64 = layers.iter().map(|(hex, _)| index_size(hex)).sum();
        assert_eq!(server.counters().blob_bytes, tables + config, "{name}");

        let local = inspect(&location(dir.path(), name), true).await.expect("inspected");
        let document = serde_json::to_value(&remote).expect("JSON");
        assert_eq!(serde_json::to_value(&local).expect("JSON"), document);
        for (number, (hex, toc)) in layers.into_iter().enumerate() {
            let layer = &document["layers"][number];
            assert_eq!(layer["digest"], format!("sha256:{hex}"));
            assert_eq!(layer["toc_digest"], toc);
            assert_eq!(
                (&layer["annotation"], &layer["format"]),
                (&json!("matches"), &json!("estargz"))
            );
            let mut found = layer["files"].as_array().expect("files").clone();
            let mut made = listing(number);
            if name == "prioritized" {
                // What is used first was moved to the front.
                for list in [&mut found, &mut made] {
                    list.sort_by_key(|file| file["name"].to_string());
                }
            }
            assert_eq!(found, made, "{name} {number}");
        }
    }
}

/// Images of other formats: tag, format, and layers with their annotation and their TOC's digest.
type Other = (&'static str, &'static str, [(&'static str, &'static str, &'static str); 2]);

const OTHERS: [Other; 3] = [
    (
        "zstdchunked",
        "zstd-chunked",
        [
            (
                "facf4cfe78a276d55ebe16ce3229b12658b7f0a136673144eac07e7e332ff819",
                ANNOTATION_TOC_DIGEST,
                "sha256:e8cfcb8fab639f08f821281da1bba2eb42fbe891597892c867120623f10fd029",
            ),
            (
                "889a01bf4f5bd0e2fdbea42b9ce98512041a1fd704ef44615db28d771ee5b3f1",
                ANNOTATION_TOC_DIGEST,
                "sha256:9ebbef405c853cd772959c17cfe35c90806f5f53d66b30ded45ecffbb1917841",
            ),
        ],
    ),
    (
        "podman",
        "zstd-chunked-podman",
        [
            (
                "3e0e2175e1a2abfaa256f35ffb20fd4dc0a308ff1d3f9dabcf450877d2f4dd40",
                ANNOTATION_PODMAN_CHECKSUM,
                "sha256:72b52a293eecec3d544dd8cb3bf866405d5e3abb4611cc9b76e2feab8d6a12df",
            ),
            (
                "7da28f818d5afffa529b9d530e961e24aed5f918326256dcb4e92492eacf5584",
                ANNOTATION_PODMAN_CHECKSUM,
                "sha256:3ac39197500a96c661123b1cb110c89d392d6a14834ae83f77a3deceb2bb196f",
            ),
        ],
    ),
    (
        "exttoc",
        "estargz-external-toc",
        [
            (
                "e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
                ANNOTATION_TOC_DIGEST,
                TOC1,
            ),
            (
                "b63b7c7a1b886b3fe73505619b757ffb64672a58b6acc0bbb347bbbf9099a62e",
                ANNOTATION_TOC_DIGEST,
                TOC2,
            ),
        ],
    ),
];
/// Blobs of the image of TOCs, and the layers they are of.
const TOC_IMAGE: [(&str, &str); 2] = [
    (
        "409a345f9824832c3b7130e53bd5bb91700151e972097a31c789ec47e769cee2",
        "sha256:e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
    ),
    (
        "b7aab848dca3fbe8884452d061c8e774552d6c658c9ffeeeb2c3e7ff93c8ee95",
        "sha256:b63b7c7a1b886b3fe73505619b757ffb64672a58b6acc0bbb347bbbf9099a62e",
    ),
];

#[tokio::test]
async fn other_formats_are_told_and_listed() {
    let dir = tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    for (name, _, layers) in OTHERS {
        let layers =
            layers.map(|(hex, key, digest)| add_layer(&layout, hex, &json!({ (key): digest })));
        add_image(&layout, media_type::OCI_MANIFEST, &layers, name);
    }
    let missing = inspect(&location(dir.path(), "exttoc"), true).await.expect("inspected");
    for layer in missing.layers {
        assert_eq!(layer.format, Format::EstargzExternalToc);
        assert!(layer.toc_digest.is_none() && layer.annotation.is_none() && layer.files.is_none());
    }
    let tocs = TOC_IMAGE
        .map(|(hex, layer)| add_layer(&layout, hex, &json!({ (ANNOTATION_LAYER_DIGEST): layer })));
    add_image(&layout, media_type::OCI_MANIFEST, &tocs, "exttoc-esgztoc");
    let server = serve(layout.clone()).await;
    for (name, format, layers) in OTHERS {
        for image in [location(dir.path(), name), reference(server.address(), name)] {
            let report = inspect(&image, true).await.expect("inspected");
            let document = serde_json::to_value(&report).expect("JSON");
            for (number, (_, key, digest)) in layers.into_iter().enumerate() {
                let layer = &document["layers"][number];
                assert_eq!(
                    (&layer["format"], &layer["annotation"]),
                    (&json!(format), &json!("matches"))
                );
                let says_document = layer["toc_digest"] == digest;
                assert_eq!(says_document, key == ANNOTATION_TOC_DIGEST, "{layer}");
                let (mut found, mut made) = (layer["files"].clone(), json!(listing(number)));
                for list in [&mut found, &mut made] {
                    without_digests_of_nothing(list);
                }
                assert_eq!(found, made, "{name} {number}");
            }
        }
    }
}

/// containers/storage says no digest of an empty file.
fn without_digests_of_nothing(listing: &mut Value) {
    for file in listing.as_array_mut().expect("a list") {
        if file["size"] == 0 {
            file.as_object_mut().expect("a file").remove("sha256");
        }
    }
}

#[tokio::test]
async fn the_original_is_plain_and_says_so() {
    let dir = tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    let tiny = add_blob(&layout, b"x");
    add_image(&layout, media_type::OCI_MANIFEST, &[tiny], "tiny");
    let server = serve(layout).await;
    for (name, digests) in [("org", LAYERS.len()), ("tiny", 1)] {
        let report = inspect(&reference(server.address(), name), true).await.expect("inspected");
        assert_eq!(report.layers.len(), digests);
        for layer in &report.layers {
            assert_eq!(
                (layer.format, layer.toc_digest, layer.annotation),
                (Format::Plain, None, None)
            );
            assert!(layer.files.is_none() && layer.contents.is_none());
        }
    }
}

#[tokio::test]
async fn marks_counts_and_annotations_are_told() {
    let dir = tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    add_images(&layout);
    let of = async |name: &str| inspect(&location(dir.path(), name), false).await.expect("told");
    let contents = async |name: &str| of(name).await.layers[0].contents.expect("contents");
    assert_eq!(contents("estargz").await.prefetch, Prefetch::Nothing);
    assert!(matches!(contents("prioritized").await.prefetch, Prefetch::UpTo(1..)));
    let (large, small) = (contents("estargz").await, contents("chunk64k").await);
    assert_eq!(large.nodes, small.nodes);
    assert!(large.chunks < small.chunks, "{large:?} {small:?}");

    for (tag, annotations, verdict) in [
        ("without", json!({}), Annotation::Missing),
        ("other", json!({ (ANNOTATION_TOC_DIGEST): TOC2 }), Annotation::Differs),
    ] {
        let layer = add_layer(&layout, LAYER1, &annotations);
        add_image(&layout, media_type::OCI_MANIFEST, &[layer], tag);
        let report = inspect(&location(dir.path(), tag), true).await.expect("told");
        let layer = &report.layers[0];
        assert_eq!(layer.annotation, Some(verdict));
        assert_eq!(layer.toc_digest.map(|digest| digest.to_string()).as_deref(), Some(TOC1));
        assert_eq!(layer.files.is_some(), verdict == Annotation::Missing);
        assert_eq!(layer.contents.is_some(), verdict == Annotation::Missing);
    }
    let layer = add_layer(&layout, LAYER1, &json!({ (ANNOTATION_TOC_DIGEST): "md5:1" }));
    add_image(&layout, media_type::OCI_MANIFEST, &[layer], "malformed");
    let error = inspect(&location(dir.path(), "malformed"), false).await.expect_err("malformed");
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.context("layer").is_some_and(|layer| layer.ends_with(LAYER1)), "{error}");
}

#[tokio::test]
async fn a_blob_that_was_cut_is_named() {
    let dir = tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    add_images(&layout);
    let path = layout.blob_dir().join(LAYER1);
    let blob = fs::read(&path).expect("blob");
    fs::write(&path, &blob[..blob.len() - 100]).expect("written");
    let server = serve(layout).await;
    for image in [location(dir.path(), "estargz"), reference(server.address(), "estargz")] {
        let error = inspect(&image, false).await.expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.context("layer").is_some_and(|layer| layer.ends_with(LAYER1)), "{error}");
    }
}

#[tokio::test]
async fn what_is_said_of_layers_is_compared_with_what_they_are() {
    const LAYERS: [&[(&str, &str)]; 2] = [&[("etc/a", "one"), ("etc/b", "two")], &[("x", "y")]];
    let dir = tempdir().expect("dir");
    let layout = Layout::create(dir.path()).expect("layout");
    let plain = add_true_image(&layout, "amd64", &LAYERS);
    layout.tag(&plain, Some("plain")).expect("tag");
    let work = tempdir().expect("dir");
    let from = location(dir.path(), "plain");
    for (format, name) in [
        (BlobFormat::Estargz, "estargz"),
        (BlobFormat::EstargzExternalToc, "external"),
        (BlobFormat::ZstdChunked, "zstd"),
        (BlobFormat::ZstdChunkedPodman, "podman"),
    ] {
        let to = location(dir.path(), name);
        let access = access(work.path());
        convert_image(&access, &from, &to, &options_of(format), |_| ()).await.expect(name);
    }
    let verify = async |name: &str| {
        let options = InspectOptions { platform: amd64(), verify: true, ..Default::default() };
        let (access, image) = (access(work.path()), location(dir.path(), name));
        inspect_image(&access, &image, &options).await.expect(name).layers
    };
    for name in ["plain", "estargz", "external", "zstd", "podman"] {
        for layer in verify(name).await {
            assert_eq!(layer.faults, Some(Vec::new()), "{name}");
        }
    }
    assert_empty(work.path());

    // One byte of a payload is another.
    let damaged = verify("estargz").await.remove(0).digest;
    let path = layout.blob_path(damaged);
    let mut blob = fs::read(&path).expect("blob");
    blob[200] ^= 0xff;
    fs::write(&path, blob).expect("written");
    let layers = verify("estargz").await;
    let faults = layers[0].faults.as_ref().expect("verified");
    assert!(faults.len() == 1 && faults[0].contains("digest"), "{faults:?}");
    assert_eq!(layers[1].faults, Some(Vec::new()), "the other is sound");

    // A configuration that says other diffIDs.
    let descriptors: Vec<Value> = IMAGES[0]
        .1
        .iter()
        .map(|(hex, toc)| add_layer(&layout, hex, &json!({ (ANNOTATION_TOC_DIGEST): toc })))
        .collect();
    add_image(&layout, media_type::OCI_MANIFEST, &descriptors, "liar");
    for layer in verify("liar").await {
        let faults = layer.faults.expect("verified");
        assert!(faults.len() == 1 && faults[0].contains("diffID"), "{faults:?}");
    }
}
