//! What a process sees of a mounted layer, through a real FUSE mount.
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bolide_cache::{DiskLayerConfig, DiskLayerStore, MemoryCache};
use bolide_core::{
    BlobOpener as _, BlobRef, BlobSource, Digest, LayerStore, MountOptions, MountRequest, Mounted,
    Mounter as _, memory::MemoryBlob,
};
use bolide_estargz::{BlobFormat, BuildOptions, TAIL_HINT, TocTrust, convert_layer, open_layer};
use bolide_fs::{FuseConfig, FuseMounter, Layer};
use bolide_testkit::{
    conformance::mounter::unmount_unused,
    fault::{FaultySource, SourceFault},
    sample::noise,
};
use proptest::prelude::*;
use tokio::{runtime::Handle, task::spawn_blocking};

/// A tar as a container image has it, with whiteouts, and its files' contents.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(50);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).expect("link");
        }
        if kind.is_character_special() {
            header.set_device_major(1).expect("major");
            header.set_device_minor(5).expect("minor");
        }
        tar.append_data(&mut header, path, content).expect("entry");
    };
    let big = bolide_testkit::sample::noise(300_000, 11);
    add("dir", tar::EntryType::Directory, 0o750, "", b"");
    add("dir/big", tar::EntryType::Regular, 0o644, "", &big);
    add("dir/small", tar::EntryType::Regular, 0o4755, "", b"small file\n");
    add("dir/empty", tar::EntryType::Regular, 0o600, "", b"");
    add("hard", tar::EntryType::Link, 0o644, "dir/big", b"");
    add("soft", tar::EntryType::Symlink, 0o777, "dir/small", b"");
    add("zero", tar::EntryType::Char, 0o666, "", b"");
    add("pipe", tar::EntryType::Fifo, 0o622, "", b"");
    add("gone/.wh.below", tar::EntryType::Regular, 0o644, "", b"");
    add("kept/.wh.both", tar::EntryType::Regular, 0o644, "", b"");
    add("kept/both", tar::EntryType::Regular, 0o644, "", b"upper\n");
    add("opaque/.wh..wh..opq", tar::EntryType::Regular, 0o644, "", b"");
    add("opaque/new", tar::EntryType::Regular, 0o644, "", b"new\n");
    tar.into_inner().expect("tar")
}

struct Shown {
    target: tempfile::TempDir,
    mounted: Box<dyn Mounted>,
    source: Arc<FaultySource>,
    _root: tempfile::TempDir,
}

impl Shown {
    fn path(&self, name: &str) -> PathBuf {
        self.target.path().join(name)
    }
}

/// Mounts the layer, its blob behind a fault; whether it is cached in memory as well is `tier`.
async fn show(fault: SourceFault, tier: bool) -> Shown {
    show_tar(&tar(), fault, tier).await
}

async fn show_tar(tar: &[u8], fault: SourceFault, tier: bool) -> Shown {
    let options = BuildOptions { chunk_size: 100_000, ..BuildOptions::default() };
    show_converted(tar, options, fault, tier).await
}

async fn show_converted(
    tar: &[u8],
    options: BuildOptions,
    fault: SourceFault,
    tier: bool,
) -> Shown {
    let mut blob = Vec::new();
    let report = convert_layer(&mut &tar[..], &mut blob, &options, None).expect("converts");
    let blob = MemoryBlob::new(blob);
    let wanted = BlobRef { digest: blob.digest(), size: None };
    let opened = blob.open(wanted, TAIL_HINT).await.expect("opens");
    let layer = open_layer(&opened, TocTrust::Digest(report.toc_digest.expect("a TOC")))
        .await
        .expect("layer");
    let source = Arc::new(FaultySource::new(Arc::new(blob), fault));
    let root = tempfile::tempdir().expect("root");
    let store: Arc<dyn LayerStore> =
        DiskLayerStore::open(root.path().to_owned(), DiskLayerConfig::default())
            .await
            .expect("store");
    let mut builder = Layer::builder()
        .source(Arc::<FaultySource>::clone(&source))
        .index(layer.index)
        .store(store);
    if tier {
        builder = builder.cache(Arc::new(MemoryCache::new(1 << 20)));
    }
    let target = tempfile::tempdir().expect("target");
    let request = MountRequest {
        id: target.path().display().to_string(),
        layer: builder.build().await.expect("layer").view(),
        target: target.path().to_owned(),
        options: MountOptions { allow_other: true, ..MountOptions::default() },
    };
    let fuse = FuseMounter::new(Handle::current(), FuseConfig::default());
    let mounted = fuse.mount(request).await.expect("mounts");
    Shown { target, mounted, source, _root: root }
}

