//! An image that another program made, converted and served.
mod support;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use bolide_core::memory::MemoryBlob;
use bolide_core::{BlobOpener as _, BlobRef, Digest, ErrorKind, PrefetchMark, TocIndex as _};
use bolide_estargz::{
    TAIL_HINT, TocTrust,
    format::{ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE},
    open_layer,
};
use bolide_image::{
    Access, ConvertOptions, ConvertReport, ImageSource, Layout, Platform, Prioritized, Progress,
    convert_image,
    manifest::{Descriptor, media_type},
};
use support::{LAYERS, history, location, sample, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn convert(src: &Path, dst: &Path, options: &ConvertOptions) -> ConvertReport {
    convert_image(
        &Access::layouts(),
        &location(src, "org"),
        &location(dst, "lazy"),
        options,
        |_| (),
    )
    .await
    .expect("converted")
}

async fn mark_of(layout: &Layout, layer: &Descriptor) -> (usize, PrefetchMark) {
    let bytes = fs::read(layout.blob_path(layer.digest)).expect("blob");
    assert_eq!(Digest::of(&bytes), layer.digest);
    assert_eq!(bytes.len() as u64, layer.size);
    let blob = MemoryBlob::new(bytes);
    let wanted = BlobRef { digest: layer.digest, size: Some(layer.size) };
    let opened = blob.open(wanted, TAIL_HINT).await.expect("opened");
    let toc = layer.annotations[ANNOTATION_TOC_DIGEST].parse().expect("digest");
    let opened = open_layer(&opened, TocTrust::Digest(toc)).await.expect("eStargz");
    (opened.index.len(), opened.index.prefetch_mark())
}

#[tokio::test]
async fn every_layer_becomes_estargz_and_the_documents_agree() {
    let (src, dst) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    sample(src.path(), media_type::OCI_MANIFEST);
    let events = Mutex::new(Vec::new());
    let options = ConvertOptions::default();
    let report = convert_image(
        &Access::layouts(),
        &location(src.path(), "org"),
        &location(dst.path(), "lazy"),
        &options,
        |e| {
            events.lock().expect("lock").push(e);
        },
    )
    .await
    .expect("converted");

    let image =
        ImageSource::open(&Access::layouts(), &location(dst.path(), "lazy"), &Platform::host())
            .await
            .expect("image");
    assert_eq!(image.target().digest, report.digest);
    assert_eq!(image.config().other["history"], history(2));
    let layout = Layout::open(dst.path()).expect("layout");
    for (at, layer) in image.manifest().layers.iter().enumerate() {
        assert_eq!(layer.annotations["kept"], "yes");
        let size = report.layers[at].uncompressed_size.expect("known").to_string();
        assert_eq!(layer.annotations[ANNOTATION_UNCOMPRESSED_SIZE], size);
        assert_eq!(image.config().rootfs.diff_ids[at], report.layers[at].diff_id);
        let (nodes, _) = mark_of(&layout, layer).await;
        assert!(nodes > 1);
    }
    let read: u64 = events
        .lock()
        .expect("lock")
        .iter()
        .map(|event| if let Progress::Read { bytes, .. } = event { *bytes } else { 0 })
        .sum();
    assert_eq!(read, report.layers.iter().map(|layer| layer.source_size).sum::<u64>());
}

#[tokio::test]
async fn recorded_files_come_first_and_the_result_converts_again() {
    let (src, dst) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    sample(src.path(), media_type::OCI_MANIFEST);
    let mut options = ConvertOptions::default();
    let first = ["etc/passwd", "bin/tool", "no/such"].map(str::to_owned);
    options.prioritized = Prioritized::everywhere(first.into_iter().collect());
    let first = convert(src.path(), dst.path(), &options).await;
    let image =
        ImageSource::open(&Access::layouts(), &location(dst.path(), "lazy"), &Platform::host())
            .await
            .expect("image");
    let layout = Layout::open(dst.path()).expect("layout");
    let (_, mark) = mark_of(&layout, &image.manifest().layers[0]).await;
    assert!(matches!(mark, PrefetchMark::UpTo(_)), "{mark:?}");

    let again = convert_image(
        &Access::layouts(),
        &location(dst.path(), "lazy"),
        &location(dst.path(), "2"),
        &options,
        |_| (),
    )
    .await
    .expect("converted again");
    assert_eq!(again.layers[0].source, first.layers[0].digest);
}

#[tokio::test]
async fn dockers_media_types_are_kept_or_made_ocis() {
    for (docker, manifest, layer) in [
        (true, media_type::DOCKER_MANIFEST, media_type::DOCKER_LAYER_GZIP),
        (false, media_type::OCI_MANIFEST, media_type::OCI_LAYER_GZIP),
    ] {
        let (src, dst) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        sample(src.path(), media_type::DOCKER_MANIFEST);
        convert(src.path(), dst.path(), &ConvertOptions { docker, ..ConvertOptions::default() })
            .await;
        let image =
            ImageSource::open(&Access::layouts(), &location(dst.path(), "lazy"), &Platform::host())
                .await
                .expect("image");
        assert_eq!(image.target().media_type, manifest);
        assert_eq!(image.manifest().media_type.as_deref(), Some(manifest));
        assert!(image.manifest().layers.iter().all(|l| l.media_type == layer));
    }
}

#[tokio::test]
async fn a_flipped_byte_of_the_source_leaves_no_image() {
    let (src, dst) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let layout = sample(src.path(), media_type::OCI_MANIFEST);
    let path = layout.blob_dir().join(LAYERS[0]);
    let mut blob = fs::read(&path).expect("blob");
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    fs::write(&path, blob).expect("write");
    let (from, to) = (location(src.path(), "org"), location(dst.path(), "lazy"));
    let error = convert_image(&Access::layouts(), &from, &to, &ConvertOptions::default(), |_| ())
        .await
        .expect_err("corrupt");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(Layout::open(dst.path()).expect("layout").resolve(Some("lazy")).is_err());
    let left: Vec<_> = fs::read_dir(dst.path().join("blobs/sha256"))
        .expect("dir")
        .filter_map(|entry| entry.expect("entry").file_name().into_string().ok())
        .filter(|name| name.len() != 64)
        .collect();
    assert!(left.is_empty(), "temporary files stay behind: {left:?}");
}

/// Sends one request over a connection of its own; gives status line with headers, and body.
async fn ask(server: std::net::SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut connection = TcpStream::connect(server).await.expect("connected");
    let text = format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("answer");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("headers") + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).expect("text").to_ascii_lowercase(), body)
}

