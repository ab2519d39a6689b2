//! Images in every format of layers.
mod support;

use std::{fs, io::Read as _};

use bolide_core::{Digest, ErrorKind};
use bolide_estargz::{
    BlobFormat,
    format::{ANNOTATION_TOC_DIGEST, TOC_IMAGE_SUFFIX},
};
use bolide_image::{
    Access, ConvertOptions, ImageSource, Layout, Location, Platforms, convert_image,
    manifest::{Manifest, media_type, parse},
};
use support::{
    access, add_index, add_true_image, amd64, docker_registry::DockerRegistry, location,
    options_of, reference, run,
};
use tempfile::{TempDir, tempdir};

const LAYERS: [&[(&str, &str)]; 2] = [&[("etc/a", "one"), ("etc/b", "two")], &[("x", "three")]];

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
        let other = add_true_image(&layout, "arm64", &[LAYERS[0], &[("y", "four")]]);
        add_index(&layout, &[image, other], "all");
        Self { dir, layout }
    }

    fn source(&self, tag: &str) -> Location {
        location(self.layout.dir(), tag)
    }

    fn to(&self, tag: &str) -> Location {
        location(&self.dir.path().join("to"), tag)
    }
}

async fn open(place: &Location) -> ImageSource {
    ImageSource::open(&Access::layouts(), place, &amd64()).await.expect("image")
}

#[tokio::test]
async fn each_format_has_its_media_type_and_unpacks_alike() {
    let lab = Lab::new();
    let before = open(&lab.source("org")).await;
    for (format, name) in BlobFormat::ALL {
        let (from, to) = (lab.source("org"), lab.to(name));
        let options = options_of(format);
        let report = convert_image(&Access::layouts(), &from, &to, &options, |_| ()).await;
        let report = report.expect(name);
        let image = open(&to).await;
        let types = [media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER_ZSTD];
        let ids = &image.config().rootfs.diff_ids;
        for (at, (layer, told)) in image.manifest().layers.iter().zip(&report.layers).enumerate() {
            assert_eq!(layer.media_type, types[usize::from(format.is_zstd())], "{name}");
            assert_eq!(told.toc_digest.is_some(), format.is_lazy(), "{name}");
            let blob = image.open_blob(layer, layer.size).await.expect("stored").tail;
            let tar = if format.is_zstd() {
                zstd::decode_all(&blob[..]).expect("zstd")
            } else {
                let mut tar = Vec::new();
                flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar).expect("gzip");
                tar
            };
            assert_eq!(Digest::of(&tar), ids[at], "{name}");
        }
        let into = format!("oci:{}:{name}", lab.dir.path().join("theirs").display());
        run("skopeo", &["copy", "--quiet", &to.to_string(), &into]);
        let theirs = open(&into.parse().expect("location")).await;
        assert_eq!(theirs.target().digest, report.digest, "{name}");
        if !format.is_lazy() {
            assert_eq!(*ids, before.config().rootfs.diff_ids, "{name}");
        }
    }
}

#[tokio::test]
async fn a_diff_id_is_kept_on_demand_and_a_plain_image_forgets_that_it_was_lazy() {
    let lab = Lab::new();
    let before = open(&lab.source("org")).await;
    for format in [BlobFormat::EstargzExternalToc, BlobFormat::ZstdChunked] {
        let mut options = options_of(format);
        options.layer.keep_diff_id = true;
        let (from, to) = (lab.source("org"), lab.to("kept"));
        convert_image(&Access::layouts(), &from, &to, &options, |_| ()).await.expect("converted");
        let after = open(&to).await;
        assert_eq!(after.config().rootfs.diff_ids, before.config().rootfs.diff_ids);
        let plain = lab.to("plain");
        let options = options_of(BlobFormat::TarZstd);
        convert_image(&Access::layouts(), &to, &plain, &options, |_| ()).await.expect("converted");
        for layer in &open(&plain).await.manifest().layers {
            let lazy = |key: &String| key.contains("stargz") || key.contains("chunked");
            assert!(!layer.annotations.keys().any(lazy), "{:?}", layer.annotations);
        }
    }
}

#[tokio::test]
async fn a_diff_id_that_the_configuration_has_wrong_cannot_be_kept() {
    let lab = Lab::new();
    // Configurations of these samples name no true diffIDs.
    let layout = support::sample(&lab.dir.path().join("false"), media_type::OCI_MANIFEST);
    let mut options = options_of(BlobFormat::ZstdChunked);
    options.layer.keep_diff_id = true;
    let (from, to) = (location(layout.dir(), "org"), lab.to("kept"));
    let converted = convert_image(&Access::layouts(), &from, &to, &options, |_| ()).await;
    let error = converted.expect_err("another diffID");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(
        Layout::open(lab.dir.path().join("to")).expect("layout").resolve(Some("kept")).is_err()
    );
}

