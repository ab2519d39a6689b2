//! Images of several platforms, and what is taken over as it is.
mod support;

use std::fs;

use bolide_core::{Digest, ErrorKind};
use bolide_image::{
    Access, ConvertOptions, ConvertReport, InspectOptions, LayerReport, Layout, Location, PathList,
    Platform, Platforms, Prefetch, Prioritized, convert_image, inspect_image,
    manifest::{Descriptor, Index, Manifest, media_type, parse, to_bytes},
};
use serde_json::json;
use support::{
    access, add_index, add_true_image, amd64, docker_registry::DockerRegistry, location, options,
    reference,
};
use tempfile::{TempDir, tempdir};

const SHARED: &[(&str, &str)] = &[("etc/shared", "the same")];

/// A layout with an index, tagged `all`, of two images that share a layer, an attestation of each,
/// and an index with one more.
struct Lab {
    dir: TempDir,
    layout: Layout,
    images: Vec<Descriptor>,
    attestations: Vec<Descriptor>,
}

impl Lab {
    fn new() -> Self {
        let dir = tempdir().expect("dir");
        let layout = Layout::create(dir.path().join("src")).expect("layout");
        let images: Vec<_> = ["amd64", "arm64", "s390x"]
            .map(|name| add_true_image(&layout, name, &[SHARED, &[("bin/tool", name)]]))
            .into();
        let attestations: Vec<_> = images[..2].iter().map(|i| attest(&layout, i)).collect();
        let inner = add_index(&layout, &images[2..], "inner");
        let listed = [&images[..2], &attestations, &[inner]].concat();
        add_index(&layout, &listed, "all");
        Self { dir, layout, images, attestations }
    }

    fn source(&self) -> Location {
        location(self.layout.dir(), "all")
    }

    async fn convert(&self, tag: &str, options: &ConvertOptions) -> (ConvertReport, Layout) {
        let to = self.dir.path().join("to");
        let place = location(&to, tag);
        let (access, from) = (Access::layouts(), self.source());
        let report = convert_image(&access, &from, &place, options, |_| ()).await;
        (report.expect("converted"), Layout::open(to).expect("layout"))
    }
}

/// An attestation as builders write it: a manifest like an image's, whose layer is a statement.
fn attest(layout: &Layout, image: &Descriptor) -> Descriptor {
    let statement = format!("{{\"subject\": \"{}\"}}", image.digest);
    layout.put_document(statement.as_bytes()).expect("stored");
    let config = to_bytes(&json!({"os": "unknown", "architecture": "unknown",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(statement.as_bytes())]}}));
    let config = config.expect("json");
    layout.put_document(&config).expect("stored");
    let manifest = to_bytes(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config),
        "layers": [Descriptor::of("application/vnd.in-toto+json", statement.as_bytes())]}));
    let manifest = manifest.expect("json");
    layout.put_document(&manifest).expect("stored");
    let mut name = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    let about = [
        ("vnd.docker.reference.type", "attestation-manifest".to_owned()),
        ("vnd.docker.reference.digest", image.digest.to_string()),
    ];
    name.annotations = about.map(|(key, value)| (key.to_owned(), value)).into();
    name.platform = Some("unknown/unknown".parse().expect("platform"));
    name
}

fn several(platforms: &[&str]) -> ConvertOptions {
    let platforms = platforms.iter().map(|text| text.parse().expect("platform")).collect();
    ConvertOptions { platforms: Platforms::Several(platforms), ..options() }
}

fn index_of(layout: &Layout, tag: &str) -> Index {
    let name = layout.resolve(Some(tag)).expect("image");
    parse(&name, &layout.document(&name).expect("document")).expect("index")
}

fn platforms(index: &Index) -> Vec<String> {
    let named = index.manifests.iter().map(|entry| entry.platform.as_ref());
    named.map(|platform| platform.expect("named").to_string()).collect()
}

