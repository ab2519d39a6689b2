//! Layouts on disk, honest and broken.
use bolide_testkit::conformance;
use tempfile::TempDir;

use super::*;

fn layout(blob: &[u8]) -> (TempDir, Digest) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let digest = Digest::of(blob);
    let blobs = dir.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("created");
    std::fs::write(blobs.join(digest.hex()), blob).expect("written");
    (dir, digest)
}

#[tokio::test]
async fn a_file_keeps_the_contract() {
    let truth: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
    let (dir, digest) = layout(&truth);
    let place = OciLayoutOpener::new(dir.path());
    let opened = place.open(BlobRef { digest, size: None }, 1000).await.expect("opened");
    assert_eq!(opened.tail, truth[truth.len() - 1000..]);
    conformance::blob_source::all(opened.source, truth.into()).await.expect("conforms");
}

#[tokio::test]
async fn opening_checks_existence_and_size() {
    let (dir, digest) = layout(b"blob");
    let place = OciLayoutOpener::new(dir.path());
    let whole = place.open(BlobRef { digest, size: Some(4) }, 100).await.expect("opened");
    assert_eq!(whole.tail, "blob");
    let error = place.open(BlobRef { digest, size: Some(5) }, 0).await.expect_err("wrong size");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let absent = BlobRef { digest: Digest::of(b"x"), size: None };
    let error = place.open(absent, 0).await.expect_err("absent");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn blobs_are_bounded_and_checked() {
    let (dir, digest) = layout(b"blob");
    let layout = OciLayout::new(dir.path());
    assert_eq!(layout.blob(digest, 4).await.expect("fits"), "blob");
    let error = layout.blob(digest, 3).await.expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    std::fs::write(layout.blob_path(digest), b"blog").expect("written");
    let error = layout.blob(digest, 4).await.expect_err("changed");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn the_index_lists_manifests() {
    let (dir, digest) = layout(b"blob");
    let index =
        format!(r#"{{"manifests": [{{"mediaType": "m", "digest": "{digest}", "size": 4}}]}}"#);
    std::fs::write(dir.path().join("index.json"), index).expect("written");
    let layout = OciLayout::new(dir.path());
    assert_eq!(layout.index().await.expect("valid").manifests[0].digest, digest);
    std::fs::write(dir.path().join("index.json"), "{}").expect("written");
    let error = layout.index().await.expect_err("no manifests");
    assert_eq!(error.kind(), ErrorKind::Malformed);
}