#[tokio::test]
async fn the_tocs_of_all_platforms_are_one_image_beside() {
    let (lab, work, registry_dir) = (Lab::new(), tempdir().expect("dir"), tempdir().expect("dir"));
    let registry = DockerRegistry::start(registry_dir.path());
    let options =
        ConvertOptions { platforms: Platforms::All, ..options_of(BlobFormat::EstargzExternalToc) };
    let (access, to) = (access(work.path()), reference(registry.address(), "lazy"));
    let report = convert_image(&access, &lab.source("all"), &to, &options, |_| ()).await;
    let report = report.expect("pushed");
    assert_eq!(report.toc_image, Some(format!("{to}{TOC_IMAGE_SUFFIX}")));
    support::assert_empty(work.path());
    // Whoever finds the image finds its TOCs.
    let log = fs::read_to_string(registry_dir.path().join("access.log")).expect("log");
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} is not there"));
    assert!(at("PUT /v2/team/app/manifests/lazy-esgztoc") < at("PUT /v2/team/app/manifests/lazy "));

    let from: Location = report.toc_image.expect("told").parse().expect("reference");
    let tocs = ImageSource::open(&access, &from, &amd64()).await.expect("an image");
    let layers = &tocs.manifest().layers;
    let of = |layer: &bolide_image::manifest::Descriptor| {
        layer.annotations["containerd.io/snapshot/stargz/layer.digest"].clone()
    };
    let mut expected: Vec<_> = report.layers.iter().map(|layer| layer.digest.to_string()).collect();
    expected.sort();
    expected.dedup();
    assert_eq!(layers.iter().map(of).collect::<Vec<_>>(), expected);
    for layer in layers {
        let blob = tocs.open_blob(layer, layer.size).await.expect("blob").tail;
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&blob[..]));
        let mut entry = tar.entries().expect("tar").next().expect("entry").expect("entry");
        assert_eq!(&*entry.path_bytes(), b"stargz.index.json");
        let mut toc = Vec::new();
        entry.read_to_end(&mut toc).expect("read");
        let told = report.layers.iter().find(|told| told.digest.to_string() == of(layer));
        assert_eq!(told.expect("told").toc_digest, Some(Digest::of(&toc)));
    }
    let lazy = ImageSource::open(&access, &to, &amd64()).await.expect("image");
    let annotated = |layer: &bolide_image::manifest::Descriptor| {
        layer.annotations.contains_key(ANNOTATION_TOC_DIGEST)
    };
    assert!(lazy.manifest().layers.iter().all(annotated));
}

#[tokio::test]
async fn an_archive_of_docker_takes_both_compressions() {
    let lab = Lab::new();
    for format in [BlobFormat::TarGzip, BlobFormat::TarZstd] {
        let file = lab.dir.path().join(format!("{format}.tar"));
        let to = format!("docker-archive:{}:lan/app:1", file.display());
        let mut options = options_of(format);
        options.layer.level = Some(3);
        let place = to.parse().expect("location");
        let from = lab.source("org");
        convert_image(&Access::layouts(), &from, &place, &options, |_| ()).await.expect("written");
        let into = format!("oci:{}:{format}", lab.dir.path().join("theirs").display());
        run("skopeo", &["copy", "--quiet", &to, &into]);
        let theirs = open(&into.parse().expect("location")).await;
        let source = open(&from).await;
        assert_eq!(theirs.config().rootfs.diff_ids, source.config().rootfs.diff_ids);
        assert_eq!(open(&place).await.config().rootfs.diff_ids, source.config().rootfs.diff_ids);
    }
}

#[tokio::test]
async fn an_archive_holds_an_image_and_its_tocs() {
    let lab = Lab::new();
    let file = lab.dir.path().join("lazy.tar");
    let to: Location = format!("oci-archive:{}:lazy", file.display()).parse().expect("location");
    let options = options_of(BlobFormat::EstargzExternalToc);
    let from = lab.source("org");
    convert_image(&Access::layouts(), &from, &to, &options, |_| ()).await.expect("written");
    let tocs = format!("{to}{TOC_IMAGE_SUFFIX}").parse().expect("location");
    let (lazy, tocs) = (open(&to).await, open(&tocs).await);
    assert_eq!(lazy.manifest().layers.len(), tocs.manifest().layers.len());
    let document = tocs.open_blob(tocs.target(), tocs.target().size).await.expect("stored").tail;
    let manifest: Manifest = parse(tocs.target(), &document).expect("manifest");
    assert_eq!(manifest.media_type.as_deref(), Some(media_type::OCI_MANIFEST));
}
