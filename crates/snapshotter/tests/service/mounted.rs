//! The mounts a snapshotter answers with, performed as containerd does, and the trees they show.
use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use bolide_containerd_api::types::Mount;
use rustix::{
    fs::CWD,
    io,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_bind_recursive,
        mount_remount, move_mount, unmount,
    },
};
use tempfile::TempDir;

/// Whether this process may mount; says so if not.
pub(crate) fn may_mount() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        bolide_testkit::skip("mounting needs root");
    }
    is_root
}

/// A mounted snapshot; unmounted when dropped.
pub(crate) struct Mounted {
    dir: TempDir,
}

impl Mounted {
    pub(crate) fn new(mounts: &[Mount]) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let [mount] = mounts else { panic!("one mount: {mounts:?}") };
        match mount.r#type.as_str() {
            "bind" => bind(mount, dir.path()).expect("bound"),
            "overlay" => overlay(&mount.options, dir.path()).expect("overlaid"),
            other => panic!("mount type {other}"),
        }
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.dir.path(), UnmountFlags::DETACH).expect("unmounted");
    }
}

fn bind(mount: &Mount, target: &Path) -> io::Result<()> {
    mount_bind_recursive(mount.source.as_str(), target)?;
    if mount.options.iter().any(|option| option == "ro") {
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

/// mount(2) takes one page of options; what is longer goes in option by option, where containerd
/// changes into a common directory.
fn overlay(options: &[String], target: &Path) -> io::Result<()> {
    let data = options.join(",");
    if data.len() < 4096 {
        let data = CString::new(data).expect("no zero byte");
        return mount("overlay", target, "overlay", MountFlags::empty(), data.as_c_str());
    }
    let context: OwnedFd = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in options {
        match option.split_once('=').expect("key and value") {
            ("lowerdir", dirs) => {
                for dir in dirs.split(':') {
                    fsconfig_set_string(&context, "lowerdir+", dir)?;
                }
            }
            (key, value) => fsconfig_set_string(&context, key, value)?,
        }
    }
    fsconfig_create(&context)?;
    let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&made, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Everything below a directory: mode, owner, device, and content or link target, by name.
pub(crate) type Tree = BTreeMap<PathBuf, (u32, u32, u32, u64, Vec<u8>)>;

pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("directory") {
            let path = entry.expect("entry").path();
            let meta = fs::symlink_metadata(&path).expect("attributes");
            let content = if meta.is_file() {
                fs::read(&path).expect("content")
            } else if meta.is_symlink() {
                fs::read_link(&path).expect("link").into_os_string().into_encoded_bytes()
            } else {
                Vec::new()
            };
            let name = path.strip_prefix(root).expect("below").to_owned();
            found.insert(name, (meta.mode(), meta.uid(), meta.gid(), meta.rdev(), content));
            if meta.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}
