//! Layers of every format, as other programs made them.
use bolide_core::BlobSource as _;
use bolide_estargz::format::{
    ANNOTATION_LAYER_DIGEST, ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_TOC_DIGEST,
};
use bolide_image::manifest::{Descriptor, Manifest, to_bytes};

use super::*;

const ZSTD_CHUNKED: &str = "889a01bf4f5bd0e2fdbea42b9ce98512041a1fd704ef44615db28d771ee5b3f1";
const ZSTD_CHUNKED_TOC: &str = "9ebbef405c853cd772959c17cfe35c90806f5f53d66b30ded45ecffbb1917841";
const PODMAN: [(&str, &str); 2] = [
    (
        "3e0e2175e1a2abfaa256f35ffb20fd4dc0a308ff1d3f9dabcf450877d2f4dd40",
        "72b52a293eecec3d544dd8cb3bf866405d5e3abb4611cc9b76e2feab8d6a12df",
    ),
    (
        "7da28f818d5afffa529b9d530e961e24aed5f918326256dcb4e92492eacf5584",
        "3ac39197500a96c661123b1cb110c89d392d6a14834ae83f77a3deceb2bb196f",
    ),
];
/// Layer, its TOC's digest, and the blob that holds the TOC.
const EXTERNAL: [(&str, &str, &str); 2] = [
    (
        "e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
        "d8d4be8cfab9055cfc650733cce0ef7f04f71d5fb297adc519d74468cc80d7af",
        "409a345f9824832c3b7130e53bd5bb91700151e972097a31c789ec47e769cee2",
    ),
    (
        "befa43bba8a33c99fbb8c672cb6f78b9673ba045a505d99eb7597014543694b3",
        "7c496c281ed86b3b68590766347cd9a9f2b22235356d2c1dcef41f92d180c982",
        "c6bf251f3007d431f8b3e384a3429c48d813e46ee8c4fe54b9d4f6fcdde27459",
    ),
];

fn fixture(hex: &str) -> MemoryBlob {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata/blobs");
    let blob = MemoryBlob::new(std::fs::read(dir.join(hex)).expect("fixture"));
    assert_eq!(blob.digest(), digest(hex));
    blob
}

fn digest(hex: &str) -> Digest {
    format!("sha256:{hex}").parse().expect("a digest")
}

/// Two layers, what vouches for them, and further blobs.
fn bench(layers: [(&str, Option<TocTrust>); 2], others: &[&str]) -> Bench {
    let made = layers.map(|(hex, _)| (fixture(hex), Digest::of(b"replaced")));
    let mut bench = Bench::of(made);
    for (request, (_, trust)) in bench.requests.iter_mut().zip(layers) {
        request.trust = trust;
    }
    let mut blobs = (*bench.shelf.blobs).clone();
    blobs.extend(others.iter().map(|hex| (digest(hex), fixture(hex))));
    bench.shelf.blobs = Arc::new(blobs);
    bench
}

fn podman() -> Bench {
    bench(PODMAN.map(|(hex, _)| (hex, None)), &[])
}

fn external() -> Bench {
    let layers = EXTERNAL.map(|(hex, toc, _)| (hex, Some(TocTrust::Digest(digest(toc)))));
    bench(layers, &EXTERNAL.map(|(.., holder)| holder))
}

/// A manifest of layers with one annotation each.
fn manifest(layers: &[(&str, &str, &str)]) -> Bytes {
    let layers = layers.iter().map(|(hex, key, value)| {
        let size = fixture(hex).size();
        let mut layer = Descriptor::new("application/x-tar", digest(hex), size);
        layer.annotations.insert((*key).to_owned(), (*value).to_owned());
        layer
    });
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::of("application/json", b"{}"),
        layers: layers.collect(),
        other: serde_json::Map::new(),
    };
    to_bytes(&manifest).expect("JSON").into()
}

fn toc_image(layers: &[(&str, &str, &str)]) -> Bytes {
    let named: Vec<_> =
        layers.iter().map(|(layer, _, holder)| (*holder, digest(layer).to_string())).collect();
    let layers: Vec<_> =
        named.iter().map(|(holder, layer)| (*holder, ANNOTATION_LAYER_DIGEST, &**layer)).collect();
    manifest(&layers)
}

/// Mounts both layers and, after a restart without a network, shows them again.
async fn mounts_and_comes_back(bench: &Bench) {
    let node = bench.run().await;
    let mut labelled = Vec::new();
    for (id, request) in ["1", "2"].into_iter().zip(&bench.requests) {
        let mounted = node.layers.mount(id, request, &bench.target(id)).await.expect("mounts");
        assert_eq!(Some(mounted.toc), mounted.trust.digest());
        // As the service keeps it with the snapshot.
        labelled.push(RemoteLayerRequest { trust: Some(mounted.trust), ..request.clone() });
    }
    node.end().await;
    bench.shelf.cut(true);
    let seen = (bench.shelf.opened(), bench.shelf.asked());
    let node = bench.run().await;
    for (id, request) in ["1", "2"].into_iter().zip(&labelled) {
        node.layers.restore(id, request, &bench.target(id)).await.expect("from the disk");
        node.layers.check(id).await.expect("usable");
    }
    assert_eq!((bench.shelf.opened(), bench.shelf.asked()), seen, "the network was asked");
    node.end().await;
    bench.shelf.cut(false);
}

#[tokio::test]
async fn zstd_chunked_is_mounted_by_its_toc_digest_or_its_checksum() {
    let toc = TocTrust::Digest(digest(ZSTD_CHUNKED_TOC));
    let checksum = TocTrust::Compressed(digest(PODMAN[1].1));
    let bench = bench([(ZSTD_CHUNKED, Some(toc)), (PODMAN[1].0, Some(checksum))], &[]);
    mounts_and_comes_back(&bench).await;
    assert_eq!(bench.shelf.asked(), 0, "no manifest is needed");
}

