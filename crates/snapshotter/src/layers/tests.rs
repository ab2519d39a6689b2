//! What snapshots can rely on of the layers under them.
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use bolide_cache::{DiskLayerConfig, DiskLayerStore};
use bolide_core::{
    BlobOpener, BlobRef, BlobSource as _, Digest, OpenedBlob,
    memory::{DirectScheduler, MemoryBlob, RecordingMounter},
};
use bolide_estargz::{BuildOptions, TocTrust, convert_layer};
use bolide_prefetch::DriverConfig;
use bytes::Bytes;
use parking_lot::Mutex;

use super::*;

mod formats;

/// Blobs by digest, behind a network that can be cut.
#[derive(Clone, Debug, Default)]
struct Shelf {
    blobs: Arc<HashMap<Digest, MemoryBlob>>,
    down: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    manifests: Arc<Mutex<HashMap<ManifestName, Bytes>>>,
    asked: Arc<AtomicU64>,
}

impl Shelf {
    fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Manifests that were asked for.
    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn cut(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }
}

#[async_trait]
impl BlobOpener for Shelf {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "shelf::open", "the network is cut"));
        }
        let held = self.blobs.get(&blob.digest);
        let held =
            held.ok_or_else(|| Error::new(ErrorKind::NotFound, "shelf::open", "no such blob"))?;
        held.open(blob, tail_hint).await
    }
}

#[async_trait]
impl Places for Shelf {
    fn opener(&self, reference: &str) -> Result<Arc<dyn BlobOpener>> {
        if reference.is_empty() {
            return Err(Error::new(ErrorKind::Malformed, "shelf::opener", "no reference"));
        }
        Ok(Arc::new(self.clone()))
    }

    async fn manifest(&self, _: &str, wanted: ManifestName) -> Result<Bytes> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "shelf::manifest",
                "the network is cut",
            ));
        }
        let held = self.manifests.lock().get(&wanted).cloned();
        held.ok_or_else(|| Error::new(ErrorKind::NotFound, "shelf::manifest", "no such manifest"))
    }
}

/// An eStargz layer of one file, and the digest of its TOC.
fn layer(content: &[u8]) -> (MemoryBlob, Digest) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", content).expect("entry");
    let (tar, mut blob) = (tar.into_inner().expect("tar"), Vec::new());
    let report =
        convert_layer(&mut &tar[..], &mut blob, &BuildOptions::default(), None).expect("converts");
    (MemoryBlob::new(blob), report.toc_digest.expect("a TOC"))
}

fn toc_of(request: &RemoteLayerRequest) -> Option<Digest> {
    request.trust.and_then(TocTrust::digest)
}