/// Of each layer whether it has a prioritized area.
async fn marked(place: &Location) -> Vec<bool> {
    let options = InspectOptions { platform: amd64(), ..InspectOptions::default() };
    let report = inspect_image(&Access::layouts(), place, &options).await.expect("inspected");
    let mark = |layer: &LayerReport| layer.contents.map(|contents| contents.prefetch);
    report.layers.iter().map(|l| matches!(mark(l), Some(Prefetch::UpTo(_)))).collect()
}

#[tokio::test]
async fn all_platforms_become_one_index_and_share_their_layers() {
    let lab = Lab::new();
    let options = ConvertOptions { platforms: Platforms::All, ..options() };
    let (report, to) = lab.convert("all", &options).await;
    let index = index_of(&to, "all");
    assert_eq!(index.media_type.as_deref(), Some(media_type::OCI_INDEX));
    assert_eq!(index.other["annotations"], json!({"what": "all"}));
    let unknown = "unknown/unknown";
    let expected = ["linux/amd64", "linux/arm64", unknown, unknown, "linux/s390x"];
    assert_eq!(platforms(&index), expected);
    assert_eq!(report.digest, to.resolve(Some("all")).expect("image").digest);

    // What is no image stays as it was, with everything it needs.
    assert_eq!(index.manifests[2..4], lab.attestations[..]);
    for entry in &index.manifests {
        let manifest: Manifest =
            parse(entry, &to.document(entry).expect("stored")).expect("manifest");
        for name in manifest.layers.iter().chain([&manifest.config]) {
            let blob = fs::read(to.blob_path(name.digest)).expect("stored");
            assert_eq!(Digest::of(&blob), name.digest);
        }
    }
    let told: Vec<_> = report.images.iter().map(|image| (image.source, image.layers)).collect();
    assert_eq!(told, lab.images.iter().map(|image| (image.digest, 2)).collect::<Vec<_>>());
    assert_eq!(report.layers.len(), 6);
    assert_eq!(report.layers[0], report.layers[2]);
    assert_eq!(report.layers[0], report.layers[4]);
}

#[tokio::test]
async fn layers_of_several_platforms_are_converted_once() {
    let lab = Lab::new();
    let started = std::sync::atomic::AtomicUsize::new(0);
    let options = ConvertOptions { platforms: Platforms::All, ..options() };
    let to = location(&lab.dir.path().join("to"), "all");
    convert_image(&Access::layouts(), &lab.source(), &to, &options, |event| {
        if matches!(event, bolide_image::Progress::Started { .. }) {
            started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    })
    .await
    .expect("converted");
    assert_eq!(started.into_inner(), 4);
}

#[tokio::test]
async fn chosen_platforms_keep_what_attests_them() {
    let lab = Lab::new();
    let (_, to) = lab.convert("two", &several(&["linux/s390x", "linux/amd64"])).await;
    let index = index_of(&to, "two");
    assert_eq!(platforms(&index), ["linux/amd64", "unknown/unknown", "linux/s390x"]);
    assert_eq!(index.manifests[1], lab.attestations[0]);

    let one: Platform = "linux/s390x".parse().expect("platform");
    let options = ConvertOptions { platforms: Platforms::One(one), ..options() };
    let (report, to) = lab.convert("one", &options).await;
    let name = to.resolve(Some("one")).expect("image");
    assert_eq!((name.digest, name.is_index()), (report.digest, false));

    let missing = several(&["linux/amd64", "linux/mips"]);
    let place = location(&lab.dir.path().join("to"), "none");
    let error = convert_image(&Access::layouts(), &lab.source(), &place, &missing, |_| ())
        .await
        .expect_err("not offered");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.context("platform"), Some("linux/mips"));
}

