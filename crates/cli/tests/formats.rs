//! Images of every format, as other programs made them: mounted lazily, they show the tree of the
//! plain image.
mod lab;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use bolide_core::Digest;
use bolide_e2e::Tree;
use bolide_estargz::format::{
    ANNOTATION_LAYER_DIGEST, ANNOTATION_PODMAN_CHECKSUM, ANNOTATION_TOC_DIGEST,
};
use bolide_image::{
    Layout,
    manifest::{Descriptor, media_type, to_bytes},
};
use lab::{Lab, is_root, succeeds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What `bolide mount` says of a layer that it does not show lazily.
const NOT_LAZY: &str = "fetched whole";

/// A layer of the fixtures and its one annotation.
type Layer = (&'static str, &'static str, &'static str);

const ORIGINAL: [Layer; 2] = [
    ("7823858a91105df1bdb62d29ae129714cda5bd07682f5470e70461e4af581f0c", "", ""),
    ("8f36f7fff976af599875c21245c322cec2fca9b4593c10e9d78349d7d3927cc3", "", ""),
];
const ZSTD_CHUNKED: [Layer; 2] = [
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
];
const PODMAN: [Layer; 2] = [
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
];
const EXTERNAL: [Layer; 2] = [
    (
        "e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
        ANNOTATION_TOC_DIGEST,
        "sha256:d8d4be8cfab9055cfc650733cce0ef7f04f71d5fb297adc519d74468cc80d7af",
    ),
    (
        "b63b7c7a1b886b3fe73505619b757ffb64672a58b6acc0bbb347bbbf9099a62e",
        ANNOTATION_TOC_DIGEST,
        "sha256:97501dd3e83a40de689de1094d3cd6993bde3712c3634e4e2eec6d6be2d19596",
    ),
];
const TOCS: [Layer; 2] = [
    (
        "409a345f9824832c3b7130e53bd5bb91700151e972097a31c789ec47e769cee2",
        ANNOTATION_LAYER_DIGEST,
        "sha256:e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
    ),
    (
        "b7aab848dca3fbe8884452d061c8e774552d6c658c9ffeeeb2c3e7ff93c8ee95",
        ANNOTATION_LAYER_DIGEST,
        "sha256:b63b7c7a1b886b3fe73505619b757ffb64672a58b6acc0bbb347bbbf9099a62e",
    ),
];

/// Adds an image of fixture layers to the lab's layout.
fn add(lab: &Lab, tag: &str, layers: &[Layer]) {
    let blobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata/blobs");
    let layers = layers.iter().map(|(hex, key, value)| {
        let blob = fs::read(blobs.join(hex)).expect("fixture");
        json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": add_blob(lab, &blob),
            "size": blob.len(), "annotations": {(*key): value}})
    });
    add_image(lab, tag, &layers.collect::<Vec<_>>());
}

fn add_blob(lab: &Lab, blob: &[u8]) -> Digest {
    let layout = Layout::create(lab.path("image")).expect("layout");
    fs::write(layout.blob_path(Digest::of(blob)), blob).expect("blob");
    Digest::of(blob)
}

fn add_image(lab: &Lab, tag: &str, layers: &[Value]) {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    add_image_of(lab, tag, layers, &diff_ids);
}

