//! What a layer store keeps over restarts and damage.
use bolide_core::{ChunkIndex, ChunkKey, SlotFill, VerifiedChunk};

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