#[tokio::test]
async fn a_layer_that_is_lazy_already_is_reused_unless_something_comes_first_in_it() {
    let lab = Lab::new();
    let one = options();
    let (first, to) = lab.convert("lazy", &one).await;
    let from = location(to.dir(), "lazy");
    let again = async |tag: &str, options: ConvertOptions| {
        let place = location(to.dir(), tag);
        convert_image(&Access::layouts(), &from, &place, &options, |_| ()).await.expect("converted")
    };
    let reuse = ConvertOptions { reuse: true, ..one.clone() };
    let kept = again("kept", reuse.clone()).await;
    assert_eq!(kept.digest, first.digest, "nothing changes");
    assert!(kept.layers.iter().all(|layer| layer.reused));

    for list in ["bin/*\n", "/bin/tool\n"] {
        let list = PathList::read_list(list.as_bytes()).expect("list");
        let prioritized = Prioritized::everywhere(list);
        let changed = again("changed", ConvertOptions { prioritized, ..reuse.clone() }).await;
        let reused: Vec<_> = changed.layers.iter().map(|layer| layer.reused).collect();
        assert_eq!(reused, [true, false]);
        assert_eq!(marked(&location(to.dir(), "changed")).await, [false, true]);
        assert!(changed.unmatched.is_empty(), "{:?}", changed.unmatched);
    }
    // Not asked for.
    assert!(again("anew", one.clone()).await.layers.iter().all(|layer| !layer.reused));
}

#[tokio::test]
async fn a_list_comes_first_in_each_layer_and_tells_what_it_missed() {
    let lab = Lab::new();
    let list = PathList::read_list(&b"bin/**\netc/shared\nno/such\n"[..]).expect("list");
    let options = ConvertOptions { prioritized: Prioritized::everywhere(list), ..options() };
    let (report, to) = lab.convert("list", &options).await;
    assert_eq!(marked(&location(to.dir(), "list")).await, [true, true]);
    assert_eq!(report.unmatched, ["no/such"]);

    // A list of a layer's own takes the place of the common one.
    let own: PathList = ["bin/tool".to_owned()].into_iter().collect();
    let prioritized = Prioritized::default().with_layer(report.layers[1].source, own);
    lab.convert("own", &ConvertOptions { prioritized, ..options }).await;
    assert_eq!(marked(&location(to.dir(), "own")).await, [false, true]);
}

#[tokio::test]
async fn within_a_registry_blobs_are_mounted_and_large_ones_go_in_chunks() {
    let (lab, work) = (Lab::new(), tempdir().expect("dir"));
    let registry_dir = tempdir().expect("dir");
    let registry = DockerRegistry::start(registry_dir.path());
    let all = ConvertOptions { platforms: Platforms::All, ..options() };
    let access = access(work.path()).with_upload_chunk(100);
    let first = reference(registry.address(), "all");
    let pushed = convert_image(&access, &lab.source(), &first, &all, |_| ()).await.expect("pushed");
    assert!(registry.requests("PATCH", "/blobs/uploads/") > 4);
    assert!(registry.requests("PUT", "/manifests/sha256:") == 5);
    assert_eq!(registry.requests("PUT", "/manifests/all"), 1);

    let moved = format!("{}/other/app:all", registry.address()).parse().expect("reference");
    let reuse = ConvertOptions { reuse: true, ..all.clone() };
    let sent = registry.requests("PATCH", "/blobs/uploads/");
    let copied = convert_image(&access, &first, &moved, &reuse, |_| ()).await.expect("copied");
    assert_eq!(copied.digest, pushed.digest);
    // Four layers and what two attestations need; configurations are written anew.
    assert_eq!(registry.requests("POST", "mount="), 8);
    assert_eq!(registry.requests("PUT", "/v2/other/app/blobs/uploads/"), 3);
    let small = registry.requests("PATCH", "/blobs/uploads/") - sent;
    assert!(small <= 3 * 6, "{small} chunks of configurations alone");
    let back = location(&lab.dir.path().join("back"), "all");
    let back = convert_image(&access, &moved, &back, &reuse, |_| ()).await.expect("copied");
    assert_eq!(back.digest, pushed.digest);
}
