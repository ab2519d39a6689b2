//! What an observer is told of a layer that is used through a real FUSE mount.
#![allow(unsafe_code, reason = "memory is mapped, which is unsafe")]
use std::{fs, os::unix::fs::FileExt as _, path::Path, process::Command, ptr, sync::Arc};

use bolide_core::{
    MountOptions, MountRequest, Mounter as _,
    memory::{MemoryLayerBuilder, MemoryLayerStore, NodeMeta},
};
use bolide_fs::{AccessRecorder, FuseConfig, FuseMounter, Layer, Use, Uses};
use bolide_testkit::conformance::mounter::unmount_unused;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tokio::runtime::Handle;

const PAGE: usize = 4096;
const MOST: u64 = 40 * PAGE as u64;

async fn layer() -> Layer {
    let program = fs::read("/bin/true").expect("a program");
    let data = bolide_testkit::sample::noise(40 * PAGE + 100, 3);
    let made = MemoryLayerBuilder::default()
        .directory("dir", NodeMeta::with_perm(0o755))
        .and_then(|made| made.file("dir/data", &data, NodeMeta::with_perm(0o644)))
        .and_then(|made| made.file("dir/opened", b"never read", NodeMeta::with_perm(0o644)))
        .and_then(|made| made.file("dir/seen", b"never opened", NodeMeta::with_perm(0o644)))
        .and_then(|made| made.file("program", &program, NodeMeta::with_perm(0o755)))
        .and_then(|made| made.symlink("soft", "dir/data"))
        .expect("tree")
        .build();
    Layer::builder()
        .source(Arc::new(made.blob))
        .index(made.toc)
        .store(Arc::new(MemoryLayerStore::new()))
        .build()
        .await
        .expect("layer")
}

/// Uses everything but `dir/seen`.
fn use_it(root: &Path) {
    for name in ["dir", "dir/data", "dir/opened", "dir/seen", "program", "soft"] {
        fs::symlink_metadata(root.join(name)).expect("stat");
    }
    assert_eq!(fs::read_link(root.join("soft")).expect("link"), Path::new("dir/data"));
    assert_eq!(fs::read_dir(root.join("dir")).expect("lists").count(), 3);
    let data = fs::File::open(root.join("dir/data")).expect("opens");
    let mut some = [0; 10];
    data.read_exact_at(&mut some, 5 * PAGE as u64).expect("reads");
    data.read_exact_at(&mut some, 4 * PAGE as u64 - 5).expect("reads");
    // The tail, which is less than a page.
    data.read_exact_at(&mut some, MOST).expect("reads");
    touch(&data, 9);
    assert!(Command::new(root.join("program")).status().expect("executes").success());
    fs::File::open(root.join("dir/opened")).expect("opens");
}

/// Reads a byte of a page of a mapped file.
fn touch(file: &fs::File, page: usize) {
    let length = 40 * PAGE;
    // SAFETY: the kernel chooses a place where nothing is, the file is longer than what is mapped,
    // and the mapping is gone before anyone could keep a part of it.
    unsafe {
        let mapped = mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0)
            .expect("maps");
        mapped.cast::<u8>().add(page * PAGE).read_volatile();
        munmap(mapped, length).expect("unmaps");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_use_is_told_in_order_and_nothing_else() {
    let able = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    if !able || !rustix::process::geteuid().is_root() {
        bolide_testkit::skip("mounting needs root and /dev/fuse");
        return;
    }
    let target = tempfile::tempdir().expect("target");
    let request = MountRequest {
        id: "3".to_owned(),
        layer: layer().await.view(),
        target: target.path().to_owned(),
        options: MountOptions::default(),
    };
    let recorder = Arc::new(AccessRecorder::default());
    let fuse = FuseMounter::new(Handle::current(), FuseConfig::default()).with_observer(Arc::<
        AccessRecorder,
    >::clone(
        &recorder,
    ));
    let mounted = fuse.mount(request).await.expect("mounts");
    let root = target.path().to_owned();
    let used = tokio::task::spawn_blocking(move || use_it(&root)).await;
    let found = recorder.finish().expect("a record");
    unmount_unused(&*mounted).await.expect("unmounts");
    used.expect("no panic");

    let names: Vec<_> = found.iter().map(|used| used.path.to_str().expect("UTF-8")).collect();
    assert_eq!(names, ["soft", "dir", "dir/data", "program", "dir/opened"]);
    assert!(found.iter().all(|used| used.mount == "3"));
    let [soft, dir, data, program, opened] = found.as_slice() else { unreachable!() };
    let none = Uses::default();
    let is = |used: &Use, uses: Uses, ranges: &[std::ops::Range<u64>]| {
        assert_eq!((used.uses, &used.ranges[..]), (uses, ranges), "{}", used.path.display());
    };
    let page = |first: u64, last: u64| first * PAGE as u64..(last + 1) * PAGE as u64;
    is(soft, Uses { link_read: true, ..none }, &[]);
    is(dir, Uses { opened: true, listed: true, ..none }, &[]);
    is(data, Uses { opened: true, ..none }, &[page(3, 5), page(9, 9), MOST..MOST + 100]);
    is(opened, Uses { opened: true, ..none }, &[]);
    assert_eq!(program.uses, Uses { opened: true, ..none });
    assert_eq!(program.ranges.first().expect("its header").start, 0);
}
