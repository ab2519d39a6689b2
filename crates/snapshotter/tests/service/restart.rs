//! A daemon that starts on what an earlier one left.
use std::{fs, sync::Arc};

use bolide_core::{Error, ErrorKind};
use bolide_snapshotter::SnapshotService;
use tonic::Code;

use crate::{
    fakes::{FakeLayers, LEARNED},
    mounted::{Mounted, may_mount},
    remote::Layer,
    support::{Daemon, Host, names},
};

/// Three lazy layers, an ordinary one above, a container and a view on top.
async fn fill(daemon: &Daemon) -> String {
    let client = &daemon.client;
    let mut parent = String::new();
    for name in ["a", "b", "c"] {
        let layer = Layer::new(name);
        let prepared = client.prepare("extract", &parent, &layer.labels()).await;
        assert_eq!(prepared, Err(Code::AlreadyExists));
        parent = layer.target;
    }
    client.committed("ordinary", &parent).await;
    client.prepare("container", "ordinary", &[("its", "label")]).await.expect("prepared");
    client.view("view", "ordinary").await.expect("view");
    parent
}

#[tokio::test]
async fn every_snapshot_comes_back() {
    let host = Host::new();
    let before = Arc::<FakeLayers>::default();
    let daemon = host.start(&before).await;
    fill(&daemon).await;
    let client = &daemon.client;
    let state = (client.list(&[]).await, client.mounts("container").await);
    let directories = host.directories();
    daemon.stop().await;
    // As if it had been killed at work.
    for stray in ["new-7", "new-3", "99", "rubbish"] {
        fs::create_dir_all(host.snapshots().join(stray).join("fs/deep")).expect("made");
    }
    let after = Arc::<FakeLayers>::default();
    let daemon = host.start(&after).await;
    let client = &daemon.client;
    assert_eq!((client.list(&[]).await, client.mounts("container").await), state);
    assert_eq!(host.directories(), directories);
    let mut wanted = before.mounted();
    for (request, _) in wanted.values_mut() {
        // What was found out of the layer is not asked again.
        request.trust = Some(LEARNED);
    }
    assert_eq!(after.mounted(), wanted, "the same requests on the same directories");
    // Ids of before are not used again.
    client.prepare("new", "", &[]).await.expect("prepared");
    assert_eq!(host.directories().len(), directories.len() + 1);
    daemon.stop().await;
}

#[tokio::test]
async fn snapshots_of_another_program_are_left_alone() {
    let host = Host::new();
    let theirs = host.root().join("snapshots/1/fs/etc");
    fs::create_dir_all(&theirs).expect("made");
    let layers = Arc::<FakeLayers>::default();
    let opened = SnapshotService::open(&host.root(), host.store().await, layers);
    let error = opened.expect_err("not ours");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("another root"), "{error}");
    assert!(theirs.is_dir());
}

#[tokio::test]
async fn a_layer_that_cannot_come_back_does_not_stop_the_start() {
    let host = Host::new();
    let daemon = host.start(&Arc::default()).await;
    let lazy = fill(&daemon).await;
    daemon.stop().await;
    // Even its directory is gone.
    fs::remove_dir_all(host.snapshots().join("2")).expect("removed");
    let layers = Arc::<FakeLayers>::default();
    *layers.refuse.lock() = Some(Error::new(ErrorKind::Unavailable, "fake", "no registry"));
    layers.lost.lock().extend(["1", "2", "3"].map(str::to_owned));
    let daemon = host.start(&layers).await;
    let mut calls = layers.take_calls();
    calls.retain(|call| call.starts_with("restore"));
    calls.sort();
    assert_eq!(calls, ["restore 1", "restore 2", "restore 3"]);
    assert!(host.directories().contains(&"2".to_owned()));
    assert_eq!(daemon.client.mounts("container").await, Err(Code::Unavailable));
    assert_eq!(daemon.client.prepare("more", &lazy, &[]).await, Err(Code::Unavailable));
    layers.lost.lock().clear();
    daemon.client.mounts("container").await.expect("a check brought them back");
}

#[tokio::test]
async fn mounts_of_a_dead_daemon_are_replaced() {
    if !may_mount() {
        return;
    }
    let (old, new) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    for (dir, content) in [(&old, "old"), (&new, "new")] {
        fs::create_dir(dir.path().join("1")).expect("made");
        fs::write(dir.path().join("1/file"), content).expect("written");
    }
    let host = Host::new();
    let daemon = host.start(&Arc::new(FakeLayers::binding(old.path()))).await;
    let top = fill(&daemon).await;
    let shown = Mounted::new(&daemon.client.view("look", &top).await.expect("view"));
    assert_eq!(fs::read_to_string(shown.path().join("file")).expect("shown"), "old");
    drop(shown);
    // It ends without unmounting anything.
    daemon.stop().await;
    let layers = Arc::new(FakeLayers::binding(new.path()));
    let daemon = host.start(&layers).await;
    let shown = Mounted::new(&daemon.client.mounts("look").await.expect("mounts"));
    assert_eq!(fs::read_to_string(shown.path().join("file")).expect("shown"), "new");
    drop(shown);
    for name in ["look", "view", "container", "ordinary"] {
        daemon.client.remove(name).await.expect(name);
    }
    for name in ["c", "b", "a"] {
        daemon.client.remove(&Layer::new(name).target).await.expect(name);
    }
    daemon.client.cleanup().await.expect("cleaned");
    assert!(host.directories().is_empty());
    for dir in [&old, &new] {
        assert_eq!(names(&dir.path().join("1")), ["file"], "only unmounted");
    }
}
