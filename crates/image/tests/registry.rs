//! Images on their way into a real registry and out of it.
mod support;

use std::{fs, io::Write as _, sync::Arc, time::Duration};

use bolide_core::{Digest, ErrorKind};
use bolide_fetch::{
    Credentials, ImageReference, NoCredentials, RegistryClient, RegistryConfig, RetryPolicy,
    Secret, StaticCredentials,
};
use bolide_image::{
    Access, ImageSource, Location, Progress, convert_image,
    manifest::{Index, media_type, to_bytes},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Map, json};
use support::{
    LAYERS, access, add_blob, add_image, add_layer, amd64, assert_empty, convert,
    docker_registry::{DockerRegistry, PASSWORD, USER, cutting_relay, stumbling_relay},
    history, location, options, reference, sample, serve,
};
use tempfile::{TempDir, tempdir};

/// A plain image in a layout, a registry, and a directory for blobs under way.
struct Lab {
    registry: DockerRegistry,
    registry_dir: TempDir,
    src: TempDir,
    work: TempDir,
}

impl Lab {
    fn new() -> Self {
        let (registry_dir, src) = (tempdir().expect("dir"), tempdir().expect("dir"));
        sample(src.path(), media_type::OCI_MANIFEST);
        let registry = DockerRegistry::start(registry_dir.path());
        Self { registry, registry_dir, src, work: tempdir().expect("dir") }
    }

    fn access(&self) -> Access {
        access(self.work.path())
    }

    fn plain(&self) -> Location {
        location(self.src.path(), "org")
    }

    fn pushed(&self, tag: &str) -> Location {
        reference(self.registry.address(), tag)
    }

    /// What the registry says of a tag.
    async fn find(&self, tag: &str) -> bolide_core::Result<ImageSource> {
        ImageSource::open(&self.access(), &self.pushed(tag), &amd64()).await
    }
}

#[tokio::test]
async fn an_image_is_the_same_after_a_registry() {
    let lab = Lab::new();
    let dir = tempdir().expect("dir");
    let local = convert(&lab.access(), &lab.plain(), &location(dir.path(), "local")).await;
    let pushed = convert(&lab.access(), &lab.plain(), &lab.pushed("lazy")).await;
    assert_eq!(pushed, local);
    assert_empty(lab.work.path());
    let image = lab.find("lazy").await.expect("pushed");
    assert_eq!(image.target().digest, pushed.digest);
    let by_digest: Location =
        format!("{}/team/app@{}", lab.registry.address(), pushed.digest).parse().expect("name");
    ImageSource::open(&lab.access(), &by_digest, &amd64()).await.expect("by digest");

    let back = convert(&lab.access(), &lab.pushed("lazy"), &location(dir.path(), "back")).await;
    let again = location(dir.path(), "local");
    let again = convert(&lab.access(), &again, &location(dir.path(), "again")).await;
    assert_eq!(back, again);
}

#[tokio::test]
async fn what_a_registry_has_is_not_sent_again() {
    let lab = Lab::new();
    let first = convert(&lab.access(), &lab.plain(), &lab.pushed("one")).await;
    let sent = lab.registry.requests("PUT", "/blobs/uploads/");
    // Two layers and a configuration.
    assert_eq!(sent, 3);
    let second = convert(&lab.access(), &lab.plain(), &lab.pushed("two")).await;
    assert_eq!(second, first);
    assert_eq!(lab.registry.requests("PUT", "/blobs/uploads/"), sent);
    assert_eq!(lab.registry.requests("POST", "/blobs/uploads/"), sent);
    assert_eq!(lab.registry.requests("PUT", "/manifests/two"), 1);
}

#[tokio::test]
async fn only_the_layers_names_change_in_a_configuration() {
    let lab = Lab::new();
    let report = convert(&lab.access(), &lab.plain(), &lab.pushed("lazy")).await;
    let before = ImageSource::open(&lab.access(), &lab.plain(), &amd64()).await.expect("source");
    let after = lab.find("lazy").await.expect("pushed");
    assert_eq!(after.config().other, before.config().other);
    assert_eq!(after.config().rootfs.other, before.config().rootfs.other);
    let diff_ids: Vec<_> = report.layers.iter().map(|layer| layer.diff_id).collect();
    assert_eq!(after.config().rootfs.diff_ids, diff_ids);
    // What daemons that show the history of an image want of it.
    let steps = after.config().other["history"].as_array().expect("history");
    assert_eq!(steps.len(), history(2).as_array().expect("list").len());
    let filled = steps.iter().filter(|step| step["empty_layer"] != true).count();
    assert_eq!(filled, after.manifest().layers.len());
}

