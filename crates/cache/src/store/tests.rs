//! What a layer store keeps over restarts and damage.
mod crashes;
mod model;
mod tree;
mod world;

use std::fs;

use bolide_core::{ChunkIndex, ChunkKey, Presence, SlotFill, VerifiedChunk};

use super::*;

fn spec(name: &str) -> (ImageSpec, Bytes) {
    let bytes = Bytes::from(bolide_testkit::sample::noise(10_000, 5));
    let keys = [ChunkKey::of(&bytes[..6000]), ChunkKey::of(&bytes[6000..])];
    let slots = vec![
        ChunkSlot { index: ChunkIndex(0), image_offset: 0, key: keys[0] },
        ChunkSlot { index: ChunkIndex(1), image_offset: 6000, key: keys[1] },
    ];
    (ImageSpec { toc: Digest::of(name.as_bytes()), size: 12_288, slots }, bytes)
}

async fn store(root: &Path) -> Arc<DiskLayerStore> {
    DiskLayerStore::open(root.to_owned(), DiskLayerConfig::default()).await.expect("opens")
}

async fn fill(image: &dyn LayerImage, spec: &ImageSpec, bytes: &Bytes) {
    let chunk = VerifiedChunk::verify(spec.slots[0].key, bytes.slice(..6000)).expect("verified");
    image.fill(&spec.slots[0], chunk).await.expect("fills");
}

#[tokio::test]
async fn conforms() {
    let root = tempfile::tempdir().expect("root");
    bolide_testkit::conformance::layer_store::all(store(root.path()).await)
        .await
        .expect("conforms");
}

#[tokio::test]
async fn what_was_closed_is_found_again() {
    let root = tempfile::tempdir().expect("root");
    let (spec, bytes) = spec("again");
    let first = store(root.path()).await;
    fill(&*first.open(spec.clone()).await.expect("opens"), &spec, &bytes).await;
    first.close().await;
    drop(first);
    let second = store(root.path()).await;
    let image = second.open(spec.clone()).await.expect("opens");
    assert_eq!(image.presence().chunks, 1);
    let mut buf = [0; 6000];
    assert!(image.try_read(&spec.slots[0], 0, &mut buf).expect("reads"));
    assert_eq!(buf[..], bytes[..6000]);
    assert!(!image.is_present(ChunkIndex(1)));
    // Its content serves other layers after the restart, too.
    let (twin, _) = self::spec("twin");
    let target = second.open(twin.clone()).await.expect("opens");
    assert!(second.copy_local(&*target, &twin.slots[0]).await.expect("copies"));
}

#[tokio::test]
async fn damaged_records_are_made_anew() {
    let root = tempfile::tempdir().expect("root");
    let (spec, bytes) = spec("damaged");
    let record = root.path().join("layers").join(spec.toc.hex()).join("presence");
    for damage in [&b""[..], b"short", &[0xff; 41]] {
        let store = store(root.path()).await;
        let image = store.open(spec.clone()).await.expect("opens");
        assert_eq!(image.presence().chunks, 0);
        fill(&*image, &spec, &bytes).await;
        store.close().await;
        fs::write(&record, damage).expect("damage");
    }
}

#[tokio::test]
async fn damaged_content_is_not_copied() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path()).await;
    let (spec, bytes) = spec("rotten");
    let image = store.open(spec.clone()).await.expect("opens");
    fill(&*image, &spec, &bytes).await;
    let data = root.path().join("layers").join(spec.toc.hex()).join("data");
    let mut rotten = fs::read(&data).expect("data");
    rotten[5999] ^= 1;
    fs::write(&data, rotten).expect("rot");
    let (twin, _) = self::spec("twin");
    let target = store.open(twin.clone()).await.expect("opens");
    assert!(!store.copy_local(&*target, &twin.slots[0]).await.expect("no copy"));
    assert!(!target.is_present(ChunkIndex(0)));
}

#[tokio::test]
async fn a_store_has_one_process() {
    let root = tempfile::tempdir().expect("root");
    let _first = store(root.path()).await;
    let second = DiskLayerStore::open(root.path().to_owned(), DiskLayerConfig::default()).await;
    assert_eq!(second.err().map(|error| error.kind()), Some(ErrorKind::FailedPrecondition));
}

#[tokio::test]
async fn a_fill_waits_for_the_writer_of_its_slot() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path()).await;
    let (spec, bytes) = spec("exclusive");
    let image = store.open(spec.clone()).await.expect("opens");
    let mut writer =
        SlotFill::begin(&*image, &spec.slots[0]).await.expect("begins").expect("absent");
    writer.write(Bytes::from(vec![7; 3000])).await.expect("writes");
    let mut waiting = Box::pin(fill(&*image, &spec, &bytes));
    assert!(futures::poll!(&mut waiting).is_pending());
    writer.write(Bytes::from(vec![7; 3000])).await.expect("writes");
    assert!(writer.finish().await.is_err());
    waiting.await;
    let mut buf = [0; 6000];
    assert!(image.try_read(&spec.slots[0], 0, &mut buf).expect("reads"));
    assert_eq!(buf[..], bytes[..6000]);
}

