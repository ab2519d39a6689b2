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
fn what_comes_first_may_be_listed_with_patterns() {
    let dir = tempfile::tempdir().expect("dir");
    sample(dir.path());
    let list = dir.path().join("list");
    fs::write(&list, "# all there is\n**\nno/such\n").expect("list");
    let from = format!("oci:{}:org", dir.path().display());
    let (to, list) = (format!("oci:{}:lazy", dir.path().display()), list.display().to_string());
    let done = bolide(&["convert", &from, &to, "--prefetch-list", &list]);
    assert_eq!(done.status.code(), Some(0));
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(told.contains("no/such") && told.lines().count() == 1, "{told}");
    let shown = bolide(&["inspect", "--json", &to]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert!(shown["layers"][0]["prefetch"]["up_to"].as_u64() > Some(0), "{shown}");

    fs::write(dir.path().join("list"), "ok\n[\n").expect("list");
    let done = bolide(&["convert", &from, &to, "--prefetch-list", &list]);
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("line=2"), "{done:?}");
}

#[test]
fn the_environment_says_which_time_is_the_latest() {
    let dir = tempfile::tempdir().expect("dir");
    sample(dir.path());
    let at = |tag: &str| format!("oci:{}:{tag}", dir.path().display());
    let convert = |tag: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bolide"));
        command.args(["convert", &at("org"), &at(tag)]).args(more);
        let done = command.env("SOURCE_DATE_EPOCH", "86400").output().expect("runs");
        assert!(done.status.success(), "{done:?}");
        let layout = Layout::open(dir.path()).expect("layout");
        let image = layout.resolve(Some(tag)).expect("image");
        let manifest: Value =
            serde_json::from_slice(&layout.document(&image).expect("manifest")).expect("JSON");
        let config = manifest["config"]["digest"].as_str().expect("digest").parse();
        let config = layout.document_by_digest(config.expect("digest")).expect("config");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        config["created"].as_str().expect("told").to_owned()
    };
    assert_eq!(convert("1", &[]), "1970-01-02T00:00:00Z");
    assert_eq!(convert("2", &["--source-date-epoch", "0"]), "1970-01-01T00:00:00Z");
}

#[test]
fn what_does_not_go_together_is_wrong_usage() {
    for (arguments, rule) in [
        (&["oci:a", "docker-archive:b"][..], "annotations"),
        (&["oci:a", "oci:b", "--format", "estargz-external-toc"], "tag"),
        (&["oci:a", "oci:b", "--format", "zstd-chunked", "--docker"], "OCI"),
        (&["oci:a", "oci:b", "--keep-diff-id"], "external-toc"),
        (&["oci:a", "oci:b", "--level", "10"], "0 to 9"),
    ] {
        let refused = bolide(&[&["convert"], arguments].concat());
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains(rule), "{told}");
    }
}

#[test]
fn a_full_disk_leaves_no_archive() {
    if !rustix::process::geteuid().is_root() {
        bolide_testkit::skip("filling a disk of its own needs root");
        return;
    }
    let (dir, small) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    sample(dir.path());
    // A mount that ends with the shell.
    let script = r#"
        mount --make-rprivate / && mount -t tmpfs -o size=4k tmpfs "$1" || exit 99
        "$2" convert "$3" "oci-archive:$1/x.tar" && exit 98
        code=$?
        ls -A "$1"
        exit $code
    "#;
    let done = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(small.path())
        .arg(env!("CARGO_BIN_EXE_bolide"))
        .arg(format!("oci:{}:org", dir.path().display()))
        .output()
        .expect("runs");
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(told.contains("No space left on device"), "{told}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "", "files stay");
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