#[tokio::test]
async fn a_push_that_breaks_off_leaves_nothing() {
    let mut lab = Lab::new();
    // In the middle of the larger layer.
    let (address, relay) = cutting_relay(lab.registry.address(), 512 * 1024).await;
    let to = reference(address, "lazy");
    let error = convert_image(&lab.access(), &lab.plain(), &to, &options(), |_| ())
        .await
        .expect_err("cut off");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    relay.await.expect("ended");
    assert_eq!(lab.find("lazy").await.expect_err("no tag").kind(), ErrorKind::NotFound);
    assert_empty(lab.work.path());

    // The registry dies when a layer is stored.
    let to = lab.pushed("lazy");
    let (access, from) = (lab.access(), lab.plain());
    let registry = std::sync::Mutex::new(&mut lab.registry);
    let error = convert_image(&access, &from, &to, &options(), |event| {
        if matches!(event, Progress::Stored { .. }) {
            registry.lock().expect("lock").kill();
        }
    })
    .await
    .expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    lab.registry = DockerRegistry::start(lab.registry_dir.path());
    assert_eq!(lab.find("lazy").await.expect_err("no tag").kind(), ErrorKind::NotFound);
    assert_empty(lab.work.path());
    convert(&lab.access(), &lab.plain(), &lab.pushed("lazy")).await;
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_chunk_costs_a_few_tries_and_no_image() {
    let lab = Lab::new();
    let patient = RetryPolicy { base_delay: Duration::from_millis(1), ..RetryPolicy::default() };
    let access = lab.access().with_retry(patient).with_upload_chunk(256 * 1024);
    let (address, stumbled) = stumbling_relay(lab.registry.address(), 600 * 1024).await;
    let to = reference(address, "lazy");
    let report = convert_image(&access, &lab.plain(), &to, &options(), |_| ()).await;
    let report = report.expect("pushed");
    assert!(stumbled.load(std::sync::atomic::Ordering::Relaxed), "nothing was cut");
    assert!(lab.registry.requests("PATCH", "/blobs/uploads/") > 3);
    assert_eq!(lab.find("lazy").await.expect("pushed").target().digest, report.digest);
    assert_empty(lab.work.path());
}

#[test]
fn an_interrupted_push_leaves_nothing() {
    let lab = Lab::new();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let (address, relay) = cutting_relay(lab.registry.address(), 512 * 1024).await;
        let (access, from, to) = (lab.access(), lab.plain(), reference(address, "lazy"));
        let options = options();
        tokio::select! {
            biased;
            _ = relay => {}
            _ = convert_image(&access, &from, &to, &options, |_| ()) => {}
        }
    });
    // As the command does it: what runs on threads ends here.
    drop(runtime);
    assert_empty(lab.work.path());
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let error = runtime.block_on(lab.find("lazy")).expect_err("no tag");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_upload_may_take_long_but_not_stand_still() {
    let lab = Lab::new();
    let idle = Duration::from_secs(2);
    let config = RegistryConfig { idle_timeout: idle, ..RegistryConfig::default() };
    let client = RegistryClient::new(config, Arc::new(NoCredentials)).expect("client");
    let name: ImageReference = lab.pushed("x").to_string().parse().expect("reference");
    let repository = client.repository(&name);
    let slow = |pieces: u64| {
        stream::unfold(0, move |sent| async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            (sent < pieces).then_some((Ok(Bytes::from_static(b"piece")), sent + 1))
        })
    };
    // Three seconds and more in all.
    let blob = b"piece".repeat(6);
    let digest = Digest::of(&blob);
    repository.push_blob(digest, blob.len() as u64, slow(6).boxed()).await.expect("stored");
    assert!(repository.blob_exists(digest).await.expect("answered"));

    let stuck = slow(1).chain(stream::pending()).boxed();
    let error = repository.push_blob(digest, 1000, stuck).await.expect_err("stuck");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_registry_that_wants_a_login_says_so_before_the_work() {
    let mut lab = Lab::new();
    lab.registry = DockerRegistry::start_private(lab.registry_dir.path());
    let (from, to) = (lab.plain(), lab.pushed("lazy"));
    let started = std::sync::atomic::AtomicBool::new(false);
    let error = convert_image(&lab.access(), &from, &to, &options(), |_| {
        started.store(true, std::sync::atomic::Ordering::Relaxed);
    })
    .await
    .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("user name and password"), "{error}");
    assert!(!started.into_inner(), "a layer was begun");
    assert_eq!(lab.find("lazy").await.expect_err("refused").kind(), ErrorKind::Unauthorized);

    let known = Credentials::Basic { username: USER.into(), password: Secret::new(PASSWORD) };
    let known = StaticCredentials::new().with(lab.registry.address().to_string(), known);
    let client = RegistryClient::new(RegistryConfig::default(), Arc::new(known)).expect("client");
    let access = lab.access().with_registries(client);
    let report = convert(&access, &from, &to).await;
    let image = ImageSource::open(&access, &to, &amd64()).await.expect("pushed");
    assert_eq!(image.target().digest, report.digest);
}

