//! What tests of commands that mount share: an image, the program, and a user without root.
#![allow(dead_code, reason = "each test file uses its own part")]
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bolide_core::Digest;
use bolide_image::{
    Layout,
    manifest::{Descriptor, media_type, to_bytes},
};
use serde_json::json;
use tempfile::TempDir;

const LAYERS: [&str; 2] = [
    "7823858a91105df1bdb62d29ae129714cda5bd07682f5470e70461e4af581f0c",
    "8f36f7fff976af599875c21245c322cec2fca9b4593c10e9d78349d7d3927cc3",
];
/// Opens the device to all, in a mount namespace of its own, and becomes nobody.
const BECOME_NOBODY: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs /mnt
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"#;

/// A directory that everybody may enter, with the program in it.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let program = dir.path().join("bolide");
        // The build's directory may be closed to others.
        fs::copy(env!("CARGO_BIN_EXE_bolide"), &program).expect("program");
        for path in [dir.path(), &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        fs::create_dir(dir.path().join("tmp")).expect("dir");
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(dir.path().join("tmp"), open).expect("mode");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn target(&self) -> PathBuf {
        let target = self.path("target");
        fs::create_dir_all(&target).expect("dir");
        target
    }

    /// The program, whose temporary files are in `tmp`.
    pub(crate) fn bolide(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("bolide"));
        command.args(arguments).env("TMPDIR", self.path("tmp")).current_dir(self.dir.path());
        command
    }

    /// The program, as a user without root to whom FUSE is open.
    pub(crate) fn bolide_as_nobody(&self, arguments: &[&str]) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.bolide(arguments);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", BECOME_NOBODY, "sh"]).arg(self.path("bolide"));
        command.args(arguments).env("TMPDIR", self.path("tmp")).current_dir(self.dir.path());
        command
    }

    /// Makes `oci:image:lazy`, an image of two eStargz layers.
    pub(crate) fn image(&self) {
        let layout = Layout::create(self.path("image")).expect("layout");
        let blobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata/blobs");
        let layers = LAYERS.map(|hex| {
            let size = fs::copy(blobs.join(hex), layout.blob_dir().join(hex)).expect("blob");
            json!({"mediaType": media_type::OCI_LAYER_GZIP,
                "digest": format!("sha256:{hex}"), "size": size})
        });
        let config = to_bytes(&json!({"rootfs": {"type": "layers",
            "diff_ids": [Digest::of(b"1"), Digest::of(b"2")]}}));
        let config = config.expect("json");
        layout.put_document(&config).expect("config");
        let manifest = to_bytes(&json!({"schemaVersion": 2,
            "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": layers}));
        let manifest = manifest.expect("json");
        layout.put_document(&manifest).expect("manifest");
        let name = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        layout.tag(&name, Some("plain")).expect("tag");
        succeeds(&mut self.bolide(&["convert", "oci:image:plain", "oci:image:lazy"]));
    }

    /// Fails when a command left a mount, a process or a file.
    pub(crate) fn assert_clean(&self) {
        let here = self.dir.path().to_str().expect("path");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(here)).collect();
        assert!(left.is_empty(), "mounts stay: {left:#?}");
        let left: Vec<_> = fs::read_dir(self.path("tmp"))
            .expect("dir")
            .map(|e| e.expect("entry").path())
            .collect();
        assert!(left.is_empty(), "files stay: {left:?}");
        let program = self.path("bolide");
        for entry in fs::read_dir("/proc").expect("processes") {
            let executable = fs::read_link(entry.expect("entry").path().join("exe"));
            assert!(executable.map_or(true, |path| path != program), "a process stays");
        }
    }
}

/// Says loudly when this machine cannot run the test.
pub(crate) fn can_mount() -> bool {
    let able = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    if !able {
        bolide_testkit::skip("/dev/fuse cannot be opened");
    }
    able
}

/// Says loudly when this machine cannot run the test.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root() && can_mount();
    if !root {
        bolide_testkit::skip("mounting for everybody needs root");
    }
    root
}

pub(crate) fn succeeds(command: &mut Command) -> String {
    let done = command.output().expect("runs");
    assert!(done.status.success(), "{command:?}: {} {}", done.status, complaint(&done));
    String::from_utf8(done.stdout).expect("text")
}

/// What a command that fails with this code complains of.
pub(crate) fn fails(command: &mut Command, code: i32) -> String {
    let done = command.output().expect("runs");
    assert_eq!(done.status.code(), Some(code), "{command:?}: {}", complaint(&done));
    complaint(&done)
}

pub(crate) fn complaint(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}
