//! What Remove and Cleanup leave, and what they must not touch.
use std::{fs, sync::Arc};

use tonic::Code;

use crate::{
    fakes::FakeLayers,
    mounted::may_mount,
    remote::Layer,
    support::{Daemon, Host, names},
};

/// Two lazy layers, one on the other.
async fn two_layers(daemon: &Daemon) -> (Layer, Layer) {
    let (base, top) = (Layer::new("base"), Layer::new("top"));
    for (parent, layer) in [("", &base), (&base.target, &top)] {
        let prepared = daemon.client.prepare("extract", parent, &layer.labels()).await;
        assert_eq!(prepared, Err(Code::AlreadyExists));
    }
    (base, top)
}

#[tokio::test]
async fn remove_forgets_and_cleanup_unmounts() {
    let (host, layers) = (Host::new(), Arc::<FakeLayers>::default());
    let daemon = host.start(&layers).await;
    let client = &daemon.client;
    let (base, top) = two_layers(&daemon).await;
    client.prepare("active", &top.target, &[]).await.expect("prepared");
    layers.take_calls();
    assert_eq!(client.remove(&base.target).await, Err(Code::FailedPrecondition));
    assert_eq!(client.remove(&top.target).await, Err(Code::FailedPrecondition));
    client.remove("active").await.expect("removed");
    client.remove(&top.target).await.expect("removed");
    assert!(layers.take_calls().is_empty(), "a Remove must be fast");
    assert_eq!(host.directories(), ["1", "2", "3"]);
    client.cleanup().await.expect("cleaned");
    assert_eq!(host.directories(), ["1"]);
    assert_eq!(layers.mounted().keys().collect::<Vec<_>>(), ["1"]);
    // A target that was removed can be prepared again, before its old mount is gone even.
    client.remove(&base.target).await.expect("removed");
    let again = client.prepare("extract", "", &base.labels()).await;
    assert_eq!(again, Err(Code::AlreadyExists));
    client.cleanup().await.expect("cleaned");
    assert_eq!(host.directories(), ["4"]);
}

#[tokio::test]
async fn what_is_in_use_goes_later() {
    let (host, layers) = (Host::new(), Arc::<FakeLayers>::default());
    let daemon = host.start(&layers).await;
    let client = &daemon.client;
    let (base, top) = two_layers(&daemon).await;
    layers.busy.lock().insert("2".to_owned());
    for layer in [&top, &base] {
        client.remove(&layer.target).await.expect("removed");
    }
    client.cleanup().await.expect("does what it can");
    assert_eq!(host.directories(), ["2"]);
    layers.busy.lock().clear();
    client.cleanup().await.expect("cleaned");
    assert!(host.directories().is_empty());
}

#[tokio::test]
async fn files_below_a_mount_are_not_ours_to_delete() {
    if !may_mount() {
        return;
    }
    let (host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    let precious = tempfile::tempdir().expect("dir");
    fs::write(precious.path().join("file"), "precious").expect("written");
    client.prepare("key", "", &[]).await.expect("prepared");
    let inside = host.snapshots().join("1/fs/inside");
    fs::create_dir(&inside).expect("made");
    rustix::mount::mount_bind(precious.path(), &inside).expect("bound");
    client.remove("key").await.expect("removed");
    client.cleanup().await.expect("does what it can");
    assert_eq!(names(precious.path()), ["file"]);
    bolide_fs::detach(&inside).expect("unmounted");
    client.cleanup().await.expect("cleaned");
    assert!(host.directories().is_empty());
}