#[tokio::test]
async fn dockers_media_types_survive_a_registry_or_become_ocis() {
    let lab = Lab::new();
    sample(lab.src.path(), media_type::DOCKER_MANIFEST);
    for (tag, docker, manifest, layer) in [
        ("docker", true, media_type::DOCKER_MANIFEST, media_type::DOCKER_LAYER_GZIP),
        ("oci", false, media_type::OCI_MANIFEST, media_type::OCI_LAYER_GZIP),
    ] {
        let mut options = options();
        options.docker = docker;
        let (from, to) = (lab.plain(), lab.pushed(tag));
        convert_image(&lab.access(), &from, &to, &options, |_| ()).await.expect("converted");
        let image = lab.find(tag).await.expect("pushed");
        assert_eq!(image.target().media_type, manifest);
        assert!(image.manifest().layers.iter().all(|l| l.media_type == layer), "{tag}");
    }
}

#[tokio::test]
async fn a_layer_that_occurs_twice_is_sent_once_and_stays_twice() {
    let lab = Lab::new();
    let layout = sample(lab.src.path(), media_type::OCI_MANIFEST);
    let layers: Vec<_> = [LAYERS[1], LAYERS[0], LAYERS[1]]
        .iter()
        .map(|hex| add_layer(&layout, hex, &json!({})))
        .collect();
    add_image(&layout, media_type::OCI_MANIFEST, &layers, "twice");
    let from = location(lab.src.path(), "twice");
    let report = convert(&lab.access(), &from, &lab.pushed("twice")).await;
    assert_eq!(report.layers[0], report.layers[2]);
    assert_ne!(report.layers[0], report.layers[1]);
    assert_eq!(lab.registry.requests("PUT", "/blobs/uploads/"), 3);
    let image = lab.find("twice").await.expect("pushed");
    assert_eq!(image.manifest().layers.len(), 3);
}

#[tokio::test]
async fn layers_without_files_are_converted() {
    let lab = Lab::new();
    let layout = sample(lab.src.path(), media_type::OCI_MANIFEST);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&[0; 1024]).expect("packed");
    let empty = add_blob(&layout, &gzip.finish().expect("packed"));
    add_image(&layout, media_type::OCI_MANIFEST, &[empty], "empty");
    add_image(&layout, media_type::OCI_MANIFEST, &[], "none");
    for (tag, layers) in [("empty", 1), ("none", 0)] {
        let from = location(lab.src.path(), tag);
        let report = convert(&lab.access(), &from, &lab.pushed(tag)).await;
        assert_eq!(report.layers.len(), layers);
        assert_eq!(lab.find(tag).await.expect("pushed").target().digest, report.digest);
    }
}

