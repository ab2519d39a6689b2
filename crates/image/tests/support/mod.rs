//! Sample images, and registries to have them in.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod docker_registry;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bolide_core::Digest;
use bolide_estargz::BlobFormat;
use bolide_fetch::{NoCredentials, RegistryClient, RegistryConfig, RetryPolicy};
use bolide_image::{
    Access, ConvertOptions, ConvertReport, Layout, Location, Platform, Platforms, ServerHandle,
    convert_image,
    manifest::{Descriptor, media_type, to_bytes},
    serve_layout,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The layers of a plain image that every layer file of the reference was made from.
pub(crate) const LAYERS: [&str; 2] = [
    "7823858a91105df1bdb62d29ae129714cda5bd07682f5470e70461e4af581f0c",
    "8f36f7fff976af599875c21245c322cec2fca9b4593c10e9d78349d7d3927cc3",
];

pub(crate) fn testdata(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata").join(path)
}

/// A layout with one image of two plain layers, tagged `org`.
pub(crate) fn sample(dir: &Path, manifest_type: &str) -> Layout {
    let layout = Layout::create(dir).expect("layout");
    let layers: Vec<_> =
        LAYERS.iter().map(|hex| add_layer(&layout, hex, &json!({"kept": "yes"}))).collect();
    add_image(&layout, manifest_type, &layers, "org");
    layout
}

/// Copies a layer file of the test data; its descriptor.
pub(crate) fn add_layer(layout: &Layout, hex: &str, annotations: &Value) -> Value {
    let from = testdata("blobs").join(hex);
    let size = fs::copy(from, layout.blob_dir().join(hex)).expect("blob");
    json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": format!("sha256:{hex}"),
        "size": size, "annotations": annotations})
}

/// Stores a layer; its descriptor.
pub(crate) fn add_blob(layout: &Layout, bytes: &[u8]) -> Value {
    layout.put_document(bytes).expect("blob");
    json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": Digest::of(bytes),
        "size": bytes.len()})
}

/// Stores configuration and manifest of an image and tags it.
pub(crate) fn add_image(
    layout: &Layout,
    manifest_type: &str,
    layers: &[Value],
    tag: &str,
) -> Descriptor {
    let docker = manifest_type == media_type::DOCKER_MANIFEST;
    let config_type = if docker { media_type::DOCKER_CONFIG } else { media_type::OCI_CONFIG };
    let diff_ids: Vec<_> =
        (0..layers.len()).map(|number| Digest::of(number.to_string().as_bytes())).collect();
    let config = to_bytes(&json!({
        "os": "linux", "architecture": "amd64", "config": {"Env": ["A=b"]}, "tag": tag,
        "history": history(layers.len()), "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .expect("json");
    layout.put_document(&config).expect("config");
    let manifest = to_bytes(&json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": Descriptor::of(config_type, &config), "layers": layers,
    }))
    .expect("json");
    layout.put_document(&manifest).expect("manifest");
    let name = Descriptor::of(manifest_type, &manifest);
    layout.tag(&name, Some(tag)).expect("tag");
    name
}

/// A step for each layer, and one that changed nothing in the tree.
pub(crate) fn history(layers: usize) -> Value {
    let steps = (0..layers).map(|number| json!({"created_by": format!("step {number}")}));
    steps.chain([json!({"created_by": "ENV A=b", "empty_layer": true})]).collect()
}

/// An image of a layout.
pub(crate) fn location(dir: &Path, tag: &str) -> Location {
    Location::Layout { dir: dir.to_owned(), tag: Some(tag.to_owned()) }
}

/// An image of a registry.
pub(crate) fn reference(host: impl std::fmt::Display, tag: &str) -> Location {
    format!("{host}/team/app:{tag}").parse().expect("reference")
}

/// Anonymous access that gives up at once.
pub(crate) fn access(work_dir: &Path) -> Access {
    let client = RegistryClient::new(RegistryConfig::default(), Arc::new(NoCredentials));
    Access::layouts()
        .with_registries(client.expect("client"))
        .with_work_dir(work_dir)
        .with_retry(RetryPolicy { attempts: 1, ..RetryPolicy::default() })
}

/// The platform of [`add_image`], whatever machine this is.
pub(crate) fn amd64() -> Platform {
    "linux/amd64".parse().expect("platform")
}

/// Quick: what is made is not kept.
pub(crate) fn options() -> ConvertOptions {
    let mut options =
        ConvertOptions { platforms: Platforms::One(amd64()), ..ConvertOptions::default() };
    options.layer.level = Some(1);
    options
}

pub(crate) async fn convert(access: &Access, src: &Location, dst: &Location) -> ConvertReport {
    convert_image(access, src, dst, &options(), |_| ()).await.expect("converted")
}

pub(crate) async fn serve(layout: Layout) -> ServerHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    serve_layout(layout, listener).expect("server")
}

/// Nothing may stay where blobs wait for a registry.
pub(crate) fn assert_empty(dir: &Path) {
    let left: Vec<_> = fs::read_dir(dir).expect("dir").map(|entry| entry.expect("entry")).collect();
    assert!(left.is_empty(), "temporary files stay behind: {left:?}");
}

/// A tar of these files.
pub(crate) fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).expect("added");
    }
    tar.into_inner().expect("tar")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).expect("packed");
    gzip.finish().expect("packed")
}

/// Stores an image whose configuration tells the truth about its layers, which other programs
/// check; its descriptor, as an index lists it.
pub(crate) fn add_true_image(
    layout: &Layout,
    architecture: &str,
    layers: &[&[(&str, &str)]],
) -> Descriptor {
    let tars: Vec<_> = layers.iter().map(|files| tar_of(files)).collect();
    let config = to_bytes(&json!({
        "os": "linux", "architecture": architecture, "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["A=b"]}, "history": history(layers.len()),
        "rootfs": {"type": "layers",
            "diff_ids": tars.iter().map(|tar| Digest::of(tar)).collect::<Vec<_>>()},
    }))
    .expect("json");
    layout.put_document(&config).expect("config");
    let layers: Vec<_> = tars.iter().map(|tar| add_blob(layout, &gzip(tar))).collect();
    let manifest = to_bytes(&json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "annotations": {"who": "me"},
        "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": layers,
    }))
    .expect("json");
    layout.put_document(&manifest).expect("manifest");
    let mut name = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    name.platform = Some(format!("linux/{architecture}").parse().expect("platform"));
    name
}

/// Stores an index of these manifests and tags it.
pub(crate) fn add_index(layout: &Layout, manifests: &[Descriptor], tag: &str) -> Descriptor {
    let index = to_bytes(&json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests,
        "annotations": {"what": "all"},
    }))
    .expect("json");
    layout.put_document(&index).expect("index");
    let name = Descriptor::of(media_type::OCI_INDEX, &index);
    layout.tag(&name, Some(tag)).expect("tag");
    name
}

/// Options of a format, for this machine-independent platform.
pub(crate) fn options_of(format: BlobFormat) -> ConvertOptions {
    let mut options = options();
    options.layer.format = format;
    options.layer.level = None;
    options
}

/// The output of a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(done.stdout).expect("text")
}