/// Runs a future up to its first wait and gives it up there.
async fn give_up<T>(future: impl Future<Output = T>) {
    let mut future = Box::pin(future);
    assert!(futures::poll!(&mut future).is_pending());
}

/// A runtime whose only blocking thread the test can keep busy.
fn narrow() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1).build().expect("runtime")
}

#[test]
fn a_write_that_was_given_up_keeps_its_slot() {
    narrow().block_on(async {
        let root = tempfile::tempdir().expect("root");
        let store = store(root.path()).await;
        let (spec, bytes) = spec("given up");
        let image = store.open(spec.clone()).await.expect("opens");
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv().is_ok());
        let mut writer =
            SlotFill::begin(&*image, &spec.slots[0]).await.expect("begins").expect("absent");
        give_up(writer.write(Bytes::from(vec![7; 6000]))).await;
        drop(writer);
        // The wrong bytes are still to be written: no other fill may begin before they were.
        let mut next = Box::pin(image.writer(&spec.slots[0]));
        assert!(futures::poll!(&mut next).is_pending());
        release.send(()).expect("busy");
        assert!(busy.await.expect("released"));
        drop(next.await.expect("begins"));
        fill(&*image, &spec, &bytes).await;
        let mut buf = [0; 6000];
        assert!(image.try_read(&spec.slots[0], 0, &mut buf).expect("reads"));
        assert_eq!(buf[..], bytes[..6000]);
    });
}

#[test]
fn a_fill_that_was_given_up_keeps_its_slot() {
    narrow().block_on(async {
        let root = tempfile::tempdir().expect("root");
        let store = store(root.path()).await;
        let (spec, bytes) = spec("fill given up");
        let image = store.open(spec.clone()).await.expect("opens");
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv().is_ok());
        give_up(fill(&*image, &spec, &bytes)).await;
        let mut next = Box::pin(image.writer(&spec.slots[0]));
        assert!(futures::poll!(&mut next).is_pending());
        release.send(()).expect("busy");
        assert!(busy.await.expect("released"));
        assert!(next.await.expect("begins").is_none(), "the fill went on and is complete");
    });
}

#[test]
fn a_torn_writer_commits_nothing() {
    narrow().block_on(async {
        let root = tempfile::tempdir().expect("root");
        let store = store(root.path()).await;
        let (spec, bytes) = spec("torn");
        let image = store.open(spec.clone()).await.expect("opens");
        let mut writer = image.writer(&spec.slots[0]).await.expect("begins").expect("absent");
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv().is_ok());
        give_up(writer.write(bytes.slice(..6000))).await;
        release.send(()).expect("busy");
        assert!(busy.await.expect("released"));
        let again = writer.write(bytes.slice(..6000)).await;
        assert_eq!(again.err().map(|error| error.kind()), Some(ErrorKind::FailedPrecondition));
    });
}

#[tokio::test]
async fn a_streamed_chunk_serves_other_layers() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path()).await;
    let (spec, bytes) = spec("streamed");
    let image = store.open(spec.clone()).await.expect("opens");
    let mut writer =
        SlotFill::begin(&*image, &spec.slots[0]).await.expect("begins").expect("absent");
    writer.write(bytes.slice(..6000)).await.expect("writes");
    writer.finish().await.expect("matches");
    let (twin, _) = self::spec("twin");
    let target = store.open(twin.clone()).await.expect("opens");
    assert!(store.copy_local(&*target, &twin.slots[0]).await.expect("copies"));
}

#[tokio::test]
async fn a_slot_of_another_layer_is_not_read() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path()).await;
    let (spec, bytes) = spec("foreign");
    let image = store.open(spec.clone()).await.expect("opens");
    fill(&*image, &spec, &bytes).await;
    // Number 0 is present, the hole it points to is not.
    let moved = ChunkSlot { image_offset: 6000, ..spec.slots[0] };
    let read = image.try_read(&moved, 0, &mut [0; 100]);
    assert_eq!(read.err().map(|error| error.kind()), Some(ErrorKind::Malformed));
}

#[tokio::test]
async fn an_image_keeps_the_root_locked() {
    let root = tempfile::tempdir().expect("root");
    let first = store(root.path()).await;
    let image = first.open(spec("held").0).await.expect("opens");
    first.close().await;
    drop(first);
    let open = || DiskLayerStore::open(root.path().to_owned(), DiskLayerConfig::default());
    assert_eq!(open().await.err().map(|error| error.kind()), Some(ErrorKind::FailedPrecondition));
    drop(image);
    assert!(open().await.is_ok());
}

#[tokio::test]
async fn concurrent_artifacts_stay_whole() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path()).await;
    let toc = Digest::of(b"artifacts");
    let versions: Vec<Bytes> =
        (1..=16).map(|n| Bytes::from(vec![n; 40_000 * n as usize])).collect();
    let puts = versions.iter().map(|bytes| store.put_artifact(toc, Artifact::Toc, bytes.clone()));
    futures::future::try_join_all(puts).await.expect("all are put");
    let found = store.artifact(toc, Artifact::Toc).await.expect("reads").expect("is there");
    assert!(versions.contains(&found));
}