#[tokio::test]
async fn a_registry_that_lies_about_a_layer_is_found_out() {
    let lab = Lab::new();
    let layout = sample(lab.src.path(), media_type::OCI_MANIFEST);
    let path = layout.blob_dir().join(LAYERS[0]);
    let intact = fs::read(&path).expect("blob");
    let mut flipped = intact.clone();
    flipped[intact.len() / 2] ^= 1;
    for wrong in [&flipped, &intact[..intact.len() - 1]] {
        fs::write(&path, wrong).expect("written");
        let server = serve(layout.clone()).await;
        let (from, to) = (reference(server.address(), "org"), lab.pushed("lazy"));
        let error = convert_image(&lab.access(), &from, &to, &options(), |_| ())
            .await
            .expect_err("corrupt");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(LAYERS[0]), "{error}");
        assert_eq!(lab.find("lazy").await.expect_err("no tag").kind(), ErrorKind::NotFound);
        server.stop().await.expect("stopped");
    }
}

#[tokio::test]
async fn the_asked_platform_of_an_index_is_read_from_a_registry() {
    let dir = tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    let small = add_layer(&layout, LAYERS[1], &json!({}));
    let manifests = ["linux/amd64", "linux/arm64/v8"].map(|platform| {
        let tag = platform.replace('/', "-");
        let mut name =
            add_image(&layout, media_type::OCI_MANIFEST, std::slice::from_ref(&small), &tag);
        name.platform = Some(platform.parse().expect("platform"));
        name
    });
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        manifests: manifests.to_vec(),
        other: Map::new(),
    };
    let index = to_bytes(&index).expect("JSON");
    layout.put_document(&index).expect("stored");
    let name = bolide_image::manifest::Descriptor::of(media_type::OCI_INDEX, &index);
    layout.tag(&name, Some("all")).expect("tag");
    let server = serve(layout).await;
    let (all, access) = (reference(server.address(), "all"), access(dir.path()));
    for (at, platform) in ["linux/amd64", "linux/arm64"].into_iter().enumerate() {
        let platform = platform.parse().expect("platform");
        let image = ImageSource::open(&access, &all, &platform).await.expect("found");
        assert_eq!(image.target().digest, manifests[at].digest);
    }
    let other = "linux/s390x".parse().expect("platform");
    let error = ImageSource::open(&access, &all, &other).await.expect_err("not offered");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.context("offered"), Some("linux/amd64, linux/arm64/v8"));
}

#[tokio::test]
async fn documents_are_bounded() {
    let dir = tempdir().expect("dir");
    let layout = sample(dir.path(), media_type::OCI_MANIFEST);
    let padded = |filler: usize| {
        let config = to_bytes(&json!({"rootfs": {"diff_ids": []}, "x": "y".repeat(filler)}));
        let config = config.expect("JSON");
        fs::write(layout.blob_path(Digest::of(&config)), &config).expect("stored");
        let name = bolide_image::manifest::Descriptor::of(media_type::OCI_CONFIG, &config);
        let manifest = to_bytes(&json!({"schemaVersion": 2, "config": name, "layers": []}));
        let manifest = manifest.expect("JSON");
        layout.put_document(&manifest).expect("stored");
        let name = bolide_image::manifest::Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        layout.tag(&name, Some(&format!("padded{filler}"))).expect("tag");
    };
    padded(1 << 20);
    padded(5 << 20);
    let server = serve(layout).await;
    let access = access(dir.path());
    let open = async |filler: usize| {
        let name = reference(server.address(), &format!("padded{filler}"));
        ImageSource::open(&access, &name, &amd64()).await
    };
    open(1 << 20).await.expect("small enough");
    assert_eq!(open(5 << 20).await.expect_err("too large").kind(), ErrorKind::Exhausted);
}

#[tokio::test]
async fn locations_need_what_they_need() {
    let (dir, lab) = (tempdir().expect("dir"), Lab::new());
    let (from, to) = (lab.plain(), lab.pushed("lazy"));
    let refused = async |access: &Access, to: &Location| {
        let converted = convert_image(access, &from, to, &options(), |_| ()).await;
        converted.expect_err("refused").kind()
    };
    assert_eq!(refused(&Access::layouts(), &to).await, ErrorKind::Config);
    let name: ImageReference = lab.pushed("x").to_string().parse().expect("reference");
    let by_digest = Location::Registry(name.with_digest(Digest::of(b"")));
    assert_eq!(refused(&access(dir.path()), &by_digest).await, ErrorKind::Malformed);
    // Port 1 of this machine: nobody listens there.
    let nobody = reference("127.0.0.1:1", "lazy");
    assert_eq!(refused(&access(dir.path()), &nobody).await, ErrorKind::Unavailable);
}
