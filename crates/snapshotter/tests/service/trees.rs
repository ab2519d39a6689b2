//! Cases of containerd's suite about content: what layers put on each other show when mounted.
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink},
    path::Path,
};

use crate::{
    mounted::{Mounted, may_mount, tree},
    support::Daemon,
};

type Change = fn(&Path);

/// Makes a layer of each change, and compares what it shows, written to, committed and viewed, with
/// a plain directory that had the same changes.
async fn layers(changes: &[Change]) {
    if !may_mount() {
        return;
    }
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    let plain = tempfile::tempdir().expect("dir");
    let mut parent = String::new();
    for (number, change) in changes.iter().enumerate() {
        let (key, name) = (format!("key-{number}"), format!("layer-{number}"));
        let mounts = client.prepare(&key, &parent, &[]).await.expect("prepared");
        let mounted = Mounted::new(&mounts);
        assert_eq!(tree(mounted.path()), tree(plain.path()), "layer {number} before its change");
        change(mounted.path());
        change(plain.path());
        assert_eq!(tree(mounted.path()), tree(plain.path()), "layer {number} after its change");
        drop(mounted);
        client.commit(&name, &key, &[]).await.expect("committed");
        let view = client.view(&format!("view-{number}"), &name).await.expect("view");
        let viewed = Mounted::new(&view);
        assert_eq!(tree(viewed.path()), tree(plain.path()), "view of layer {number}");
        parent = name;
    }
}

fn file(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::write(&path, content).expect("written");
    // Whatever the umask.
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("mode");
}

fn dir(root: &Path, name: &str, mode: u32) {
    let path = root.join(name);
    fs::create_dir(&path).expect("made");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
}

fn owner(root: &Path, name: &str, uid: u32, gid: u32) {
    lchown(root.join(name), Some(uid), Some(gid)).expect("owned");
}

#[tokio::test]
async fn basic_trees() {
    layers(&[
        |root| {
            file(root, "foo", "foo\n");
            dir(root, "a", 0o755);
            dir(root, "a/b", 0o755);
            file(root, "a/b/file", "there");
            symlink("../foo", root.join("a/link")).expect("link");
        },
        |root| {
            file(root, "bar", "bar\n");
            file(root, "foo", "changed\n");
            fs::remove_dir_all(root.join("a/b")).expect("removed");
        },
        |root| fs::rename(root.join("bar"), root.join("baz")).expect("renamed"),
    ])
    .await;
}

#[tokio::test]
async fn layer_file_update() {
    layers(&[
        |root| {
            dir(root, "etc", 0o755);
            file(root, "etc/hosts", "mydomain 10.0.0.1");
            file(root, "etc/profile", "PATH=/usr/bin");
        },
        |root| {
            file(root, "etc/hosts", "mydomain 10.0.0.2");
            file(root, "etc/profile", "PATH=/usr/bin:/bin");
            dir(root, "root", 0o700);
            file(root, "root/.bashrc", "PATH=/usr/sbin");
        },
        |root| {
            fs::remove_file(root.join("etc/profile")).expect("removed");
            file(root, "root/.bashrc", "");
        },
    ])
    .await;
}

#[tokio::test]
async fn remove_directory_in_lower_layer() {
    layers(&[
        |root| {
            dir(root, "dir1", 0o700);
            file(root, "dir1/f1", "total");
            file(root, "f2", "two");
            fs::remove_file(root.join("dir1/f1")).expect("removed");
        },
        |root| {
            fs::remove_dir_all(root.join("dir1")).expect("removed");
            dir(root, "dir1", 0o700);
            file(root, "dir1/f3", "f3");
        },
        |root| fs::remove_dir_all(root.join("dir1")).expect("removed"),
    ])
    .await;
}

#[tokio::test]
async fn chown() {
    layers(&[
        |root| {
            dir(root, "opt", 0o700);
            dir(root, "opt/a", 0o700);
            dir(root, "opt/a/b", 0o700);
            file(root, "opt/a/b/file.txt", "hello");
        },
        |root| owner(root, "opt", 1, 1),
        |root| owner(root, "opt/a/b/file.txt", 2, 2),
    ])
    .await;
}

#[tokio::test]
async fn directory_permission_on_commit() {
    layers(&[
        |root| {
            for (number, name) in ["dir1", "dir2", "dir3", "dir4"].iter().enumerate() {
                dir(root, name, 0o700);
                let id = u32::try_from(number).expect("small") + 1;
                owner(root, name, id, id);
            }
        },
        |root| {
            owner(root, "dir1", 11, 11);
            file(root, "dir1/f", "in a directory that changed hands");
            file(root, "dir2/f", "in a directory that did not");
        },
        |root| {
            dir(root, "dir5", 0o1777);
            fs::set_permissions(root.join("dir3"), Permissions::from_mode(0o2711)).expect("mode");
            owner(root, "dir1/f", 3, 4);
        },
    ])
    .await;
}

#[tokio::test]
async fn deleted_files_in_child_snapshot() {
    layers(&[
        |root| {
            file(root, "foo", "foo\n");
            file(root, "bar", "bar\n");
        },
        |root| fs::remove_file(root.join("foo")).expect("removed"),
        |root| file(root, "foo", "again\n"),
    ])
    .await;
}

