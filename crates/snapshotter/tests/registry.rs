//! A whole node against a registry: what is asked of it to mount layers of each format.
use std::{fs, path::Path, path::PathBuf};

use bolide_core::{Digest, ErrorKind};
use bolide_estargz::{
    TocTrust,
    format::{ANNOTATION_LAYER_DIGEST, ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_TOC_DIGEST},
};
use bolide_image::{
    Layout, ServerHandle,
    manifest::{Descriptor, media_type, to_bytes},
    serve_layout,
};
use bolide_snapshotter::{
    Config, RemoteLayerRequest,
    assembly::{Node, Surroundings},
};
use serde_json::json;
use tokio::{net::TcpListener, task::spawn_blocking};

const PODMAN: (&str, &str) = (
    "3e0e2175e1a2abfaa256f35ffb20fd4dc0a308ff1d3f9dabcf450877d2f4dd40",
    "72b52a293eecec3d544dd8cb3bf866405d5e3abb4611cc9b76e2feab8d6a12df",
);
const PODMAN_UPPER: (&str, &str) = (
    "7da28f818d5afffa529b9d530e961e24aed5f918326256dcb4e92492eacf5584",
    "3ac39197500a96c661123b1cb110c89d392d6a14834ae83f77a3deceb2bb196f",
);
const EXTERNAL: (&str, &str) = (
    "e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
    "d8d4be8cfab9055cfc650733cce0ef7f04f71d5fb297adc519d74468cc80d7af",
);
const EXTERNAL_TOC: &str = "409a345f9824832c3b7130e53bd5bb91700151e972097a31c789ec47e769cee2";
/// `bin/tool` of the lower layer.
const TOOL: &str = "bfdeaeb08cffb6a36438bcd12dda25417e3cdd36f1e7e482a2849d539225288b";

/// A layout that is served, and a node that has never seen it.
struct Bench {
    dir: tempfile::TempDir,
    layout: Layout,
    server: ServerHandle,
}

fn digest(hex: &str) -> Digest {
    format!("sha256:{hex}").parse().expect("a digest")
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let layout = Layout::create(dir.path().join("image")).expect("layout");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let server = serve_layout(layout.clone(), listener).expect("server");
        Self { dir, layout, server }
    }

    /// Adds an image of fixture layers with one annotation each; the digest of its manifest.
    fn add(&self, tag: &str, layers: &[(&str, &str, &str)]) -> Digest {
        let blobs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata/blobs");
        let layers = layers.iter().map(|(hex, key, value)| {
            let size = fs::copy(blobs.join(hex), self.layout.blob_dir().join(hex)).expect("blob");
            json!({"mediaType": "application/x-tar", "digest": digest(hex), "size": size,
                "annotations": {(*key): digest(value)}})
        });
        let manifest = to_bytes(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": Descriptor::of(media_type::OCI_CONFIG, b"{}"),
            "layers": layers.collect::<Vec<_>>()}));
        let manifest = manifest.expect("JSON");
        self.layout.put_document(&manifest).expect("manifest");
        let name = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        self.layout.tag(&name, Some(tag)).expect("tag");
        name.digest
    }

    async fn node(&self) -> Node {
        let mut config = Config { root: self.dir.path().join("node"), ..Config::default() };
        config.prefetch.background = false;
        config.prefetch.neighbours = false;
        Node::assemble(&config, &Surroundings::default()).await.expect("a node")
    }

    fn request(&self, tag: &str, layer: &str) -> RemoteLayerRequest {
        RemoteLayerRequest {
            target: layer.to_owned(),
            parent: String::new(),
            reference: format!("{}/team/app:{tag}", self.server.address()),
            layer_digest: digest(layer),
            trust: None,
            image_manifest: None,
            prefetch_size: None,
            skip_verify: false,
            image_layers: Vec::new(),
        }
    }

    fn target(&self, id: &str) -> PathBuf {
        let target = self.dir.path().join(id);
        fs::create_dir_all(&target).expect("dir");
        target
    }
}

/// Says loudly when this machine cannot run the test.
fn may_mount() -> bool {
    let able = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok()
        && rustix::process::geteuid().is_root();
    if !able {
        bolide_testkit::skip("mounting needs root and /dev/fuse");
    }
    able
}

async fn tool(target: &Path) -> Digest {
    let path = target.join("bin/tool");
    let content = spawn_blocking(move || fs::read(path)).await.expect("no panic");
    Digest::of(&content.expect("reads"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_podman_cost_a_request_each_and_one_for_their_manifest() {
    if !may_mount() {
        return;
    }
    let bench = Bench::new().await;
    let key = ANNOTATION_PODMAN_CHECKSUM;
    let layers = [PODMAN, PODMAN_UPPER].map(|(layer, checksum)| (layer, key, checksum));
    let manifest = bench.add("podman", &layers);
    let node = bench.node().await;
    for (id, (layer, checksum)) in [("1", PODMAN), ("2", PODMAN_UPPER)] {
        // As containerd's CRI plugin names them.
        let request =
            RemoteLayerRequest { image_manifest: Some(manifest), ..bench.request("podman", layer) };
        let mounted = node.layers().mount(id, &request, &bench.target(id)).await.expect("mounts");
        assert_eq!(mounted.trust, TocTrust::Compressed(digest(checksum)));
    }
    assert_eq!(bench.server.counters().requests, 3);
    assert_eq!(tool(&bench.target("1")).await, digest(TOOL));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_toc_is_read_of_the_image_beside() {
    if !may_mount() {
        return;
    }
    let bench = Bench::new().await;
    bench.add("app", &[(EXTERNAL.0, ANNOTATION_TOC_DIGEST, EXTERNAL.1)]);
    let node = bench.node().await;
    let trust = Some(TocTrust::Digest(digest(EXTERNAL.1)));
    let request = RemoteLayerRequest { trust, ..bench.request("app", EXTERNAL.0) };
    let target = bench.target("1");
    let missing = node.layers().mount("1", &request, &target).await.expect_err("no TOC");
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    bench.add("app-esgztoc", &[(EXTERNAL_TOC, ANNOTATION_LAYER_DIGEST, EXTERNAL.0)]);
    let before = bench.server.counters().requests;
    node.layers().mount("1", &request, &target).await.expect("mounts");
    // The layer's end, the manifest of TOCs, the TOC.
    assert_eq!(bench.server.counters().requests - before, 3);
    assert_eq!(tool(&target).await, digest(TOOL));
    node.layers().unmount("1").await.expect("unmounts");

    let named_by_digest = RemoteLayerRequest {
        reference: format!("{}/team/app@{}", bench.server.address(), digest(EXTERNAL.0)),
        ..request
    };
    let refused = node.layers().mount("1", &named_by_digest, &target).await;
    assert!(refused.expect_err("no tag").message().contains("tag"));
    node.shutdown().await;
}
