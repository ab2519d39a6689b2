//! Images in archives, as other programs write and read them.
mod support;

use std::{fs, path::Path};

use bolide_core::{Digest, ErrorKind};
use bolide_estargz::BlobFormat;
use bolide_image::{
    Access, ConvertReport, ImageSource, Layout, Location, Platform, Progress, convert_image,
    manifest::media_type,
};
use serde_json::{Value, json};
use support::{
    add_true_image, amd64, assert_empty, convert, gzip, location, options, options_of, run, tar_of,
};
use tempfile::{TempDir, tempdir};

const LAYERS: [&[(&str, &str)]; 3] =
    [&[("etc/a", "one"), ("etc/b", "two")], &[("bin/tool", "three")], &[("x", "four")]];

/// A layout with one image, tagged `org`, and room for archives.
struct Lab {
    dir: TempDir,
    layout: Layout,
}

impl Lab {
    fn new() -> Self {
        let dir = tempdir().expect("dir");
        let layout = Layout::create(dir.path().join("src")).expect("layout");
        let image = add_true_image(&layout, "amd64", &LAYERS);
        layout.tag(&image, Some("org")).expect("tag");
        fs::create_dir(dir.path().join("out")).expect("dir");
        Self { dir, layout }
    }

    fn source(&self) -> Location {
        location(self.layout.dir(), "org")
    }

    /// A place for a file, as text.
    fn path(&self, name: &str) -> String {
        self.dir.path().join("out").join(name).display().to_string()
    }

    fn place(&self, kind: &str, name: &str) -> Location {
        format!("{kind}:{}", self.path(name)).parse().expect("location")
    }

    /// Converts to a layout beside the archives.
    async fn back(&self, from: &Location, tag: &str) -> ConvertReport {
        let to = location(&self.dir.path().join("back"), tag);
        convert(&Access::layouts(), from, &to).await
    }

    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path().join("out")).expect("dir");
        let mut names: Vec<_> = names
            .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }
}

async fn open(place: &Location) -> ImageSource {
    ImageSource::open(&Access::layouts(), place, &amd64()).await.expect("image")
}

fn as_it_is() -> bolide_image::ConvertOptions {
    options_of(BlobFormat::TarGzip)
}

#[tokio::test]
async fn an_oci_archive_is_read_and_written_as_skopeo_does() {
    let lab = Lab::new();
    let direct = lab.back(&lab.source(), "direct").await;
    let to = lab.place("oci-archive", "ours.tar:lazy");
    let written = convert(&Access::layouts(), &lab.source(), &to).await;
    assert_eq!(written.digest, direct.digest);
    assert_eq!(lab.left(), ["ours.tar"], "nothing else stays");

    // Theirs of ours, and ours of theirs.
    let (from, into) = (to.to_string(), format!("oci:{}:x", lab.path("theirs")));
    run("skopeo", &["copy", "--quiet", &from, &into]);
    let theirs = Layout::open(lab.path("theirs")).expect("layout").resolve(Some("x"));
    assert_eq!(theirs.expect("image").digest, written.digest);
    let source = lab.source().to_string();
    let archive = lab.place("oci-archive", "theirs.tar:org").to_string();
    run("skopeo", &["copy", "--quiet", &source, &archive]);
    let back = lab.back(&archive.parse().expect("location"), "back").await;
    assert_eq!(back.digest, direct.digest);

    // The only image needs no name; another name is not there.
    let image = open(&lab.place("oci-archive", "ours.tar")).await;
    assert_eq!(image.target().digest, written.digest);
    let other = lab.place("oci-archive", "ours.tar:no");
    let error = ImageSource::open(&Access::layouts(), &other, &amd64()).await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_same_image_gives_the_same_archive() {
    let lab = Lab::new();
    for (kind, options) in [("oci-archive", options()), ("docker-archive", as_it_is())] {
        let write = async |name: &str| {
            let to = lab.place(kind, name);
            let access = Access::layouts();
            convert_image(&access, &lab.source(), &to, &options, |_| ()).await.expect("written");
            Digest::of(&fs::read(lab.path(name)).expect("archive"))
        };
        assert_eq!(write("1.tar").await, write("2.tar").await, "{kind}");
    }
}

#[tokio::test]
async fn a_docker_archive_is_read_and_written_as_skopeo_does() {
    let lab = Lab::new();
    let to = lab.place("docker-archive", "ours.tar:lan:5000/app:1");
    let access = Access::layouts();
    let written = convert_image(&access, &lab.source(), &to, &as_it_is(), |_| ()).await;
    let written = written.expect("written");
    assert_eq!(lab.left(), ["ours.tar"], "nothing else stays");
    assert!(written.layers.iter().all(|layer| layer.reused));

    let source = open(&lab.source()).await;
    let listed = run("skopeo", &["list-tags", &format!("docker-archive:{}", lab.path("ours.tar"))]);
    assert!(listed.contains("lan:5000/app:1"), "{listed}");
    let into = format!("oci:{}:x", lab.path("theirs"));
    run("skopeo", &["copy", "--quiet", &to.to_string(), &into]);
    let theirs = open(&into.parse().expect("location")).await;
    assert_eq!(theirs.config().rootfs.diff_ids, source.config().rootfs.diff_ids);

    let archive = lab.place("docker-archive", "theirs.tar:lan:5000/app:2").to_string();
    run("skopeo", &["copy", "--quiet", &lab.source().to_string(), &archive]);
    let direct = lab.back(&lab.source(), "direct").await;
    for place in [&to.to_string(), &archive, &format!("docker-archive:{}", lab.path("ours.tar"))] {
        let back = lab.back(&place.parse().expect("location"), "back").await;
        let layers = |report: &ConvertReport| {
            report.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>()
        };
        assert_eq!(layers(&back), layers(&direct), "{place}");
    }
    let other = lab.place("docker-archive", "ours.tar:lan:5000/app:3");
    let error = ImageSource::open(&access, &other, &amd64()).await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.context("known"), Some("lan:5000/app:1"));
}

