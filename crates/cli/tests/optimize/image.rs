//! A small image that runs, made of this machine's shell and a few programs.
use std::{collections::BTreeSet, fs, io::Write as _, path::Path, process::Command};

use bolide_core::Digest;
use bolide_image::{
    Layout, Platform,
    manifest::{Descriptor, media_type, to_bytes},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;

const PROGRAMS: [&str; 6] = ["sh", "cat", "ls", "id", "sleep", "readlink"];

/// What the image runs. It asks for attributes of a file that it never opens.
pub(crate) const START: &str = "#!/bin/sh
test -e /data/seen
read -r line < /etc/first
cat /data/mapped > /dev/null
ls /data/listed
readlink /data/link
echo done
";

/// Makes `DIR:plain`: a base layer, and one with the program that the image runs.
pub(crate) fn build(dir: &Path) {
    let layout = Layout::create(dir).expect("layout");
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for tar in [base(), application()] {
        diff_ids.push(Digest::of(&tar));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar).expect("gzip");
        let blob = gzip.finish().expect("gzip");
        layout.put_document(&blob).expect("layer");
        layers.push(Descriptor::of(media_type::OCI_LAYER_GZIP, &blob));
    }
    let platform = Platform::host();
    let config = to_bytes(&json!({
        "os": platform.os, "architecture": platform.architecture,
        "config": {"Cmd": ["/app/start"], "Env": ["PATH=/bin", "FROM=image"], "User": "web",
            "WorkingDir": "/app"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }));
    let config = config.expect("json");
    layout.put_document(&config).expect("config");
    let manifest = to_bytes(&json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": layers,
    }));
    let manifest = manifest.expect("json");
    layout.put_document(&manifest).expect("manifest");
    layout.tag(&Descriptor::of(media_type::OCI_MANIFEST, &manifest), Some("plain")).expect("tag");
}

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).expect("entry");
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, tar::EntryType::Regular, mode, content);
    }

    fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, tar::EntryType::Directory, mode, b"");
    }

    fn symlink(&mut self, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        self.0.append_link(&mut header, path, target).expect("entry");
    }
}

fn base() -> Vec<u8> {
    let mut tar = Tar(tar::Builder::new(Vec::new()));
    // Far from the order of first use.
    tar.directory("data/listed", 0o755);
    tar.file("data/seen", 0o644, b"never opened");
    tar.file("data/listed/one", 0o644, b"1");
    tar.file("data/listed/two", 0o644, b"2");
    tar.file("data/mapped", 0o644, &[7; 9000]);
    tar.symlink("data/link", "mapped");
    tar.directory("tmp", 0o1777);
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(name));
        let program = program.iter().find(|path| path.is_file()).expect("a program");
        tar.file(&format!("bin/{name}"), 0o755, &fs::read(program).expect("program"));
        let listed = Command::new("ldd").arg(program).output().expect("ldd").stdout;
        let listed = String::from_utf8(listed).expect("text");
        let words = listed.split_ascii_whitespace().filter(|word| word.starts_with('/'));
        libraries.extend(words.map(str::to_owned));
    }
    for library in libraries {
        tar.file(&library[1..], 0o755, &fs::read(&library).expect("library"));
    }
    tar.file("etc/first", 0o644, b"covered by the layer above\n");
    tar.file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n");
    tar.file("etc/group", 0o644, b"root:x:0:\nweb:x:34:\ntls:x:70:web\n");
    tar.0.into_inner().expect("tar")
}

fn application() -> Vec<u8> {
    let mut tar = Tar(tar::Builder::new(Vec::new()));
    tar.file("app/never", 0o644, &[1; 5000]);
    tar.file("etc/first", 0o644, b"of the upper layer\n");
    tar.file("app/start", 0o755, START.as_bytes());
    tar.0.into_inner().expect("tar")
}
