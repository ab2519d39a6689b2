//! Cases of containerd's suite about labels: updates and the filters of a walk.
use tonic::Code;

use crate::support::Daemon;

#[tokio::test]
async fn update() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.prepare("key", "", &[("a", "1"), ("b", "2")]).await.expect("prepared");
    client.commit("name", "key", &[("a", "1"), ("b", "2")]).await.expect("committed");
    client.prepare("active", "name", &[("a", "1"), ("b", "2")]).await.expect("prepared");
    for name in ["name", "active"] {
        let before = client.stat(name).await.expect("there");
        let sorted = |info: bolide_containerd_api::snapshots::Info| {
            let mut labels: Vec<_> = info.labels.into_iter().collect();
            labels.sort();
            labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
        };
        let one = client.update(name, &[("c", "3"), ("a", "9")], &["labels.c"]).await;
        assert_eq!(sorted(one.expect("one label")), ["a=1", "b=2", "c=3"]);
        let gone = client.update(name, &[], &["labels.a"]).await;
        assert_eq!(sorted(gone.expect("one gone")), ["b=2", "c=3"]);
        let all = client.update(name, &[("d", "4")], &["labels"]).await;
        assert_eq!(sorted(all.expect("all labels")), ["d=4"]);
        let all = client.update(name, &[("e", "5")], &[]).await;
        assert_eq!(sorted(all.expect("everything")), ["e=5"]);
        for path in ["name", "parent", "kind", "created_at", "label", ""] {
            let refused = client.update(name, &[("x", "1")], &[path]).await;
            assert_eq!(refused, Err(Code::InvalidArgument), "{path}");
        }
        let after = client.stat(name).await.expect("there");
        assert_eq!(sorted(after.clone()), ["e=5"]);
        assert_eq!((after.created_at, &after.parent), (before.created_at, &before.parent));
        let nanoseconds = |time: Option<bolide_containerd_api::prost_types::Timestamp>| {
            time.map(|time| (time.seconds, time.nanos))
        };
        assert!(nanoseconds(after.updated_at) > nanoseconds(before.updated_at));
    }
    assert_eq!(client.update("gone", &[], &[]).await, Err(Code::NotFound));
}

#[tokio::test]
async fn walk() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    let key_label = ("label", "value");
    client.prepare("preparing", "", &[key_label]).await.expect("prepared");
    client.commit("a", "preparing", &[key_label, ("only", "a")]).await.expect("committed");
    client.committed("a/b", "a").await;
    client.prepare("work", "a/b", &[("for \"work\"", "x,y")]).await.expect("prepared");
    client.view("look", "a/b").await.expect("view");
    for (filters, expected) in [
        (&[][..], &["a", "a/b", "look", "work"][..]),
        (&[""], &["a", "a/b", "look", "work"]),
        (&["parent==a"], &["a/b"]),
        (&["name==a"], &["a"]),
        (&["name==look", "name==work"], &["look", "work"]),
        (&["kind==active"], &["work"]),
        (&["kind==view"], &["look"]),
        (&["kind==committed"], &["a", "a/b"]),
        (&["kind==committed,parent==a"], &["a/b"]),
        (&["kind!=committed"], &["look", "work"]),
        (&["parent==a/b,kind!=view"], &["work"]),
        (&["labels.label==value"], &["a"]),
        (&["labels.only"], &["a"]),
        (&["labels.\"for \\\"work\\\"\"==\"x,y\""], &["work"]),
        (&["name~=/^a/"], &["a", "a/b"]),
        (&["name~=|^a/.|"], &["a/b"]),
        (&["parent==nobody"], &[]),
    ] {
        assert_eq!(client.names(filters).await, expected, "{filters:?}");
    }
    for wrong in ["name=a", "name==\"a", "name~=/(/"] {
        assert_eq!(client.list(&[wrong]).await.err(), Some(Code::InvalidArgument), "{wrong}");
    }
}

#[tokio::test]
async fn what_the_service_says_cannot_be_said_by_a_client() {
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    let lies = [
        (bolide_snapshotter::labels::REMOTE, "remote snapshot"),
        (bolide_snapshotter::labels::NOT_LAZY, "no reason"),
    ];
    client.prepare("key", "", &lies).await.expect("prepared");
    assert!(client.stat("key").await.expect("there").labels.is_empty());
    client.commit("name", "key", &lies).await.expect("committed");
    assert!(client.stat("name").await.expect("there").labels.is_empty());
    assert!(client.update("name", &lies, &[]).await.expect("updated").labels.is_empty());
    client.prepare("child", "name", &[]).await.expect("its parent is an ordinary layer");
}