/// An archive of one image with these members beside configuration and manifest.
fn archive(path: &Path, layers: &[&str], diff_ids: &[Digest], members: Vec<Member<'_>>) {
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let manifest = json!([{"Config": "c.json", "RepoTags": null, "Layers": layers}]).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    let documents = [
        ("c.json", Content::Bytes(config.as_bytes())),
        ("manifest.json", Content::Bytes(manifest.as_bytes())),
    ];
    for (name, content) in members.into_iter().chain(documents) {
        let mut header = tar::Header::new_gnu();
        match content {
            Content::Bytes(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, name, bytes).expect("added");
            }
            Content::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target).expect("added");
            }
        }
    }
    fs::write(path, tar.into_inner().expect("tar")).expect("written");
}

type Member<'a> = (&'a str, Content<'a>);

enum Content<'a> {
    Bytes(&'a [u8]),
    Link(&'a str),
}

#[tokio::test]
async fn every_form_of_a_docker_archive_gives_the_same_layers() {
    let lab = Lab::new();
    let tars = [tar_of(LAYERS[0]), tar_of(LAYERS[1])];
    let ids = [Digest::of(&tars[0]), Digest::of(&tars[1]), Digest::of(&tars[0])];
    let packed = gzip(&tars[1]);
    let by_digest = format!("blobs/sha256/{}", Digest::of(&packed).hex());
    // Before Docker 25: a layer that occurs twice is a link.
    archive(
        Path::new(&lab.path("old.tar")),
        &["1/layer.tar", "2/layer.tar", "3/layer.tar"],
        &ids,
        vec![
            ("1/layer.tar", Content::Bytes(&tars[0])),
            ("2/layer.tar", Content::Bytes(&tars[1])),
            ("3/layer.tar", Content::Link("../1/layer.tar")),
        ],
    );
    // From then on blobs, compressed or not.
    let plain = format!("blobs/sha256/{}", ids[0].hex());
    archive(
        Path::new(&lab.path("new.tar")),
        &[&plain, &by_digest, &plain],
        &ids,
        vec![(&plain, Content::Bytes(&tars[0])), (&by_digest, Content::Bytes(&packed))],
    );
    // Other programs choose other names.
    archive(
        Path::new(&lab.path("other.tar")),
        &["a.tar", "b.tar.gz", "a.tar"],
        &ids,
        vec![("a.tar", Content::Bytes(&tars[0])), ("b.tar.gz", Content::Bytes(&packed))],
    );
    let whole = gzip(&fs::read(lab.path("old.tar")).expect("archive"));
    fs::write(lab.path("old.tar.gz"), whole).expect("written");
    let mut found = Vec::new();
    for name in ["old.tar", "new.tar", "other.tar", "old.tar.gz"] {
        let report = lab.back(&lab.place("docker-archive", name), "back").await;
        assert_eq!(report.layers.len(), 3, "{name}");
        found.push(report.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>());
    }
    assert!(found.iter().all(|layers| *layers == found[0]), "{found:?}");
}

#[tokio::test]
async fn a_docker_archive_that_lies_is_found_out() {
    let lab = Lab::new();
    let tar = tar_of(LAYERS[0]);
    let cases: [(&str, Vec<Member<'_>>, Digest, ErrorKind); 3] = [
        ("digest", vec![("l", Content::Bytes(&tar))], Digest::of(b"x"), ErrorKind::Corrupt),
        ("missing", Vec::new(), Digest::of(&tar), ErrorKind::NotFound),
        ("loop", vec![("l", Content::Link("l"))], Digest::of(&tar), ErrorKind::NotFound),
    ];
    for (name, members, id, kind) in cases {
        archive(Path::new(&lab.path(name)), &["l"], &[id], members);
        let (from, to) = (lab.place("docker-archive", name), lab.place("oci-archive", "to.tar"));
        let converted = convert_image(&Access::layouts(), &from, &to, &options(), |_| ()).await;
        assert_eq!(converted.expect_err(name).kind(), kind, "{name}");
    }
    assert_eq!(lab.left(), ["digest", "loop", "missing"], "no archive, whole or half");
}

#[test]
fn an_archive_that_was_not_finished_leaves_nothing() {
    let lab = Lab::new();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    // Interrupted while it is written.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let to = lab.place("oci-archive", "ours.tar:lazy");
    runtime.block_on(async {
        let (access, from, options) = (Access::layouts(), lab.source(), options());
        let work = convert_image(&access, &from, &to, &options, |event| {
            if matches!(event, Progress::Stored { .. })
                && let Some(sender) = sender.lock().expect("lock").take()
            {
                sender.send(()).expect("somebody waits");
            }
        });
        tokio::select! {
            biased;
            told = receiver => told.expect("told"),
            _ = work => panic!("it came to an end"),
        }
    });
    drop(runtime);
    assert_empty(Path::new(&lab.path("")));

    // No directory to write it to: found out before any work.
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let nowhere = lab.place("oci-archive", "no/such/dir.tar");
    let converted = runtime.block_on(async {
        let (access, from, options) = (Access::layouts(), lab.source(), options());
        convert_image(&access, &from, &nowhere, &options, |_| panic!("begun")).await
    });
    assert_eq!(converted.expect_err("nowhere").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_an_archive_cannot_hold_is_refused_before_any_work() {
    let lab = Lab::new();
    let to = lab.place("docker-archive", "ours.tar");
    let nothing = location(Path::new("/nonexistent"), "org");
    let converted = convert_image(&Access::layouts(), &nothing, &to, &options(), |_| ()).await;
    let error = converted.expect_err("lazy");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("annotations"), "{error}");
    assert!(lab.left().is_empty());
}

#[tokio::test]
async fn a_source_date_epoch_sets_the_times_of_a_configuration() {
    let lab = Lab::new();
    let to = location(&lab.dir.path().join("back"), "then");
    let mut options = options();
    options.layer.latest_mtime = Some(1_600_000_000);
    convert_image(&Access::layouts(), &lab.source(), &to, &options, |_| ()).await.expect("done");
    let image = open(&to).await;
    let then: Value = "2020-09-13T12:26:40Z".into();
    assert_eq!(image.config().other["created"], then);
    let steps = image.config().other["history"].as_array().expect("history");
    assert!(steps.iter().all(|step| step["created"] == then), "{steps:?}");
    assert_eq!(image.manifest().other["annotations"]["who"], "me");
    assert_eq!(image.target().media_type, media_type::OCI_MANIFEST);
    assert_eq!(image.platform(), Some("linux/amd64".parse::<Platform>().expect("platform")));
}