#[tokio::test]
async fn a_layout_is_served_with_ranges_and_counted() {
    let dir = tempfile::tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    let blob = Arc::new(fs::read(layout.blob_dir().join(LAYERS[1])).expect("blob"));
    let server = serve(layout).await;
    let path = format!("/v2/a/b/blobs/sha256:{}", LAYERS[1]);

    let (head, body) = ask(server.address(), "GET /v2/a/b/manifests/org HTTP/1.1").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains(media_type::OCI_MANIFEST), "{head}");
    let by_digest = format!("HEAD /v2/a/b/manifests/{} HTTP/1.1", Digest::of(&body));
    let (head, empty) = ask(server.address(), &by_digest).await;
    assert!(
        head.contains(&format!("content-length: {}", body.len())) && empty.is_empty(),
        "{head}"
    );

    let size = blob.len();
    for (range, status, wanted) in [
        (String::new(), 200, 0..size),
        ("\r\nRange: bytes=3-9".to_owned(), 206, 3..10),
        ("\r\nRange: bytes=-7".to_owned(), 206, size - 7..size),
        (format!("\r\nRange: bytes={size}-"), 416, 0..0),
    ] {
        let (head, body) = ask(server.address(), &format!("GET {path} HTTP/1.1{range}")).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{range} {head}");
        assert_eq!(body, blob[wanted], "{range}");
    }
    let (head, _) = ask(server.address(), "GET /v2/a/blobs/sha256:00 HTTP/1.1").await;
    assert!(head.starts_with("http/1.1 400"), "{head}");
    let (head, _) = ask(server.address(), "GET /v2/a/manifests/none HTTP/1.1").await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    let counters = server.counters();
    assert_eq!((counters.requests, counters.blob_requests), (8, 3));
    assert_eq!(counters.blob_bytes, (size + 14) as u64);
    server.stop().await.expect("stopped");
}
