//! What is in a directory after a layer was unpacked into it.
use std::{
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use super::*;

struct Maker(tar::Builder<Vec<u8>>);

impl Maker {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(&mut self, path: &str, kind: tar::EntryType, mode: u32, content: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        let owner = rustix::process::getuid().as_raw();
        header.set_uid(owner.into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name(content).expect("link");
        } else {
            header.set_size(content.len() as u64);
        }
        // As it stands: `append_data` would refuse names that lead elsewhere.
        header.as_gnu_mut().expect("gnu").name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        let content = if header.size().expect("size") == 0 { "" } else { content };
        self.0.append(&header, content.as_bytes()).expect("entry");
    }

    fn file(&mut self, path: &str, content: &str) {
        self.add(path, tar::EntryType::Regular, 0o644, content);
    }

    fn unpack(self) -> (tempfile::TempDir, Result<Unpacked>) {
        unpack(&self.0.into_inner().expect("tar"))
    }
}

fn unpack(layer: &[u8]) -> (tempfile::TempDir, Result<Unpacked>) {
    let dir = tempfile::tempdir().expect("dir");
    let options = UnpackOptions { opaque: OpaqueXattr::User, lenient: true };
    let unpacked = unpack_layer(&mut &layer[..], dir.path(), options);
    (dir, unpacked)
}

#[test]
fn files_links_modes_and_times_are_the_tars() {
    let mut tar = Maker::new();
    tar.add("dir/", tar::EntryType::Directory, 0o750, "");
    tar.add("dir/program", tar::EntryType::Regular, 0o4755, "content");
    tar.add("hard", tar::EntryType::Link, 0o644, "dir/program");
    tar.add("soft", tar::EntryType::Symlink, 0o777, "dir/program");
    tar.add("pipe", tar::EntryType::Fifo, 0o622, "");
    tar.file("parent/of/none", "made");
    let (dir, unpacked) = tar.unpack();
    assert_eq!(unpacked.expect("unpacked"), Unpacked { entries: 6, bytes: 11 });
    let stat = |name: &str| fs::symlink_metadata(dir.path().join(name)).expect(name);
    for (name, mode) in [("dir", 0o40750), ("dir/program", 0o104_755), ("pipe", 0o10622)] {
        assert_eq!((stat(name).mode(), stat(name).mtime()), (mode, 1_600_000_000), "{name}");
    }
    assert_eq!((stat("hard").ino(), stat("hard").nlink()), (stat("dir/program").ino(), 2));
    assert_eq!(fs::read_to_string(dir.path().join("soft")).expect("read"), "content");
    assert_eq!(stat("soft").mtime(), 1_600_000_000);
    assert_eq!(fs::read_to_string(dir.path().join("parent/of/none")).expect("read"), "made");
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let mut tar = Maker::new();
    tar.file("a/.wh.gone", "");
    tar.file("a/kept", "new");
    tar.file("a/.wh.kept", "");
    tar.add("b", tar::EntryType::Directory, 0o755, "");
    tar.file("b/.wh..wh..opq", "");
    let (dir, unpacked) = tar.unpack();
    unpacked.expect("unpacked");
    let gone = fs::symlink_metadata(dir.path().join("a/gone")).expect("whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read_to_string(dir.path().join("a/kept")).expect("read"), "new");
    let mut value = [0; 8];
    let length = rustix::fs::lgetxattr(dir.path().join("b"), "user.overlay.opaque", &mut value);
    assert_eq!(&value[..length.expect("attribute")], b"y");
}

#[test]
fn names_that_lead_out_are_left_out() {
    let outside = tempfile::tempdir().expect("dir");
    let mut tar = Maker::new();
    tar.file("../up", "x");
    tar.file("a/../../up", "x");
    tar.add("link", tar::EntryType::Symlink, 0o777, outside.path().to_str().expect("path"));
    tar.file("link/file", "x");
    tar.file("link/.wh.file", "");
    tar.add("link/pipe", tar::EntryType::Fifo, 0o644, "");
    tar.file("/absolute", "inside");
    let (dir, unpacked) = tar.unpack();
    unpacked.expect("unpacked");
    assert_eq!(fs::read_dir(outside.path()).expect("dir").count(), 0);
    assert!(!dir.path().with_file_name("up").try_exists().expect("stat"));
    assert_eq!(fs::read_to_string(dir.path().join("absolute")).expect("read"), "inside");
}

#[test]
fn each_compression_is_read_and_broken_ones_are_refused() {
    let mut tar = Maker::new();
    tar.file("file", "content");
    let plain = tar.0.into_inner().expect("tar");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("compressed");
    let gzip = gzip.finish().expect("compressed");
    let zstd = zstd::encode_all(&plain[..], 1).expect("compressed");
    let mut flipped = gzip.clone();
    // The checksum, which stands behind everything the tar has to say.
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    for layer in [&plain, &gzip, &zstd] {
        let (dir, unpacked) = unpack(layer);
        unpacked.expect("unpacked");
        assert_eq!(fs::read_to_string(dir.path().join("file")).expect("read"), "content");
    }
    for broken in [&flipped[..], &gzip[..gzip.len() - 20], &plain[..700], b"no tar at all"] {
        let (_, unpacked) = unpack(broken);
        assert!(unpacked.is_err(), "{} bytes", broken.len());
    }
}

#[test]
fn attributes_keep_every_byte_and_numbers_may_be_left_out() {
    let mut tar = tar::Builder::new(Vec::new());
    let value = b"a\nb\0c=";
    tar.append_pax_extensions([("SCHILY.xattr.user.lines", &value[..])]).expect("records");
    // Neither owner nor time.
    let mut header = tar::Header::new_ustar();
    header.set_size(7);
    header.set_mode(0o640);
    tar.append_data(&mut header, "file", &b"content"[..]).expect("entry");
    let (dir, unpacked) = unpack(&tar.into_inner().expect("tar"));
    unpacked.expect("unpacked");
    let file = dir.path().join("file");
    let mut found = [0; 16];
    let length = rustix::fs::lgetxattr(&file, "user.lines", &mut found).expect("attribute");
    assert_eq!(&found[..length], value);
    let metadata = fs::metadata(&file).expect("file");
    assert_eq!((metadata.mode(), metadata.mtime()), (0o100_640, 0));
}

#[test]
fn the_last_of_a_name_counts_and_is_not_written_through() {
    let outside = tempfile::NamedTempFile::new().expect("file");
    let mut tar = Maker::new();
    tar.add("a", tar::EntryType::Symlink, 0o777, outside.path().to_str().expect("path"));
    tar.file("a", "file");
    tar.file("b/below", "x");
    tar.file("b", "file");
    tar.file("c", "x");
    tar.add("c", tar::EntryType::Directory, 0o755, "");
    tar.add("d", tar::EntryType::Directory, 0o755, "");
    tar.file("d/kept", "x");
    tar.add("d", tar::EntryType::Directory, 0o700, "");
    tar.add("a", tar::EntryType::Link, 0o644, "a");
    let (dir, unpacked) = tar.unpack();
    unpacked.expect("unpacked");
    assert_eq!(fs::read(outside.path()).expect("read"), b"");
    for name in ["a", "b"] {
        assert_eq!(fs::read_to_string(dir.path().join(name)).expect(name), "file");
    }
    assert!(dir.path().join("c").is_dir() && dir.path().join("d/kept").is_file());
}