#[tokio::test]
async fn move_file_from_lower_layer() {
    layers(&[
        |root| {
            dir(root, "dir1", 0o700);
            file(root, "dir1/f1", "hello");
            dir(root, "dir2", 0o700);
        },
        |root| fs::rename(root.join("dir1/f1"), root.join("dir2/f1")).expect("moved"),
    ])
    .await;
}

#[tokio::test]
async fn rename() {
    layers(&[
        |root| {
            dir(root, "somefiles", 0o700);
            file(root, "somefiles/f1", "was here first!");
            file(root, "somefiles/f2", "nothing interesting");
        },
        |root| {
            file(root, "somefiles/f1-overwrite", "new content 1");
            fs::rename(root.join("somefiles/f1-overwrite"), root.join("somefiles/f1"))
                .expect("over the lower one");
            dir(root, "fresh", 0o755);
            file(root, "fresh/f", "f");
            fs::rename(root.join("fresh"), root.join("renamed")).expect("renamed");
        },
    ])
    .await;
}

#[tokio::test]
async fn hard_links() {
    fn same(root: &Path, one: &str, other: &str) -> bool {
        let inode = |name| fs::metadata(root.join(name)).expect("there").ino();
        inode(one) == inode(other)
    }
    layers(&[
        |root| {
            file(root, "one", "linked");
            fs::hard_link(root.join("one"), root.join("two")).expect("linked");
        },
        |root| {
            assert!(same(root, "one", "two"));
            fs::hard_link(root.join("two"), root.join("three")).expect("linked");
            assert!(same(root, "two", "three"));
            fs::remove_file(root.join("one")).expect("removed");
        },
    ])
    .await;
}

#[tokio::test]
async fn root_permission() {
    if !may_mount() {
        return;
    }
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    let mounted = Mounted::new(&client.prepare("key", "", &[]).await.expect("prepared"));
    assert_eq!(fs::metadata(mounted.path()).expect("root").mode() & 0o7777, 0o755);
    // Who owns the root of a layer owns the roots above it.
    owner(mounted.path(), ".", 7, 8);
    drop(mounted);
    client.commit("base", "key", &[]).await.expect("committed");
    for mounts in [client.prepare("above", "base", &[]).await, client.view("view", "base").await] {
        let mounted = Mounted::new(&mounts.expect("mounts"));
        let root = fs::metadata(mounted.path()).expect("root");
        assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (7, 8, 0o755));
    }
}

#[tokio::test]
async fn view_is_read_only() {
    if !may_mount() {
        return;
    }
    let (host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    client.committed("one", "").await;
    client.committed("two", "one").await;
    for (key, parent) in [("of nothing", ""), ("of one", "one"), ("of two", "two")] {
        let mounted = Mounted::new(&client.view(key, parent).await.expect("view"));
        let refused = fs::write(mounted.path().join("file"), "x").expect_err(key);
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{key}");
    }
    let work = |id: &str| host.snapshots().join(id).join("work").try_exists().expect("looked");
    assert_eq!(["1", "2", "3", "4", "5"].map(work), [true, true, false, false, false]);
}

#[tokio::test]
async fn a_hundred_and_twenty_eight_layers() {
    if !may_mount() {
        return;
    }
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    let mut parent = String::new();
    for number in 0..128 {
        let key = format!("key-{number}");
        let mounts = client.prepare(&key, &parent, &[]).await.expect("prepared");
        let mounted = Mounted::new(&mounts);
        let path = mounted.path();
        for below in 0..number {
            let content = fs::read_to_string(path.join(format!("file-{below}")));
            assert_eq!(content.expect("of a lower layer"), format!("layer {below}"));
        }
        let bottom = fs::read_to_string(path.join("bottom")).unwrap_or_default();
        assert_eq!(bottom, parent, "what the layer below wrote");
        parent = format!("layer-{number}");
        file(path, "bottom", &parent);
        file(path, &format!("file-{number}"), &format!("layer {number}"));
        drop(mounted);
        client.commit(&parent, &key, &[]).await.expect("committed");
    }
    let viewed = Mounted::new(&client.view("view", &parent).await.expect("view"));
    assert_eq!(tree(viewed.path()).len(), 129);
}

#[tokio::test]
async fn usage_is_what_a_layer_adds() {
    if !may_mount() {
        return;
    }
    let (_host, daemon) = Daemon::plain().await;
    let client = &daemon.client;
    let base = Mounted::new(&client.prepare("key", "", &[]).await.expect("prepared"));
    let empty = client.usage("key").await.expect("measured");
    assert_eq!(empty.1, 1, "the root");
    file(base.path(), "big", &"x".repeat(1 << 20));
    fs::hard_link(base.path().join("big"), base.path().join("again")).expect("linked");
    let (size, inodes) = client.usage("key").await.expect("measured");
    assert_eq!(inodes, 2);
    assert!((1 << 20..1 << 21).contains(&size), "{size}");
    drop(base);
    client.commit("base", "key", &[]).await.expect("committed");
    assert_eq!(client.usage("base").await, Ok((size, inodes)));
    client.prepare("above", "base", &[]).await.expect("prepared");
    assert_eq!(client.usage("above").await.expect("measured").1, 1);
    client.view("view", "base").await.expect("view");
    assert_eq!(client.usage("view").await, Ok((0, 0)));
    assert_eq!(client.usage("gone").await, Err(tonic::Code::NotFound));
}