/// Says loudly when this machine cannot run the test.
fn privileged() -> bool {
    let able = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok()
        && rustix::process::geteuid().is_root();
    if !able {
        bolide_testkit::skip("mounting needs root and /dev/fuse");
    }
    able
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_is_the_tars() {
    if !privileged() {
        return;
    }
    for tier in [false, true] {
        let shown = show(SourceFault::None, tier).await;
        let root = shown.target.path().to_owned();
        blocking(move || check_tree(&root)).await;
        assert!(shown.source.requests() > 0);
        unmount_unused(&*shown.mounted).await.expect("unmounts");
    }
}

fn check_tree(root: &Path) {
    let stat = |name: &str| {
        fs::symlink_metadata(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let big = stat("dir/big");
    assert_eq!((big.mode(), big.uid(), big.gid(), big.nlink()), (0o100_644, 1000, 50, 2));
    assert_eq!((big.mtime(), big.len(), big.blocks()), (1_600_000_000, 300_000, 592));
    assert_eq!(stat("hard").ino(), big.ino());
    let content = fs::read(root.join("dir/big")).expect("reads");
    assert_eq!(Digest::of(&content), Digest::of(&bolide_testkit::sample::noise(300_000, 11)));
    assert_eq!(stat("dir/small").mode(), 0o104_755);
    assert_eq!(fs::read(root.join("soft")).expect("through the link"), b"small file\n");
    assert_eq!(fs::read_link(root.join("soft")).expect("link"), Path::new("dir/small"));
    assert_eq!(fs::read(root.join("dir/empty")).expect("reads"), b"");
    assert!(stat("zero").file_type().is_char_device() && stat("zero").rdev() == 0x105);
    assert!(stat("pipe").file_type().is_fifo());
    assert_eq!(stat("dir").nlink(), 2);
    // The root's subdirectories are dir, gone, kept and opaque.
    assert_eq!(stat("").nlink(), 6);
    let names = |dir: &str| -> Vec<String> {
        let listed = fs::read_dir(root.join(dir)).expect("lists");
        let mut names: Vec<_> = listed
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["dir", "gone", "hard", "kept", "opaque", "pipe", "soft", "zero"]);
    assert_eq!(names("gone"), ["below"]);
    assert!(stat("gone/below").file_type().is_char_device() && stat("gone/below").rdev() == 0);
    assert_eq!(names("kept"), ["both"]);
    assert_eq!(names("opaque"), ["new"]);
    for hidden in ["gone/.wh.below", ".no.prefetch.landmark", "stargz.index.json", "nothing"] {
        let error = fs::symlink_metadata(root.join(hidden)).expect_err(hidden);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{hidden}");
    }
    let state = fs::read_dir(root.join(".stargz-snapshotter")).expect("hidden, not absent").next();
    let state = fs::read_to_string(state.expect("one file").expect("entry").path()).expect("state");
    assert!(state.starts_with("{\"digest\":\"sha256:") && state.ends_with("}\n"), "{state}");
    assert!(fs::write(root.join("new"), b"x").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlayfs_understands_whiteouts() {
    if !privileged() {
        return;
    }
    let shown = show(SourceFault::None, false).await;
    let scratch = tempfile::tempdir().expect("scratch");
    let at = |name: &str| scratch.path().join(name);
    for file in ["lower/gone/below", "lower/gone/stays", "lower/kept/both", "lower/opaque/old"] {
        fs::create_dir_all(at(file).parent().expect("parent")).expect("dirs");
        fs::write(at(file), "lower\n").expect("file");
    }
    fs::create_dir(at("merged")).expect("merged");
    let options = format!("lowerdir={}:{}", shown.target.path().display(), at("lower").display());
    let merged = at("merged");
    let mount = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged)
        .status();
    assert!(mount.expect("mount").success());
    let seen = merged.clone();
    let found = blocking(move || {
        let is = |name: &str| seen.join(name).try_exists().expect("stat");
        let both = fs::read_to_string(seen.join("kept/both")).expect("reads");
        (is("gone/below"), is("gone/stays"), is("opaque/old"), is("opaque/new"), both)
    });
    let found = found.await;
    // An overlay holds the layer without its name: content must still come.
    unmount_unused(&*shown.mounted).await.expect("unmounts");
    let small = merged.join("dir/small");
    let late = blocking(move || fs::read(small)).await;
    assert!(Command::new("umount").arg(&merged).status().expect("umount").success());
    assert_eq!(found, (false, true, false, true, "upper\n".to_owned()));
    assert_eq!(late.expect("still served"), b"small file\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_fails_one_file_and_no_other() {
    if !privileged() {
        return;
    }
    // Offset 1500 lies in the first chunk of the noise, which gzip cannot make smaller.
    let shown = show(SourceFault::Flipped(1500), true).await;
    let (big, small) = (shown.path("dir/big"), shown.path("dir/small"));
    let (first, second, tail, other) = blocking(move || {
        let read = || fs::read(&big).map(|_| ()).map_err(|error| error.raw_os_error());
        let mut tail = Vec::new();
        let mut file = fs::File::open(&big).expect("opens");
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(200_000)).expect("seeks");
        file.read_to_end(&mut tail).expect("another chunk");
        (read(), read(), tail.len(), fs::read(small).expect("another file"))
    })
    .await;
    assert_eq!((first, second), (Err(Some(libc::EIO)), Err(Some(libc::EIO))));
    assert_eq!((tail, &other[..]), (100_000, &b"small file\n"[..]));
    unmount_unused(&*shown.mounted).await.expect("unmounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_blob_is_gone_does_not_look_absent() {
    if !privileged() {
        return;
    }
    let shown = show(SourceFault::Gone, false).await;
    let small = shown.path("dir/small");
    let error = blocking(move || fs::read(small)).await.expect_err("gone");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    unmount_unused(&*shown.mounted).await.expect("unmounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_fault_passes() {
    if !privileged() {
        return;
    }
    let shown = show(SourceFault::Broken(1), false).await;
    let small = shown.path("dir/small");
    // The kernel asks again by itself after a failed read-ahead, so that either read may succeed.
    let reads = blocking(move || [fs::read(&small), fs::read(&small)]).await;
    assert_eq!(reads[1].as_deref().expect("works again"), b"small file\n");
    assert!(shown.source.requests() >= 2, "the first request was broken");
    unmount_unused(&*shown.mounted).await.expect("unmounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_one_chunk_share_a_fetch() {
    if !privileged() {
        return;
    }
    let shown = show(SourceFault::None, false).await;
    let readers = (0..16).map(|_| {
        let small = shown.path("dir/small");
        blocking(move || fs::read(small).expect("reads"))
    });
    for content in futures::future::join_all(readers).await {
        assert_eq!(content, b"small file\n");
    }
    assert_eq!(shown.source.requests(), 1);
    unmount_unused(&*shown.mounted).await.expect("unmounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fuse_probes_itself() {
    if !privileged() {
        return;
    }
    FuseMounter::new(Handle::current(), FuseConfig::default())
        .probe()
        .await
        .expect("this machine can");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_runs_with_its_attributes() {
    if !privileged() {
        return;
    }
    let program = fs::read("/bin/true").expect("a program");
    let mut tar = tar::Builder::new(Vec::new());
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let attributes = [
        ("SCHILY.xattr.user.note", &b"a note"[..]),
        ("SCHILY.xattr.security.capability", capability),
    ];
    tar.append_pax_extensions(attributes).expect("attributes");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    tar.append_data(&mut header, "true", &program[..]).expect("entry");
    let shown = show_tar(&tar.into_inner().expect("tar"), SourceFault::None, false).await;
    let path = shown.path("true");
    let (ran, note, held) = blocking(move || {
        let mut note = [0; 16];
        let len = rustix::fs::getxattr(&path, "user.note", &mut note).expect("attribute");
        let short = rustix::fs::getxattr(&path, "user.note", &mut [0; 2]);
        assert_eq!(short.expect_err("too small"), rustix::io::Errno::RANGE);
        let absent = rustix::fs::getxattr(&path, "user.absent", &mut [0; 2]);
        assert_eq!(absent.expect_err("absent"), rustix::io::Errno::NODATA);
        let mut held = [0; 64];
        let held_len = rustix::fs::getxattr(&path, "security.capability", &mut held).expect("held");
        let ran = Command::new(&path).status().expect("executes");
        (ran, note[..len].to_vec(), held[..held_len].to_vec())
    })
    .await;
    assert!(ran.success());
    assert_eq!((&note[..], &held[..]), (&b"a note"[..], &capability[..]));
    unmount_unused(&*shown.mounted).await.expect("unmounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_in_use_stays_and_an_asked_end_is_no_loss() {
    if !privileged() {
        return;
    }
    let shown = show(SourceFault::None, false).await;
    let open = fs::File::open(shown.path("dir")).expect("opens");
    let error = shown.mounted.unmount().await.expect_err("in use");
    assert_eq!(error.kind(), bolide_core::ErrorKind::FailedPrecondition);
    let small = shown.path("dir/small");
    assert_eq!(blocking(move || fs::read(small)).await.expect("still there"), b"small file\n");
    drop(open);
    unmount_unused(&*shown.mounted).await.expect("unmounts");
    let waited = tokio::time::timeout(std::time::Duration::from_millis(100), shown.mounted.lost());
    assert!(waited.await.is_err(), "an end that was asked for is no loss");

    let taken = show(SourceFault::None, false).await;
    bolide_fs::detach(taken.target.path()).expect("detaches");
    assert_eq!(taken.mounted.lost().await.kind(), bolide_core::ErrorKind::Unavailable);
}

/// Ends the connection behind a mount, as an operator may who wants a hanging one gone.
fn abort(mount: &Path) {
    let device = fs::metadata(mount).expect("mounted").dev();
    let control = tempfile::tempdir().expect("dir");
    let run = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(args).arg(control.path()).status();
        assert!(ran.expect("runs").success(), "{program}");
    };
    run("mount", &["-t", "fusectl", "none"]);
    let abort = control.path().join(rustix::fs::minor(device).to_string()).join("abort");
    let aborted = fs::write(abort, "1");
    run("umount", &[]);
    aborted.expect("aborts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_died_is_out_of_the_way() {
    if !privileged() {
        return;
    }
    let shown = show(SourceFault::None, false).await;
    let target = shown.target.path().to_owned();
    let in_use = fs::File::open(&target).expect("opens");
    blocking(move || abort(&target)).await;
    assert_eq!(shown.mounted.lost().await.kind(), bolide_core::ErrorKind::Unavailable);
    // Where a dead mount lies nothing can be mounted, looked at or removed.
    let target = shown.target.path().to_owned();
    let left = blocking(move || fs::read_dir(target).map(Iterator::count)).await;
    assert_eq!(left.expect("an ordinary directory"), 0);
    drop(in_use);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fuse_conforms() {
    if !privileged() {
        return;
    }
    let root = tempfile::tempdir().expect("root");
    let lab =
        bolide_testkit::conformance::mounter::Lab { root: root.path().to_owned(), shows: true };
    let fuse = FuseMounter::new(Handle::current(), FuseConfig::default());
    bolide_testkit::conformance::mounter::all(&fuse, &lab).await.expect("conforms");
}

/// What a path of a random tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Dir,
    File(Vec<u8>),
    Link(String),
}

/// A node as a process sees it: what it is, mode, owner, modification time.
type Seen = (Kind, u32, u32, i64);

/// A tree of nodes with their modes, owners and times, in which only directories have children.
fn any_tree() -> impl Strategy<Value = BTreeMap<PathBuf, Seen>> {
    let part = prop_oneof!["[a-c]", "[a-zé ]{5,40}"];
    let path = prop::collection::vec(part, 1..4).prop_map(|parts| parts.iter().collect());
    let runs = prop::collection::vec((any::<bool>(), 0..30_000_usize, any::<u64>()), 0..4);
    let content = runs.prop_map(|runs| {
        let run = |(zeros, len, seed)| if zeros { vec![0; len] } else { noise(len, seed) };
        runs.into_iter().flat_map(run).collect::<Vec<u8>>()
    });
    let kind = prop_oneof![
        1 => Just(Kind::Dir),
        6 => content.prop_map(Kind::File),
        // What the tar crate leaves as it is.
        1 => "[a-z]{1,20}(/[a-z]{1,20}){0,3}".prop_map(Kind::Link),
    ];
    let node = (kind, 0..0o10_000_u32, 0..70_000_u32, 1..2_000_000_000_i64);
    prop::collection::btree_map(path, node, 0..25).prop_map(|mut tree: BTreeMap<PathBuf, Seen>| {
        let is_file = |node: &Seen| node.0 != Kind::Dir;
        let files: Vec<PathBuf> =
            tree.iter().filter(|(_, node)| is_file(node)).map(|(path, _)| path.clone()).collect();
        tree.retain(|path, _| !files.iter().any(|file| path != file && path.starts_with(file)));
        tree
    })
}

fn tar_of(tree: &BTreeMap<PathBuf, Seen>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, (kind, mode, owner, mtime)) in tree {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid((*owner).into());
        header.set_gid((*owner).into());
        header.set_mtime((*mtime).cast_unsigned());
        header.set_size(0);
        let added = match kind {
            Kind::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, path, &[][..])
            }
            Kind::File(content) => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, &content[..])
            }
            Kind::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target)
            }
        };
        added.expect("in memory");
    }
    tar.into_inner().expect("in memory")
}

/// Compares what is mounted with what was packed; directories that no entry names may be there too.
fn compare(root: &Path, tree: &BTreeMap<PathBuf, Seen>) {
    for (path, (kind, mode, owner, mtime)) in tree {
        let (full, shown) = (root.join(path), path.display());
        let found = fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let seen = if found.is_dir() {
            Kind::Dir
        } else if found.is_symlink() {
            Kind::Link(fs::read_link(&full).expect("link").to_str().expect("UTF-8").to_owned())
        } else {
            Kind::File(fs::read(&full).expect("reads"))
        };
        assert!(seen == *kind, "{shown} is another");
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid(), found.mtime()),
            (*mode, *owner, *owner, *mtime),
            "{shown}"
        );
    }
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("lists") {
            let path = entry.expect("entry").path();
            let relative = path.strip_prefix(root).expect("below");
            let implied = tree.keys().any(|known| known.starts_with(relative));
            assert!(implied, "{} is in no entry", relative.display());
            if path.symlink_metadata().expect("is there").is_dir() {
                todo.push(path);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_tree_is_mounted_as_it_was_packed(
        tree in any_tree(),
        chunk_size in 1000..200_000_u64,
        min_chunk_size in prop_oneof![Just(0_u64), 1..20_000_u64],
    ) {
        if !privileged() {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let tar = tar_of(&tree);
        for format in
            [BlobFormat::Estargz, BlobFormat::ZstdChunked, BlobFormat::ZstdChunkedPodman]
        {
            let packed = if format == BlobFormat::ZstdChunkedPodman { 0 } else { min_chunk_size };
            let options =
                BuildOptions { format, chunk_size, min_chunk_size: packed, ..Default::default() };
            let (tar, tree) = (tar.clone(), tree.clone());
            runtime.block_on(async move {
                let shown = show_converted(&tar, options, SourceFault::None, false).await;
                let root = shown.target.path().to_owned();
                blocking(move || compare(&root, &tree)).await;
                unmount_unused(&*shown.mounted).await.expect("unmounts");
            });
        }
    }
}
