//! Cases of containerd's suite about names, kinds and status codes.
use bolide_containerd_api::snapshots::Kind;
use tonic::Code;

use crate::support::{Daemon, identity};

#[tokio::test]
async fn basic() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.prepare("preparing", "", &[]).await.expect("prepared");
    client.commit("committed", "preparing", &[]).await.expect("committed");
    let info = client.stat("committed").await.expect("there");
    assert_eq!(identity(&info), ("committed", "", Kind::Committed));
    assert_eq!(client.stat("preparing").await, Err(Code::NotFound));
    client.prepare("next", "committed", &[]).await.expect("prepared");
    assert_eq!(identity(&client.stat("next").await.expect("there")).2, Kind::Active);
    client.commit("next-committed", "next", &[]).await.expect("committed");
    let info = client.stat("next-committed").await.expect("there");
    assert_eq!(identity(&info), ("next-committed", "committed", Kind::Committed));
    assert_eq!(client.names(&[]).await, ["committed", "next-committed"]);
    client.view("view", "next-committed").await.expect("view");
    assert_eq!(client.remove("next-committed").await, Err(Code::FailedPrecondition));
    for name in ["view", "next-committed", "committed"] {
        client.remove(name).await.expect(name);
    }
    assert!(client.names(&[]).await.is_empty());
}

#[tokio::test]
async fn stat_active_and_committed() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.prepare("active", "", &[("a", "1")]).await.expect("prepared");
    let active = client.stat("active").await.expect("there");
    assert_eq!(identity(&active), ("active", "", Kind::Active));
    assert_eq!(active.labels["a"], "1");
    client.commit("done", "active", &[]).await.expect("committed");
    let done = client.stat("done").await.expect("there");
    assert_eq!(identity(&done), ("done", "", Kind::Committed));
    assert!(done.labels.is_empty(), "labels are replaced, not inherited");
    let seconds = |time: &Option<bolide_containerd_api::prost_types::Timestamp>| {
        time.as_ref().map_or(0, |time| time.seconds)
    };
    assert!(seconds(&done.created_at) >= seconds(&active.created_at));
    assert_eq!(done.created_at, done.updated_at);
    client.view("view", "done").await.expect("view");
    assert_eq!(identity(&client.stat("view").await.expect("there")), ("view", "done", Kind::View));
}

#[tokio::test]
async fn transitivity() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.committed("a", "").await;
    client.committed("b", "a").await;
    assert_eq!(client.stat("a").await.expect("there").parent, "");
    assert_eq!(client.stat("b").await.expect("there").parent, "a");
    assert_eq!(client.remove("a").await, Err(Code::FailedPrecondition));
    client.stat("a").await.expect("still there");
}

#[tokio::test]
async fn prepare_and_view_that_must_fail() {
    let (host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.prepare("active", "", &[]).await.expect("prepared");
    client.committed("base", "").await;
    client.view("view", "base").await.expect("view");
    let before = (client.names(&[]).await, host.directories());
    for (key, parent, code) in [
        ("new", "active", Code::InvalidArgument),
        ("new", "view", Code::InvalidArgument),
        ("new", "gone", Code::NotFound),
        ("active", "", Code::AlreadyExists),
        ("active", "base", Code::AlreadyExists),
        ("view", "base", Code::AlreadyExists),
        ("base", "", Code::AlreadyExists),
        ("", "base", Code::InvalidArgument),
    ] {
        let prepared = client.prepare(key, parent, &[]).await;
        assert_eq!(prepared, Err(code), "prepare {key:?} on {parent:?}");
        assert_eq!(client.view(key, parent).await, Err(code), "view {key:?} on {parent:?}");
    }
    let long = "k".repeat(5000);
    assert_eq!(client.prepare(&long, "", &[]).await, Err(Code::InvalidArgument));
    assert_eq!((client.names(&[]).await, host.directories()), before, "nothing is left behind");
}

#[tokio::test]
async fn commit_that_must_fail() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.committed("base", "").await;
    client.prepare("active", "base", &[]).await.expect("prepared");
    client.view("view", "base").await.expect("view");
    for (name, key, code) in [
        ("new", "gone", Code::NotFound),
        ("new", "view", Code::FailedPrecondition),
        ("new", "base", Code::FailedPrecondition),
        ("base", "active", Code::AlreadyExists),
        ("view", "active", Code::AlreadyExists),
        ("", "active", Code::InvalidArgument),
    ] {
        assert_eq!(client.commit(name, key, &[]).await, Err(code), "{key:?} as {name:?}");
    }
    // Another parent at commit is containerd's parallel unpacking, which is not offered here.
    assert_eq!(client.commit_on("n", "active", "x", &[]).await, Err(Code::Unimplemented));
    client.commit_on("n", "active", "base", &[]).await.expect("its own parent");
}

#[tokio::test]
async fn mounts_of_what_has_none() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.committed("base", "").await;
    assert_eq!(client.mounts("base").await, Err(Code::FailedPrecondition));
    assert_eq!(client.mounts("gone").await, Err(Code::NotFound));
    let prepared = client.prepare("active", "base", &[]).await.expect("prepared");
    assert_eq!(client.mounts("active").await, Ok(prepared));
    let viewed = client.view("view", "base").await.expect("view");
    assert_eq!(client.mounts("view").await, Ok(viewed));
}

#[tokio::test]
async fn remove() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.committed("base", "").await;
    client.prepare("child", "base", &[]).await.expect("prepared");
    assert_eq!(client.remove("base").await, Err(Code::FailedPrecondition));
    client.remove("child").await.expect("an active one can go");
    client.view("view", "base").await.expect("view");
    assert_eq!(client.remove("base").await, Err(Code::FailedPrecondition));
    client.remove("view").await.expect("a view can go");
    client.remove("base").await.expect("no children any more");
    assert_eq!(client.remove("base").await, Err(Code::NotFound));
    // The name is free again.
    client.committed("base", "").await;
}

#[tokio::test]
async fn remove_intermediate_snapshot() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.committed("base", "").await;
    client.committed("middle", "base").await;
    client.prepare("top", "middle", &[]).await.expect("prepared");
    for name in ["middle", "base"] {
        assert_eq!(client.remove(name).await, Err(Code::FailedPrecondition), "{name}");
    }
    for name in ["top", "middle", "base"] {
        client.remove(name).await.expect(name);
    }
}

#[tokio::test]
async fn stat_within_a_walk_and_pages_of_a_hundred() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    assert!(client.pages(&[]).await.expect("listed").is_empty());
    for number in 0..205 {
        client.prepare(&format!("key-{number:03}"), "", &[]).await.expect("prepared");
    }
    let pages = client.pages(&[]).await.expect("listed");
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 5]);
    for info in pages.into_iter().flatten() {
        assert_eq!(client.stat(&info.name).await, Ok(info));
    }
}

#[tokio::test]
async fn closing_twice() {
    let (host, daemon) = Daemon::plain().await;
    daemon.client.committed("base", "").await;
    daemon.client.cleanup().await.expect("once");
    daemon.client.cleanup().await.expect("twice");
    daemon.stop().await;
    let daemon = host.start(&std::sync::Arc::default()).await;
    assert_eq!(daemon.client.names(&[]).await, ["base"]);
    daemon.stop().await;
}