#[tokio::test]
async fn layers_nobody_has_open_serve_others_and_are_counted() {
    let root = tempfile::tempdir().expect("root");
    let (spec, bytes) = spec("left");
    let first = store(root.path()).await;
    fill(&*first.open(spec.clone()).await.expect("opens"), &spec, &bytes).await;
    first.close().await;
    drop(first);
    let second = store(root.path()).await;
    let listed = second.list().await.expect("lists");
    let expected = Presence { chunks: 1, chunks_total: 2, bytes: 6000, bytes_total: 10_000 };
    assert_eq!(listed.iter().map(|usage| usage.presence).collect::<Vec<_>>(), [expected]);
    assert!(listed[0].disk_bytes >= 6000);
    let (twin, _) = self::spec("twin of left");
    let target = second.open(twin.clone()).await.expect("opens");
    assert!(second.copy_local(&*target, &twin.slots[0]).await.expect("copies"));
    assert!(!second.copy_local(&*target, &twin.slots[1]).await.expect("nobody has it"));
    let mut buf = [0; 6000];
    assert!(target.try_read(&twin.slots[0], 0, &mut buf).expect("reads"));
    assert_eq!(buf[..], bytes[..6000]);
    // Complete layers are counted without looking at each chunk.
    let rest = VerifiedChunk::verify(twin.slots[1].key, bytes.slice(6000..)).expect("verified");
    target.fill(&twin.slots[1], rest).await.expect("fills");
    target.sync().await.expect("syncs");
    drop(target);
    second.close().await;
    let listed = second.list().await.expect("lists");
    let whole = listed.iter().find(|usage| usage.toc == twin.toc).expect("listed");
    assert!(whole.presence.is_complete() && whole.presence.bytes == 10_000);
}

#[tokio::test]
async fn a_layer_may_be_removed_under_its_readers() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path()).await;
    let (spec, bytes) = spec("removed");
    let old = store.open(spec.clone()).await.expect("opens");
    fill(&*old, &spec, &bytes).await;
    store.remove(spec.toc).await.expect("removes");
    let new = store.open(spec.clone()).await.expect("opens");
    let mut buf = [0; 6000];
    assert!(old.try_read(&spec.slots[0], 0, &mut buf).expect("reads"), "readers go on");
    assert_eq!(buf[..], bytes[..6000]);
    assert_eq!(new.presence().chunks, 0);
    // What the old one still does is nothing to the new one.
    let rest = VerifiedChunk::verify(spec.slots[1].key, bytes.slice(6000..)).expect("verified");
    old.fill(&spec.slots[1], rest).await.expect("fills");
    old.sync().await.expect("syncs");
    assert_eq!(new.presence().chunks, 0);
    assert!(!store.copy_local(&*new, &spec.slots[0]).await.expect("what is removed is no source"));
    drop((old, new));
    store.close().await;
    drop(store);
    let again = self::store(root.path()).await.open(spec).await.expect("opens");
    assert_eq!(again.presence().chunks, 0);
}

#[tokio::test]
async fn what_was_not_finished_is_cleared_away() {
    let root = tempfile::tempdir().expect("root");
    let (spec, bytes) = spec("unfinished");
    let first = store(root.path()).await;
    fill(&*first.open(spec.clone()).await.expect("opens"), &spec, &bytes).await;
    first.close().await;
    drop(first);
    let layers = root.path().join("layers");
    let half = layers.join(spec.toc.hex()).join("toc.json.new");
    let doomed = layers.join(format!(".removed-{}", Digest::of(b"doomed").hex()));
    fs::write(&half, "half").expect("leftover");
    fs::create_dir(&doomed).expect("leftover");
    fs::write(doomed.join("data"), "data").expect("leftover");
    fs::write(layers.join("stray"), "somebody else's").expect("stray");
    let second = store(root.path()).await;
    assert!(!half.try_exists().expect("looks"));
    assert!(!doomed.try_exists().expect("looks"));
    assert_eq!(second.list().await.expect("lists").len(), 1);
    assert_eq!(second.open(spec).await.expect("opens").presence().chunks, 1);
}

#[tokio::test]
async fn a_lost_shape_is_written_again() {
    let root = tempfile::tempdir().expect("root");
    let (spec, bytes) = spec("shapeless");
    let shape = root.path().join("layers").join(spec.toc.hex()).join("shape");
    for damage in [None, Some(&b"no shape"[..])] {
        let store = store(root.path()).await;
        fill(&*store.open(spec.clone()).await.expect("opens"), &spec, &bytes).await;
        store.close().await;
        drop(store);
        fs::remove_file(&shape).expect("removes");
        if let Some(damage) = damage {
            fs::write(&shape, damage).expect("damages");
        }
        let store = self::store(root.path()).await;
        assert_eq!(store.list().await.expect("lists")[0].presence, Presence::default());
        let image = store.open(spec.clone()).await.expect("opens");
        assert_eq!(image.presence().chunks, 1, "the data is still good");
        drop(image);
        store.close().await;
        drop(store);
        let store = self::store(root.path()).await;
        assert_eq!(store.list().await.expect("lists")[0].presence.chunks, 1);
    }
}