impl Running {
    /// The report of the only layer, once `done` holds of it.
    async fn report_when(&self, done: impl Fn(&LayerReport) -> bool) -> LayerReport {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let seen = async {
            loop {
                let report = self.layers.status().remove(0);
                if done(&report) {
                    return report;
                }
                ticks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it does in time")
    }
}

struct Bench {
    dir: tempfile::TempDir,
    shelf: Shelf,
    mounter: RecordingMounter,
    requests: Vec<RemoteLayerRequest>,
}

/// One running node over the bench's directory.
struct Running {
    layers: NodeLayers,
    store: Arc<DiskLayerStore>,
    driver: Arc<Driver>,
}

impl Running {
    async fn end(self) {
        self.layers.shutdown().await;
        self.driver.shutdown().await;
        self.store.close().await;
    }
}

impl Bench {
    /// Two layers of one image.
    fn new() -> Self {
        Self::of([layer(b"lower"), layer(b"upper")])
    }

    fn of(made: [(MemoryBlob, Digest); 2]) -> Self {
        let digests: Vec<_> = made.iter().map(|(blob, _)| blob.digest()).collect();
        let request = |at: usize, toc: Digest| RemoteLayerRequest {
            target: format!("chain-{at}"),
            parent: String::new(),
            reference: "registry/image:1".into(),
            layer_digest: digests[at],
            trust: Some(TocTrust::Digest(toc)),
            image_manifest: None,
            prefetch_size: None,
            skip_verify: false,
            image_layers: digests[at + 1..].to_vec(),
        };
        let requests = made.iter().enumerate().map(|(at, (_, toc))| request(at, *toc)).collect();
        let blobs = made.into_iter().map(|(blob, _)| (blob.digest(), blob)).collect();
        Self {
            dir: tempfile::tempdir().expect("dir"),
            shelf: Shelf { blobs: Arc::new(blobs), ..Shelf::default() },
            mounter: RecordingMounter::default(),
            requests,
        }
    }

    async fn run(&self) -> Running {
        self.run_with(|_| ()).await
    }

    async fn run_with(&self, change: impl FnOnce(&mut LayerOptions)) -> Running {
        let root = self.dir.path().join("store");
        let store = DiskLayerStore::open(root, DiskLayerConfig::default()).await.expect("store");
        let driver = Driver::start(DriverConfig {
            // Nobody reads here, so nothing is waited for.
            background_delay: Duration::ZERO,
            ..DriverConfig::default()
        });
        let parts = LayerParts {
            places: Arc::new(self.shelf.clone()),
            store: Arc::<DiskLayerStore>::clone(&store),
            scheduler: Arc::new(DirectScheduler),
            caches: Vec::new(),
            driver: Arc::clone(&driver),
            mounter: Arc::new(self.mounter.clone()),
            workers: WorkerPool::new(1),
        };
        let mut options = LayerOptions {
            read: ReadConfig::default(),
            mount: MountOptions::default(),
            allow_no_verification: false,
            background: false,
            neighbours: false,
            fallback_prefetch: 0,
            prefetch_wait: Duration::ZERO,
            spool: None,
        };
        change(&mut options);
        Running { layers: NodeLayers::new(parts, options), store, driver }
    }

    /// A node that fetches everything and checks it.
    async fn run_whole(&self) -> Running {
        let spool = self.dir.path().to_owned();
        self.run_with(|options| {
            options.background = true;
            options.spool = Some(spool);
        })
        .await
    }

    fn target(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }
}

#[tokio::test]
async fn the_layers_of_an_image_are_opened_together() {
    let bench = Bench::new();
    let node = bench.run().await;
    let [lower, upper] = &bench.requests[..] else { panic!("two layers") };
    let info = node.layers.mount("1", lower, &bench.target("1")).await.expect("mounts");
    assert_eq!(Some(info.toc), toc_of(lower));
    // The upper layer was opened with the lower one, and not again for its own sake.
    node.layers.mount("2", upper, &bench.target("2")).await.expect("mounts");
    assert_eq!(bench.shelf.opened(), 2);
    assert_eq!(bench.mounter.mounted(), ["1", "2"]);
    let reports = node.layers.status();
    assert_eq!(reports[1].toc, toc_of(upper).map(|toc| toc.to_string()));
    assert_eq!(reports[1].mounter.as_deref(), Some("recording"));
    node.end().await;
    assert!(bench.mounter.mounted().is_empty());
}

#[tokio::test]
async fn what_was_mounted_comes_back_without_the_network() {
    let bench = Bench::new();
    let request = &bench.requests[0];
    let node = bench.run().await;
    node.layers.mount("7", request, &bench.target("7")).await.expect("mounts");
    node.end().await;
    bench.shelf.cut(true);
    let opened = bench.shelf.opened();
    let node = bench.run().await;
    node.layers.restore("7", request, &bench.target("7")).await.expect("from the disk");
    node.layers.check("7").await.expect("usable");
    assert_eq!(bench.shelf.opened(), opened);
    node.end().await;
}

#[tokio::test]
async fn a_layer_the_disk_does_not_know_is_broken_until_the_network_helps() {
    let bench = Bench::new();
    let request = &bench.requests[0];
    let node = bench.run().await;
    bench.shelf.cut(true);
    let restored = node.layers.restore("3", request, &bench.target("3")).await;
    assert_eq!(restored.expect_err("unknown").kind(), ErrorKind::Unavailable);
    assert_eq!(bench.shelf.opened(), 0, "a start does not ask the network");
    let checked = node.layers.check("3").await.expect_err("cut");
    assert_eq!(checked.kind(), ErrorKind::Unavailable);
    assert!(node.layers.status()[0].error.is_some());
    bench.shelf.cut(false);
    node.layers.check("3").await.expect("mounted when it is needed");
    assert_eq!(node.layers.status()[0].error, None);
    node.end().await;
}

#[tokio::test]
async fn a_failed_mount_is_forgotten() {
    let bench = Bench::new();
    let node = bench.run().await;
    bench.shelf.cut(true);
    let failed = node.layers.mount("1", &bench.requests[0], &bench.target("1")).await;
    assert_eq!(failed.expect_err("cut").kind(), ErrorKind::Unavailable);
    assert!(node.layers.status().is_empty());
    assert_eq!(node.layers.check("1").await.expect_err("unknown").kind(), ErrorKind::Unavailable);
    bench.shelf.cut(false);
    node.layers.mount("1", &bench.requests[0], &bench.target("1")).await.expect("mounts now");
    node.end().await;
}

#[tokio::test]
async fn a_layer_that_nothing_vouches_for_is_refused_unless_allowed_by_name() {
    let bench = Bench::new();
    let request = RemoteLayerRequest { trust: None, ..bench.requests[0].clone() };
    let node = bench.run().await;
    let refused = node.layers.mount("1", &request, &bench.target("1")).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.message().contains("bolide convert"), "{refused}");
    assert_eq!(bench.shelf.opened(), 0);
    node.end().await;
    let node = bench.run_with(|options| options.allow_no_verification = true).await;
    let info = node.layers.mount("1", &request, &bench.target("1")).await.expect("allowed");
    assert_eq!(Some(info.toc), toc_of(&bench.requests[0]));
    node.end().await;
}

#[tokio::test]
async fn a_toc_of_another_digest_is_refused() {
    let bench = Bench::new();
    let lie = RemoteLayerRequest {
        trust: Some(TocTrust::Digest(Digest::of(b"another"))),
        ..bench.requests[0].clone()
    };
    let node = bench.run().await;
    let refused = node.layers.mount("1", &lie, &bench.target("1")).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(bench.mounter.mounted().is_empty());
    node.end().await;
}

#[tokio::test]
async fn one_layer_of_two_images_is_kept_until_the_last_lets_go() {
    let bench = Bench::new();
    let one = &bench.requests[0];
    let two = RemoteLayerRequest {
        target: "chain-of-another".into(),
        reference: "registry/other:1".into(),
        ..one.clone()
    };
    let node = bench.run().await;
    node.layers.mount("1", one, &bench.target("1")).await.expect("mounts");
    node.layers.mount("2", &two, &bench.target("2")).await.expect("mounts");
    let held = || async { node.store.list().await.expect("lists").len() };
    assert_eq!(held().await, 1);
    node.layers.unmount("1").await.expect("unmounts");
    assert_eq!(held().await, 1, "the other image needs it");
    node.layers.check("2").await.expect("usable");
    node.layers.unmount("2").await.expect("unmounts");
    assert_eq!(held().await, 0, "nobody needs it");
    node.layers.unmount("2").await.expect("nothing to do");
    node.end().await;
}

#[tokio::test]
async fn an_id_is_one_layer_on_one_target() {
    let bench = Bench::new();
    let node = bench.run().await;
    let [lower, upper] = &bench.requests[..] else { panic!("two layers") };
    node.layers.mount("1", lower, &bench.target("1")).await.expect("mounts");
    node.layers.mount("1", lower, &bench.target("1")).await.expect("is mounted");
    for (request, target) in [(upper, "1"), (lower, "elsewhere")] {
        let taken = node.layers.mount("1", request, &bench.target(target)).await;
        assert_eq!(taken.expect_err("taken").kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(bench.mounter.mounted(), ["1"]);
    node.end().await;
}

#[tokio::test]
async fn a_check_that_waited_for_an_unmount_mounts_nothing() {
    let bench = Bench::new();
    let node = bench.run().await;
    node.layers.mount("1", &bench.requests[0], &bench.target("1")).await.expect("mounts");
    let slot = node.layers.0.find("1").expect("mounted");
    let turn = slot.turn.lock().await;
    // They queue in this order, then the first gets its turn.
    let (unmounted, checked, ()) =
        tokio::join!(node.layers.unmount("1"), node.layers.check("1"), async { drop(turn) });
    unmounted.expect("unmounts");
    assert_eq!(checked.expect_err("it is gone").kind(), ErrorKind::Unavailable);
    assert!(bench.mounter.mounted().is_empty(), "nobody would ever unmount it");
    node.end().await;
}

#[tokio::test]
async fn a_mount_that_ended_is_not_watched_any_more() {
    let bench = Bench::new();
    let node = bench.run().await;
    node.layers.mount("1", &bench.requests[0], &bench.target("1")).await.expect("mounts");
    node.layers.unmount("1").await.expect("unmounts");
    let watches = &node.layers.0.watches;
    watches.close();
    let ended = tokio::time::timeout(Duration::from_secs(30), watches.wait()).await;
    ended.expect("a daemon that runs for months must not keep a task for every mount it had");
    node.end().await;
}

#[tokio::test]
async fn a_mount_that_waited_for_one_that_failed_is_known() {
    let bench = Bench::new();
    let (request, target) = (&bench.requests[0], bench.target("1"));
    let node = bench.run().await;
    let slot = node.layers.0.slot("1", request, &target).expect("made");
    let turn = slot.turn.lock().await;
    bench.shelf.cut(true);
    let first = async {
        let failed = node.layers.mount("1", request, &target).await;
        bench.shelf.cut(false);
        failed
    };
    let second = node.layers.mount("1", request, &target);
    let (first, second, ()) = tokio::join!(first, second, async { drop(turn) });
    assert_eq!(first.expect_err("cut").kind(), ErrorKind::Unavailable);
    second.expect("mounts");
    assert_eq!(node.layers.status().len(), 1);
    node.layers.unmount("1").await.expect("unmounts");
    assert!(bench.mounter.mounted().is_empty());
    node.end().await;
}

#[tokio::test]
async fn a_layer_fetched_whole_is_checked_once() {
    let bench = Bench::new();
    let blob = &bench.shelf.blobs[&bench.requests[0].layer_digest];
    let (tar, _) = unpacked(blob).await;
    let request =
        RemoteLayerRequest { target: Digest::of(&tar).to_string(), ..bench.requests[0].clone() };
    let node = bench.run_whole().await;
    node.layers.mount("1", &request, &bench.target("1")).await.expect("mounts");
    let report = node.report_when(|report| report.whole.is_some()).await;
    assert_eq!((report.whole, report.present_bytes), (Some(true), report.total_bytes));
    node.end().await;
    let node = bench.run_whole().await;
    node.layers.restore("1", &request, &bench.target("1")).await.expect("restores");
    assert_eq!(node.layers.status()[0].whole, Some(true), "it is remembered");
    node.end().await;
    // The same blob under the name of another layer.
    let node = bench.run_whole().await;
    let misnamed = RemoteLayerRequest { target: Digest::of(b"x").to_string(), ..request };
    node.layers.mount("2", &misnamed, &bench.target("2")).await.expect("mounts");
    assert_eq!(node.layers.status()[0].whole, Some(false));
    node.end().await;
}

#[tokio::test]
async fn a_check_that_takes_long_keeps_no_reader_waiting() {
    let bench = Bench::new();
    let node = bench.run_whole().await;
    // As a check of a layer of gigabytes does.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let checks = node.layers.0.shared.parts.checks.clone();
    let long = async move { checks.run(move || Ok(held.recv().is_ok())).await };
    let long = tokio::spawn(long);
    tokio::task::yield_now().await;
    let target = bench.target("1");
    let mounted = node.layers.mount("1", &bench.requests[0], &target);
    let mounted = tokio::time::timeout(Duration::from_secs(30), mounted).await;
    mounted.expect("does not wait for the check").expect("mounts");
    let filled = node.report_when(|report| report.present_bytes == report.total_bytes).await;
    assert_eq!(filled.whole, None);
    release.send(()).expect("waits");
    assert!(long.await.expect("no panic").expect("ran"));
    node.report_when(|report| report.whole.is_some()).await;
    node.end().await;
}

#[tokio::test]
async fn a_blob_that_is_not_what_its_digest_says_is_never_called_whole() {
    let (blob, toc) = layer(b"content");
    // The registry sends these bytes under another digest; chunks and TOC are right.
    let lie = Digest::of(b"what the manifest names");
    let (_, bytes) = unpacked(&blob).await;
    let bench = Bench::of([(MemoryBlob::with_digest(bytes, lie), toc), layer(b"other")]);
    let node = bench.run_whole().await;
    node.layers.mount("1", &bench.requests[0], &bench.target("1")).await.expect("mounts");
    let report = node.report_when(|report| report.whole.is_some()).await;
    assert_eq!(report.whole, Some(false));
    node.layers.unmount("1").await.expect("unmounts");
    node.end().await;
}

/// A blob's tar, and its own bytes.
async fn unpacked(blob: &MemoryBlob) -> (Vec<u8>, Vec<u8>) {
    use std::io::Read as _;
    let whole = bolide_core::ByteRange::new(0..blob.size()).expect("not empty");
    let read = blob.read_at(whole, bolide_core::ReadOptions::default());
    let bytes = read.await.expect("memory").to_vec();
    let mut tar = Vec::new();
    flate2::bufread::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut tar).expect("gzip");
    (tar, bytes)
}
