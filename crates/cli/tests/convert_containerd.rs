//! Images in and out of a real containerd.
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use bolide_core::Digest;
use bolide_e2e::Containerd;
use bolide_image::{
    Layout,
    manifest::{Descriptor, media_type, to_bytes},
};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const NAMESPACE: &str = "converted";
const REFERENCE: &str = "containerd:lan.test/app:lazy";
const NAME: &str = "lan.test/app:lazy";

struct Lab {
    containerd: Containerd,
    dir: TempDir,
}

/// Says loudly that nothing was tested, where nothing can be.
fn lab() -> Option<Lab> {
    let missing = ["containerd", "ctr"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    let reason = match missing {
        _ if !rustix::process::geteuid().is_root() => "this test needs root".to_owned(),
        Some(program) => format!("{program} is not installed"),
        None => {
            let dir = tempdir().expect("dir");
            let nobody = dir.path().join("no-snapshotter");
            let containerd = Containerd::start(&dir.path().join("containerd"), &nobody);
            fs::create_dir(dir.path().join("tmp")).expect("dir");
            return Some(Lab { containerd: containerd.expect("containerd"), dir });
        }
    };
    bolide_testkit::skip(&reason);
    None
}

impl Lab {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn convert(&self, from: &str, to: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bolide"));
        command.args(["convert", "--json", from, to, "--containerd-namespace", NAMESPACE]);
        command.arg("--containerd-address").arg(self.containerd.socket()).args(more);
        command.env("TMPDIR", self.path("tmp")).current_dir(self.dir.path());
        command.output().expect("runs")
    }

    fn converted(&self, from: &str, to: &str, more: &[&str]) -> Value {
        let done = self.convert(from, to, more);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(fs::read_dir(self.path("tmp")).expect("dir").count(), 0, "files stay");
        assert_eq!(self.ctr(&["leases", "ls", "--quiet"]), "", "leases stay");
        serde_json::from_slice(&done.stdout).expect("JSON")
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        let done = self.containerd.try_ctr(NAMESPACE, arguments).expect("ctr");
        done.success("ctr").expect("ctr")
    }
}

/// A layout with one image of two layers, tagged `org`.
fn sample(dir: &Path) {
    let layout = Layout::create(dir).expect("layout");
    let tars = ["one", "two"].map(|text| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, text, text.as_bytes()).expect("added");
        tar.into_inner().expect("tar")
    });
    let layers: Vec<_> = tars
        .iter()
        .map(|tar| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).expect("packed");
            let blob = gzip.finish().expect("packed");
            layout.put_document(&blob).expect("stored");
            Descriptor::of(media_type::OCI_LAYER_GZIP, &blob)
        })
        .collect();
    let ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let config = to_bytes(&json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": ids}}));
    let config = config.expect("json");
    layout.put_document(&config).expect("config");
    let manifest = to_bytes(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": layers}));
    let manifest = manifest.expect("json");
    layout.put_document(&manifest).expect("manifest");
    layout.tag(&Descriptor::of(media_type::OCI_MANIFEST, &manifest), Some("org")).expect("tag");
}

#[test]
fn an_image_goes_into_containerd_and_comes_out() {
    let Some(lab) = lab() else { return };
    sample(&lab.path("src"));
    let direct = lab.converted("oci:src:org", "oci:direct:lazy", &[]);
    let stored = lab.converted("oci:src:org", REFERENCE, &[]);
    assert_eq!(stored["digest"], direct["digest"]);

    let listed = lab.ctr(&["images", "ls"]);
    assert!(listed.contains(NAME) && listed.contains(stored["digest"].as_str().expect("text")));
    // What garbage collection and unpacking look for.
    let content = lab.ctr(&["content", "ls"]);
    for layer in stored["layers"].as_array().expect("layers") {
        let id = format!("containerd.io/uncompressed={}", layer["diff_id"].as_str().expect("id"));
        assert!(content.contains(&id), "{content}");
    }
    for label in ["gc.ref.content.config", "gc.ref.content.l.0", "gc.ref.content.l.1"] {
        assert!(content.contains(label), "{content}");
    }
    // Everything stays when garbage is collected, because the image names it.
    lab.ctr(&["leases", "create", "--id", "collect"]);
    lab.ctr(&["leases", "delete", "--sync", "collect"]);
    assert_eq!(lab.ctr(&["content", "ls", "--quiet"]).lines().count(), 4);
    lab.ctr(&["images", "check"]);
    lab.ctr(&["images", "export", lab.path("theirs.tar").to_str().expect("path"), NAME]);
    File::open(lab.path("theirs.tar")).expect("exported");

    // Once more, over itself; and back out, where nothing changes.
    let again = lab.converted(REFERENCE, REFERENCE, &["--reuse"]);
    assert_eq!(again["digest"], stored["digest"]);
    let back = lab.converted(REFERENCE, "oci-archive:back.tar:lazy", &["--reuse"]);
    assert_eq!(back["digest"], stored["digest"]);
    // What containerd exports is an archive of a layout, too.
    let theirs = lab.converted("oci-archive:theirs.tar", "oci:direct:2", &["--reuse"]);
    assert_eq!(theirs["digest"], stored["digest"]);

    // It takes our archives of Docker, with the layers as they are.
    let to = "docker-archive:docker.tar:lan.test/app:plain";
    lab.converted("oci:src:org", to, &["--format", "tar-gzip"]);
    lab.ctr(&["images", "import", lab.path("docker.tar").to_str().expect("path")]);
    let imported = lab.converted("containerd:lan.test/app:plain", "oci:direct:3", &[]);
    let layers = |report: &Value| {
        let layers = report["layers"].as_array().expect("layers").clone();
        layers.into_iter().map(|layer| layer["digest"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(layers(&imported), layers(&direct));
}

#[test]
fn what_fails_leaves_nothing_in_containerd() {
    let Some(lab) = lab() else { return };
    sample(&lab.path("src"));
    let layout = Layout::open(lab.path("src")).expect("layout");
    let converted = lab.converted("oci:src:org", "oci:direct:lazy", &[]);
    // The upper layer is not what its digest says; the lower one is stored by then, or not.
    let upper = converted["layers"][1]["source"].as_str().expect("digest").parse().expect("digest");
    let path = layout.blob_path(upper);
    let mut blob = fs::read(&path).expect("blob");
    let last = blob.len() - 1;
    blob[last] ^= 1;
    fs::write(&path, blob).expect("written");
    let done = lab.convert("oci:src:org", REFERENCE, &["--parallelism", "1"]);
    assert_eq!(done.status.code(), Some(1));
    for list in [&["images", "ls", "--quiet"][..], &["leases", "ls", "--quiet"]] {
        assert_eq!(lab.ctr(list), "", "{list:?}");
    }
    assert_eq!(lab.ctr(&["content", "ls", "--quiet"]), "");
    let active = lab.ctr(&["content", "active"]);
    assert_eq!(active.lines().count(), 1, "headings alone: {active}");
    assert_eq!(fs::read_dir(lab.path("tmp")).expect("dir").count(), 0, "files stay");

    let missing = lab.convert("containerd:lan.test/none:1", "oci:direct:x", &[]);
    assert_eq!(missing.status.code(), Some(1));
    let told = String::from_utf8_lossy(&missing.stderr);
    assert!(told.contains("lan.test/none:1") && told.contains("not found"), "{told}");
    let nowhere = lab.convert(REFERENCE, "oci:x", &["--containerd-address", "/nonexistent.sock"]);
    assert_eq!(nowhere.status.code(), Some(2), "given twice");
}

#[test]
fn an_interrupted_conversion_gives_everything_back() {
    let Some(lab) = lab() else { return };
    sample(&lab.path("src"));
    // A registry that gives documents, and then no layer.
    let layout = Layout::open(lab.path("src")).expect("layout");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
    let from = format!("{}/app:org", listener.local_addr().expect("address"));
    let mut convert = Command::new(env!("CARGO_BIN_EXE_bolide"))
        .args(["convert", &from, REFERENCE, "--containerd-namespace", NAMESPACE])
        .arg("--containerd-address")
        .arg(lab.containerd.socket())
        .env("TMPDIR", lab.path("tmp"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let hanging = serve_documents(&listener, &layout);
    assert_ne!(lab.ctr(&["leases", "ls", "--quiet"]), "", "the lease is taken before the work");
    let pid = rustix::process::Pid::from_child(&convert);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
    assert_eq!(convert.wait().expect("ended").code(), Some(1));
    drop(hanging);
    assert_eq!(lab.ctr(&["leases", "ls", "--quiet"]), "", "leases stay");
    assert_eq!(lab.ctr(&["images", "ls", "--quiet"]), "");
    assert_eq!(fs::read_dir(lab.path("tmp")).expect("dir").count(), 0, "files stay");
}

/// Answers requests until one wants a layer; the connection of that.
fn serve_documents(listener: &TcpListener, layout: &Layout) -> TcpStream {
    let image = layout.resolve(Some("org")).expect("image");
    let manifest = layout.document(&image).expect("manifest");
    let named: Value = serde_json::from_slice(&manifest).expect("JSON");
    let config = named["config"]["digest"].as_str().expect("digest").to_owned();
    loop {
        let (mut connection, _) = listener.accept().expect("connected");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).expect("read");
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).expect("text");
        let (kind, body) = if request.contains("/manifests/") {
            (media_type::OCI_MANIFEST, manifest.clone())
        } else if request.contains(&config) {
            let config = layout.document_by_digest(config.parse().expect("digest"));
            ("application/octet-stream", config.expect("config"))
        } else {
            return connection;
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        connection.write_all(&[head.as_bytes(), &body].concat()).expect("written");
    }
}