fn add_image_of(lab: &Lab, tag: &str, layers: &[Value], diff_ids: &[Value]) {
    let layout = Layout::create(lab.path("image")).expect("layout");
    let config = to_bytes(&json!({"os": "linux", "architecture": architecture(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids}}));
    let config = config.expect("json");
    layout.put_document(&config).expect("config");
    let manifest = to_bytes(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": layers}));
    let manifest = manifest.expect("json");
    layout.put_document(&manifest).expect("manifest");
    let name = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    layout.tag(&name, Some(tag)).expect("tag");
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What an image shows when it is mounted, and what the program said meanwhile.
fn shown(lab: &Lab, image: &str) -> (Tree, String) {
    let target = lab.target();
    let begun = fs::metadata(lab.path("bolide")).expect("program").mtime();
    let said = lab.path("said");
    let mut mount = lab.bolide(&["mount", image, "target"]);
    mount.stdout(Stdio::piped()).stderr(File::create(&said).expect("file"));
    let mut child = mount.spawn().expect("runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("output")).read_line(&mut line).expect("line");
    let said = || fs::read_to_string(&said).expect("what it said");
    assert!(line.contains("is shown on"), "{image}: {line:?} {}", said());
    let mut tree = Tree::read(&target).expect("tree");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("pid")).expect("pid");
    kill_process(pid, Signal::TERM).expect("sent");
    assert!(child.wait().expect("ends").success(), "{}", said());
    for node in tree.nodes.values_mut() {
        // An unpack gives directories that no entry names the time at which it made them.
        if node.size.is_none() && node.mtime >= begun {
            node.mtime = 0;
        }
    }
    (tree, said())
}

fn assert_lazy_and_equal(lab: &Lab, plain: &Tree, image: &str) {
    let (tree, said) = shown(lab, image);
    assert!(!said.contains(NOT_LAZY), "{image}: {said}");
    let differences = plain.differences(&tree, 20);
    assert!(differences.is_empty(), "{image}:\n{}", differences.join("\n"));
}

#[test]
fn images_of_every_format_show_the_tree_of_the_plain_one() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    add(&lab, "plain", &ORIGINAL);
    let (plain, said) = shown(&lab, "oci:image:plain");
    assert!(said.contains(NOT_LAZY), "{said}");
    assert!(plain.nodes.len() > 20, "{:?}", plain.nodes.keys());
    add(&lab, "zstd", &ZSTD_CHUNKED);
    add(&lab, "podman", &PODMAN);
    add(&lab, "external", &EXTERNAL);
    add(&lab, "external-esgztoc", &TOCS);
    for tag in ["zstd", "podman", "external"] {
        assert_lazy_and_equal(&lab, &plain, &format!("oci:image:{tag}"));
    }
    lab.assert_clean();
}

#[test]
fn a_layer_without_its_external_toc_is_fetched_whole() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    add(&lab, "plain", &ORIGINAL);
    let (plain, _) = shown(&lab, "oci:image:plain");
    add(&lab, "external", &EXTERNAL);
    let (mut tree, said) = shown(&lab, "oci:image:external");
    assert!(said.contains(NOT_LAZY) && said.contains("-esgztoc"), "{said}");
    // Who unpacks a layer unpacks its landmark too.
    assert!(tree.nodes.remove(Path::new(".no.prefetch.landmark")).is_some());
    assert_eq!(plain.differences(&tree, 20), Vec::<String>::new());
    lab.assert_clean();
}

/// A tar of what compressors of holes and chunks treat apart.
fn unusual() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_uid(1000);
        header.set_gid(50);
        header.set_mtime(1_600_000_000);
        tar.append_data(&mut header, path, content).expect("entry");
    };
    let noise = |len, seed| bolide_testkit::sample::noise(len, seed);
    let zeros = |len: usize| vec![0; len];
    add("holes/only", &zeros(3_000_000));
    add("holes/first", &[zeros(100_000), noise(10_000, 1)].concat());
    add("holes/last", &[noise(200_000, 2), zeros(70_000)].concat());
    add("holes/short", &[noise(1000, 3), zeros(1023), noise(1000, 4)].concat());
    add("holes/just", &[noise(1000, 5), zeros(1024), noise(1000, 6)].concat());
    let many: Vec<_> =
        (0..40).flat_map(|n| [noise(500 + n, n as u64), zeros(1000 + 97 * n)]).collect();
    add("holes/many", &many.concat());
    add("big", &noise(5 << 20, 7));
    add("same", &noise(5 << 20, 7));
    add("empty", b"");
    tar.append_pax_extensions([
        ("SCHILY.xattr.user.binary", &b"\0\xff="[..]),
        ("mtime", b"1600000000.25"),
    ])
    .expect("extensions");
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o4755);
    header.set_mtime(1_600_000_000);
    tar.append_data(&mut header, "marked", &b"abc"[..]).expect("entry");
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    link.set_mode(0o640);
    link.set_mtime(1_600_000_000);
    tar.append_link(&mut link, "link", "holes/many").expect("entry");
    tar.into_inner().expect("tar")
}

/// Says loudly when a tool is not on this machine.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        bolide_testkit::skip(&format!("{tool} is not installed"));
    }
    found
}

#[test]
fn what_skopeo_makes_zstd_chunked_is_lazy_and_equal() {
    if !is_root() || !has("skopeo") {
        return;
    }
    let lab = Lab::new();
    let tar = unusual();
    let digest = add_blob(&lab, &tar);
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest,
        "size": tar.len()});
    add_image_of(&lab, "plain", &[layer], &[json!(digest)]);
    succeeds(Command::new("skopeo").current_dir(lab.dir.path()).args([
        "copy",
        "--insecure-policy",
        "--dest-compress",
        "--dest-compress-format",
        "zstd:chunked",
        "oci:image:plain",
        // Another layout: in this one it would find the blob and leave it as it is.
        "oci:made:skopeo",
    ]));
    let text = succeeds(&mut lab.bolide(&["inspect", "--json", "oci:made:skopeo"]));
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let format = report["layers"][0]["format"].as_str().expect("a format");
    assert!(format.starts_with("zstd-chunked"), "{report}");
    assert_eq!(report["layers"][0]["annotation"], "matches");

    let (plain, _) = shown(&lab, "oci:image:plain");
    assert_eq!(plain.nodes.len(), 12, "{:?}", plain.nodes.keys());
    assert_lazy_and_equal(&lab, &plain, "oci:made:skopeo");
    lab.assert_clean();
}