#[tokio::test]
async fn what_the_client_does_not_say_the_manifest_does_once_for_all_layers() {
    let mut bench = podman();
    let checksums = PODMAN.map(|(_, checksum)| digest(checksum).to_string());
    let key = ANNOTATION_PODMAN_CHECKSUM;
    let said = manifest(&[(PODMAN[0].0, key, &checksums[0]), (PODMAN[1].0, key, &checksums[1])]);
    let name = Digest::of(&said);
    for request in &mut bench.requests {
        request.image_manifest = Some(name);
    }
    bench.shelf.manifests.lock().insert(ManifestName::Digest(name), said);
    mounts_and_comes_back(&bench).await;
    assert_eq!(bench.shelf.asked(), 1);
    // A restart of a daemon that was killed before it could say what it had learned.
    let node = bench.run().await;
    let restored = node.layers.restore("9", &bench.requests[0], &bench.target("9")).await;
    assert_eq!(restored.expect_err("no network").kind(), ErrorKind::Unavailable);
    assert_eq!(bench.shelf.asked(), 1);
    node.layers.check("9").await.expect("mounted when it is needed");
    node.end().await;
}

#[tokio::test]
async fn a_manifest_that_says_nothing_or_is_another_is_a_reason() {
    let mut bench = podman();
    let silent = manifest(&[(PODMAN[0].0, "other", "annotation")]);
    let wrong = manifest(&[(PODMAN[0].0, ANNOTATION_TOC_DIGEST, "sha256:short")]);
    let of = |bytes: &Bytes| ManifestName::Digest(Digest::of(bytes));
    let never_pushed = Digest::of(b"never pushed");
    let cases = [
        (of(&silent), Some(silent), ErrorKind::FailedPrecondition),
        (of(&wrong), Some(wrong), ErrorKind::Malformed),
        (of(&Bytes::from("else")), Some(Bytes::from("{}")), ErrorKind::Corrupt),
        (of(&Bytes::from("[]")), Some(Bytes::from("[]")), ErrorKind::Malformed),
        (ManifestName::Digest(never_pushed), None, ErrorKind::NotFound),
    ];
    let node = bench.run().await;
    for (name, document, kind) in cases {
        bench.shelf.manifests.lock().extend(document.map(|document| (name, document)));
        let ManifestName::Digest(digest) = name else { panic!("a digest") };
        bench.requests[0].image_manifest = Some(digest);
        let mounted = node.layers.mount("1", &bench.requests[0], &bench.target("1")).await;
        let error = mounted.expect_err("nothing vouches for the TOC");
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(bench.shelf.opened(), 0);
    node.end().await;
}

#[tokio::test]
async fn an_external_toc_is_found_beside_its_image() {
    let bench = external();
    bench.shelf.manifests.lock().insert(ManifestName::TocImage, toc_image(&EXTERNAL));
    mounts_and_comes_back(&bench).await;
    assert_eq!(bench.shelf.asked(), 1, "the layers of an image share the manifest");
}

#[tokio::test]
async fn an_external_toc_that_is_not_there_is_a_reason() {
    let bench = external();
    let node = bench.run().await;
    let mount = async |number: usize| {
        let id = number.to_string();
        node.layers.mount(&id, &bench.requests[number], &bench.target(&id)).await
    };
    let push = |image: Bytes| bench.shelf.manifests.lock().insert(ManifestName::TocImage, image);
    let missing = mount(0).await.expect_err("no TOC image");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.message().contains("-esgztoc"), "{missing}");
    // Of another build of the image.
    push(toc_image(&EXTERNAL[1..]));
    let missing = mount(0).await.expect_err("not of this layer");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.message().contains("push it again"), "{missing}");
    // The other layer's TOC under this one's name.
    push(toc_image(&[(EXTERNAL[0].0, "", EXTERNAL[1].2)]));
    assert_eq!(mount(0).await.expect_err("another TOC").kind(), ErrorKind::Corrupt);
    // The tag moves while its manifest is remembered.
    push(toc_image(&EXTERNAL[1..]));
    mount(1).await.expect("mounts");
    node.layers.unmount("1").await.expect("unmounts");
    push(toc_image(&EXTERNAL));
    mount(0).await.expect("mounts");
    node.end().await;
}

#[tokio::test]
async fn a_layer_of_any_format_is_checked_once_it_is_whole() {
    let checksum = |number: usize| TocTrust::Compressed(digest(PODMAN[number].1));
    let external = || {
        let bench = external();
        bench.shelf.manifests.lock().insert(ManifestName::TocImage, toc_image(&EXTERNAL));
        bench
    };
    let zstd = TocTrust::Digest(digest(ZSTD_CHUNKED_TOC));
    for bench in [
        bench([(PODMAN[0].0, Some(checksum(0))), (PODMAN[1].0, Some(checksum(1)))], &[]),
        bench([(ZSTD_CHUNKED, Some(zstd)), (PODMAN[1].0, Some(checksum(1)))], &[]),
        external(),
    ] {
        let node = bench.run_whole().await;
        let request = &bench.requests[0];
        node.layers.mount("1", request, &bench.target("1")).await.expect("mounts");
        let report = node.report_when(|report| report.whole.is_some()).await;
        assert_eq!((report.whole, report.error), (Some(true), None), "{}", request.layer_digest);
        assert_eq!(report.present_bytes, report.total_bytes);
        node.end().await;
    }
}
