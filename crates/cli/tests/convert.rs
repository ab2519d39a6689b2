//! The program as it is run: exit codes, and what it prints where.
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use bolide_core::Digest;
use bolide_image::{
    Layout,
    manifest::{Descriptor, media_type, to_bytes},
};
use serde_json::{Value, json};

const LAYER: &str = "8f36f7fff976af599875c21245c322cec2fca9b4593c10e9d78349d7d3927cc3";

fn sample(dir: &Path) {
    let layout = Layout::create(dir).expect("layout");
    let blob = Path::new(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata/blobs").join(LAYER);
    let size = fs::copy(blob, layout.blob_dir().join(LAYER)).expect("blob");
    let config = to_bytes(&json!({"rootfs": {"type": "layers", "diff_ids": [Digest::of(b"")]}}));
    let config = config.expect("json");
    layout.put_document(&config).expect("config");
    let manifest = to_bytes(&json!({
        "schemaVersion": 2, "config": Descriptor::of(media_type::OCI_CONFIG, &config),
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{LAYER}"), "size": size}],
    }))
    .expect("json");
    layout.put_document(&manifest).expect("manifest");
    layout.tag(&Descriptor::of(media_type::OCI_MANIFEST, &manifest), Some("org")).expect("tag");
}

fn bolide(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bolide")).args(arguments).output().expect("runs")
}

#[test]
fn an_image_is_converted_and_reported() {
    let dir = tempfile::tempdir().expect("dir");
    sample(dir.path());
    let (src, dst) = (format!("oci:{}:org", dir.path().display()), dir.path().join("out"));
    let to = format!("oci:{}:lazy", dst.display());
    let done = bolide(&["convert", &src, &to, "--json", "--chunk-size", "64KiB"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).expect("one JSON document");
    let image = Layout::open(dst).expect("layout").resolve(Some("lazy")).expect("image");
    assert_eq!(report["digest"], image.digest.to_string());
    assert_eq!(report["layers"][0]["source"], format!("sha256:{LAYER}"));
    assert!(done.stderr.is_empty(), "progress is for terminals");
}

#[test]
fn failure_and_wrong_usage_have_codes_of_their_own() {
    let missing = bolide(&["convert", "oci:/nonexistent", "oci:/nonexistent/out"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/oci-layout"));
    assert_eq!(bolide(&["convert"]).status.code(), Some(2));
    assert_eq!(bolide(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_command_that_is_told_to_end_leaves_no_files() {
    let (dir, temporary) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    sample(dir.path());
    // A registry that never answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
    let to = format!("{}/app:lazy", listener.local_addr().expect("address"));
    let convert = Command::new(env!("CARGO_BIN_EXE_bolide"))
        .args(["convert", &format!("oci:{}:org", dir.path().display()), &to])
        .env("TMPDIR", temporary.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let connection = listener.accept().expect("connected");
    assert_eq!(fs::read_dir(temporary.path()).expect("dir").count(), 1);
    let pid = rustix::process::Pid::from_child(&convert);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
    let ended = convert.wait_with_output().expect("ended");
    drop(connection);
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.stderr, b"bolide: interrupted\n");
    assert_eq!(fs::read_dir(temporary.path()).expect("dir").count(), 0);
}
