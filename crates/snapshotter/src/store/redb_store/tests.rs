//! The store keeps containerd's rules, and everything over a restart.
use std::{io, sync::atomic::AtomicBool};

use parking_lot::Mutex;

use super::*;
use crate::lifecycle::Kind;

/// A disk that is full at times. Clones share it.
#[derive(Clone, Debug, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        let full = self.full.load(Ordering::SeqCst);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn at(offset: u64) -> usize {
        usize::try_from(offset).expect("small")
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.bytes.lock()[Self::at(offset)..][..out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room()?;
        self.bytes.lock().resize(Self::at(len), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.bytes.lock()[Self::at(offset)..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[tokio::test]
async fn a_disk_that_was_full_is_used_again() {
    let disk = Disk::default();
    let backend = disk.clone();
    let store = RedbStore::open_with(move || {
        let opened = Database::builder().create_with_backend(backend.clone());
        opened.map_err(|error| opening(error, Path::new("memory")))
    });
    let store = store.await.expect("opened");
    made(&store, "base", "", Kind::Committed).await;
    disk.full.store(true, Ordering::SeqCst);
    let refused = store.create(new(&store, "a", "base", Kind::Active)).await.expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::Exhausted);
    let again = store.create(new(&store, "a", "base", Kind::Active)).await;
    again.expect_err("it still is");
    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(store.get("base").await.expect("still there").name, "base");
    let last = made(&store, "b", "base", Kind::Active).await.snapshot.id;
    assert!(store.next_id() > last);
}

fn new(store: &RedbStore, name: &str, parent: &str, kind: Kind) -> NewSnapshot {
    let labels = Labels::from([("for".to_owned(), name.to_owned())]);
    NewSnapshot { id: store.next_id(), name: name.into(), parent: parent.into(), kind, labels }
}

async fn made(store: &RedbStore, name: &str, parent: &str, kind: Kind) -> Lineage {
    store.create(new(store, name, parent, kind)).await.expect(name)
}

#[tokio::test]
async fn snapshots_survive_a_restart_and_ids_grow() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("metadata.redb");
    let store = RedbStore::open(&path).await.expect("opened");
    made(&store, "a", "", Kind::Active).await;
    let done = Usage { size: 7, inodes: 2 };
    store.commit("a", "base", done, Labels::new()).await.expect("committed");
    made(&store, "b", "base", Kind::Active).await;
    let last = made(&store, "c", "", Kind::View).await.snapshot.id;
    store.remove("c").await.expect("removed");
    let before = store.list().await.expect("listed");
    let taken = RedbStore::open(&path).await.expect_err("one owner");
    assert_eq!(taken.kind(), ErrorKind::FailedPrecondition);
    drop(store);
    let store = RedbStore::open(&path).await.expect("opened again");
    assert_eq!(store.list().await.expect("listed"), before);
    assert_eq!(before.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["b", "base"]);
    assert_eq!(store.get("base").await.expect("found").usage, done);
    assert!(store.next_id() > last);
}

#[tokio::test]
async fn children_keep_their_parent() {
    let dir = tempfile::tempdir().expect("dir");
    let store = RedbStore::open(&dir.path().join("metadata.redb")).await.expect("opened");
    made(&store, "base", "", Kind::Committed).await;
    // A name that only begins like the parent's is no child of it.
    made(&store, "base2", "", Kind::Committed).await;
    made(&store, "x", "base2", Kind::Active).await;
    let child = made(&store, "child", "base", Kind::Active).await;
    assert_eq!(child.ancestors.len(), 1);
    let refused = store.remove("base").await.expect_err("has a child");
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(refused.context("child"), Some("child"));
    // The child keeps its place under another name.
    store.commit("child", "done", Usage::default(), Labels::new()).await.expect("committed");
    assert_eq!(store.remove("base").await.expect_err("child").context("child"), Some("done"));
    store.remove("done").await.expect("leaf");
    store.remove("base").await.expect("leaf by now");
    assert_eq!(store.remove("base").await.expect_err("gone").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_refused_change_leaves_no_trace() {
    let dir = tempfile::tempdir().expect("dir");
    let store = RedbStore::open(&dir.path().join("metadata.redb")).await.expect("opened");
    made(&store, "a", "", Kind::Active).await;
    let before = store.list().await.expect("listed");
    for (name, parent, kind) in [
        ("a", "", ErrorKind::AlreadyExists),
        ("b", "gone", ErrorKind::NotFound),
        ("b", "a", ErrorKind::Malformed),
        ("", "", ErrorKind::Malformed),
        ("x\0y", "", ErrorKind::Malformed),
    ] {
        let refused = store.create(new(&store, name, parent, Kind::Active)).await;
        assert_eq!(refused.expect_err("refused").kind(), kind, "{name:?} on {parent:?}");
    }
    let wrong = store.update("a", Labels::new(), vec!["parent".into()]).await;
    assert_eq!(wrong.expect_err("refused").kind(), ErrorKind::Malformed);
    assert_eq!(store.list().await.expect("listed"), before);
}
