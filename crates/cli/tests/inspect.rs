//! What `bolide inspect` prints, and when it fails.
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use bolide_core::Digest;
use bolide_image::{
    Layout,
    manifest::{Descriptor, media_type, to_bytes},
};
use serde_json::{Value, json};

const PLAIN: &str = "8f36f7fff976af599875c21245c322cec2fca9b4593c10e9d78349d7d3927cc3";
const LAYER: &str = "047e3b1fbd6df2ee4a781426a1a119b77726c48f1ee648a69bb4e0cf1f154de0";
const TOC: &str = "sha256:97501dd3e83a40de689de1094d3cd6993bde3712c3634e4e2eec6d6be2d19596";

fn testdata(path: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata");
    fs::read(dir.join(path)).expect("test data")
}

/// An image of a plain layer and an eStargz one, whose TOC is annotated with `toc`.
fn sample(dir: &Path, toc: &str) -> String {
    let layout = Layout::create(dir).expect("layout");
    let layers: Vec<_> =
        [(PLAIN, json!({})), (LAYER, json!({"containerd.io/snapshot/stargz/toc.digest": toc}))]
            .into_iter()
            .map(|(hex, annotations)| {
                let blob = testdata(&format!("blobs/{hex}"));
                fs::write(layout.blob_dir().join(hex), &blob).expect("blob");
                json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": format!("sha256:{hex}"),
                "size": blob.len(), "annotations": annotations})
            })
            .collect();
    let ids = [Digest::of(b"1"), Digest::of(b"2")];
    let config = to_bytes(&json!({"rootfs": {"type": "layers", "diff_ids": ids}})).expect("json");
    layout.put_document(&config).expect("config");
    let manifest = to_bytes(&json!({
        "schemaVersion": 2, "layers": layers,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config),
    }))
    .expect("json");
    layout.put_document(&manifest).expect("manifest");
    layout.tag(&Descriptor::of(media_type::OCI_MANIFEST, &manifest), Some("x")).expect("tag");
    format!("oci:{}:x", dir.display())
}

fn inspect(image: &str, options: &[&str]) -> Output {
    let mut bolide = Command::new(env!("CARGO_BIN_EXE_bolide"));
    bolide.args(["inspect", image]).args(options).output().expect("runs")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

#[test]
fn files_are_listed_as_one_document() {
    let dir = tempfile::tempdir().expect("dir");
    let done = inspect(&sample(dir.path(), TOC), &["--files", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).expect("one document");
    let made: Value = serde_json::from_slice(&testdata("layer2.listing.json")).expect("listing");
    let [plain, lazy] = &report["layers"].as_array().expect("layers")[..] else {
        panic!("two layers: {report}")
    };
    assert_eq!((&plain["format"], &plain["toc_digest"]), (&json!("plain"), &Value::Null));
    assert_eq!(
        (&lazy["digest"], &lazy["toc_digest"]),
        (&json!(format!("sha256:{LAYER}")), &json!(TOC))
    );
    assert_eq!(lazy["files"], made);
}

#[test]
fn a_person_sees_layers_and_files() {
    let dir = tempfile::tempdir().expect("dir");
    let image = sample(dir.path(), TOC);
    let done = inspect(&image, &[]);
    let shown = text(&done.stdout);
    for part in [&*image, "plain: not lazy", LAYER, TOC, "as annotated", "8 files and directories"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("bin/extra"), "{shown}");
    let done = inspect(&image, &["--files"]);
    assert!(text(&done.stdout).contains(" bin/extra\n"), "{}", text(&done.stdout));
    let done = inspect(&image, &["--toc"]);
    let toc: Value = serde_json::from_slice(&done.stdout).expect("one TOC");
    assert_eq!(toc["version"], 1);
}

#[test]
fn a_toc_of_another_digest_is_shown_and_fails() {
    let dir = tempfile::tempdir().expect("dir");
    let other = Digest::of(b"other").to_string();
    let done = inspect(&sample(dir.path(), &other), &["--files"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stdout).contains("NOT the one that is annotated"), "{}", text(&done.stdout));
    assert!(!text(&done.stdout).contains("bin/extra"), "{}", text(&done.stdout));
    assert!(text(&done.stderr).starts_with("bolide: layer sha256:"), "{}", text(&done.stderr));
}
