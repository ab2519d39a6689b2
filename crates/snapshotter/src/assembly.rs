//! The one place that names concrete backends: from a configuration to a working node.
use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bolide_cache::{DiskLayerConfig, DiskLayerStore, MemoryCache};
use bolide_core::{
    BlobOpener, ChunkCache, Digest, Error, ErrorKind, MountOptions, Mounter, OpaqueXattr, Result,
};
use bolide_estargz::format::TOC_IMAGE_SUFFIX;
use bolide_fetch::{
    CredentialProvider, DockerConfigCredentials, Meter, NoCredentials, NodeScheduler,
    OciLayoutOpener, PlainHttp, ProxyConfig, RegistryClient, RegistryConfig, RetryPolicy,
    SchedulerConfig, WrapOpener,
};
use bolide_fs::{AccessObserver, FuseConfig, FuseMounter, ReadConfig, WorkerPool};
use bolide_image::{Layout, Location};
use bolide_prefetch::{Driver, DriverConfig};
use bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    Config, RemoteLayers,
    blocking::blocking,
    layers::{LayerOptions, LayerParts, ManifestName, NodeLayers, Places},
    user_namespace,
};

/// Longest wait between two tries of one read: a registry that is back is noticed soon.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);
/// Read-ahead requests that a mount may have waiting; see [`FuseConfig`].
const MAX_BACKGROUND: u16 = 128;

/// What the binary finds in its environment. Libraries read none of it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Docker's `config.json`, unless the configuration names another.
    pub docker_config: Option<PathBuf>,
    /// The proxy for registries.
    pub proxy: Option<ProxyConfig>,
    /// Whether references may be written `oci:DIR`, and be read from that directory. Never for a
    /// daemon: its clients would choose directories for root to read.
    pub layouts: bool,
    /// Who is told what is used of the layers that are shown, by the ids they are mounted under.
    pub observer: Option<Arc<dyn AccessObserver>>,
}

/// Everything that mounts layers lazily on one machine.
#[derive(Debug)]
pub struct Node {
    layers: Arc<NodeLayers>,
    store: Arc<DiskLayerStore>,
    scheduler: Arc<NodeScheduler>,
    driver: Arc<Driver>,
    caches: Vec<Arc<dyn ChunkCache>>,
    mounter: &'static str,
    meter: Meter,
}

impl Node {
    /// Builds a node whose layer images lie below the configured root.
    ///
    /// `FailedPrecondition` when another process uses the root, `Unsupported` when this host cannot
    /// mount. Must be called on a tokio runtime with threads.
    pub async fn assemble(config: &Config, surroundings: &Surroundings) -> Result<Self> {
        config.check()?;
        let meter = Meter::new();
        let places = Arc::new(NodePlaces::new(config, surroundings, meter.clone())?);
        let mounter = mounter(config, surroundings.observer.clone()).await?;
        let name = mounter.name();
        make_spool(spool(config)).await?;
        let store =
            DiskLayerStore::open(config.root.join("store"), DiskLayerConfig::default()).await?;
        let caches = caches(config).await?;
        let scheduler = NodeScheduler::new(SchedulerConfig::default());
        let driver = Driver::start(DriverConfig::default());
        let parts = LayerParts {
            places,
            store: Arc::<DiskLayerStore>::clone(&store),
            scheduler: Arc::<NodeScheduler>::clone(&scheduler),
            caches: caches.clone(),
            driver: Arc::clone(&driver),
            mounter,
            workers: WorkerPool::default(),
        };
        let layers = Arc::new(NodeLayers::new(parts, options(config)));
        Ok(Self { layers, store, scheduler, driver, caches, mounter: name, meter })
    }

    /// Mounts layers.
    #[must_use]
    pub fn layers(&self) -> Arc<dyn RemoteLayers> {
        Arc::<NodeLayers>::clone(&self.layers)
    }

    /// Name of the mounter that shows layers here.
    #[must_use]
    pub fn mounter(&self) -> &'static str {
        self.mounter
    }

    /// Counts what goes to the network.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Unmounts what is not in use, ends every task and makes everything durable.
    pub async fn shutdown(&self) {
        self.layers.shutdown().await;
        self.driver.shutdown().await;
        self.scheduler.shutdown().await;
        for cache in &self.caches {
            if let Err(error) = cache.flush().await {
                tracing::warn!(cache = cache.name(), %error, "a cache tier is not written out");
            }
        }
        self.store.close().await;
    }
}

/// The first mounter that works here.
async fn mounter(
    config: &Config,
    observer: Option<Arc<dyn AccessObserver>>,
) -> Result<Arc<dyn Mounter>> {
    let fuse = FuseConfig { threads: config.fuse.threads, max_background: MAX_BACKGROUND };
    let mut mounter = FuseMounter::new(Handle::current(), fuse);
    if let Some(observer) = observer {
        mounter = mounter.with_observer(observer);
    }
    mounter.probe().await.map_err(|error| {
        Error::new(
            ErrorKind::Unsupported,
            "assembly::mounter",
            "layers cannot be mounted on this host: FUSE needs /dev/fuse and the right to mount",
        )
        .with_context("cause", &error)
        .with_source(error)
    })?;
    Ok(Arc::new(mounter))
}

async fn caches(config: &Config) -> Result<Vec<Arc<dyn ChunkCache>>> {
    let mut caches: Vec<Arc<dyn ChunkCache>> = Vec::new();
    if config.cache.memory > 0 {
        caches.push(Arc::new(MemoryCache::new(config.cache.memory)));
    }
    if config.cache.sled > 0 {
        caches.push(sled(config).await?);
    }
    Ok(caches)
}

#[cfg(feature = "sled")]
async fn sled(config: &Config) -> Result<Arc<dyn ChunkCache>> {
    let cache = bolide_cache::SledCache::open(&config.root.join("sled"), config.cache.sled).await?;
    Ok(Arc::new(cache))
}

#[cfg(not(feature = "sled"))]
#[allow(clippy::unused_async, reason = "the other of the two opens a database")]
async fn sled(_: &Config) -> Result<Arc<dyn ChunkCache>> {
    Err(Error::new(
        ErrorKind::Config,
        "assembly::sled",
        "this bolide was built without the feature sled: set cache.sled to 0",
    ))
}

fn spool(config: &Config) -> PathBuf {
    config.root.join("spool")
}

async fn make_spool(dir: PathBuf) -> Result<()> {
    blocking("assembly::spool", move || {
        std::fs::create_dir_all(&dir)
            .map_err(|error| Error::io("assembly::spool", error).with_context("dir", dir.display()))
    })
    .await
}

fn options(config: &Config) -> LayerOptions {
    let opaque = if user_namespace::inside() { OpaqueXattr::User } else { OpaqueXattr::Trusted };
    // A container's processes have other ids than the daemon; only root may let them in.
    let allow_other = rustix::process::geteuid().is_root();
    LayerOptions {
        read: ReadConfig { on_demand_timeout: config.read_timeout, ..ReadConfig::default() },
        mount: MountOptions { opaque, allow_other },
        allow_no_verification: config.allow_no_verification,
        background: config.prefetch.background,
        neighbours: config.prefetch.neighbours,
        fallback_prefetch: config.prefetch.fallback_size,
        prefetch_wait: config.prefetch.wait,
        // Only what is fetched whole can be checked as a whole.
        spool: (config.prefetch.background && config.prefetch.check_whole).then(|| spool(config)),
    }
}

/// Registries, and layouts where they are allowed.
#[derive(Debug)]
struct NodePlaces {
    registries: Arc<RegistryClient>,
    idle_timeout: Duration,
    retry: RetryPolicy,
    meter: Meter,
    layouts: bool,
}

impl NodePlaces {
    fn new(config: &Config, surroundings: &Surroundings, meter: Meter) -> Result<Self> {
        let settings = &config.registry;
        let plain_http = settings
            .plain_http
            .iter()
            .fold(PlainHttp::loopback(), |known, host| known.with_host(host.clone()));
        let credentials: Arc<dyn CredentialProvider> =
            match settings.docker_config.as_ref().or(surroundings.docker_config.as_ref()) {
                Some(path) => Arc::new(DockerConfigCredentials::new(path)),
                None => Arc::new(NoCredentials),
            };
        let registry = RegistryConfig {
            plain_http,
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
            proxy: surroundings.proxy.clone(),
            ..RegistryConfig::default()
        };
        Ok(Self {
            registries: RegistryClient::new(registry, credentials)?,
            idle_timeout: settings.idle_timeout,
            retry: patience(config.read_timeout),
            meter,
            layouts: surroundings.layouts,
        })
    }

    /// Where an image lies. Layouts only where they are allowed: elsewhere such a name is none.
    fn location(&self, reference: &str) -> Result<Location> {
        if self.layouts {
            return reference.parse();
        }
        Ok(Location::Registry(reference.parse()?))
    }

    fn place(&self, reference: &str) -> Result<Arc<dyn BlobOpener>> {
        match self.location(reference)? {
            Location::Layout { dir, .. } => Ok(Arc::new(OciLayoutOpener::new(dir))),
            Location::Registry(reference) => Ok(Arc::new(self.registries.repository(&reference))),
            other => Err(not_mounted(&other)),
        }
    }
}

#[async_trait]
impl Places for NodePlaces {
    fn opener(&self, reference: &str) -> Result<Arc<dyn BlobOpener>> {
        let opener = WrapOpener::new(self.place(reference)?)
            .with_idle_timeout(self.idle_timeout)
            .with_meter(self.meter.clone())
            .with_retry(self.retry.clone());
        Ok(Arc::new(opener))
    }

    async fn manifest(&self, reference: &str, wanted: ManifestName) -> Result<Bytes> {
        match self.location(reference)? {
            Location::Layout { dir, tag } => {
                blocking("assembly::manifest", move || layout_manifest(dir, tag.as_deref(), wanted))
                    .await
            }
            Location::Registry(image) => {
                let name = match wanted {
                    ManifestName::Digest(digest) => digest.to_string(),
                    ManifestName::TocImage => toc_image(image.tag())?,
                };
                let repository = self.registries.repository(&image);
                let read = || {
                    let read = async { Ok(repository.manifest(&name).await?.bytes) };
                    self.meter.count(read)
                };
                self.retry.run(Digest::of(name.as_bytes()), read).await
            }
            other => Err(not_mounted(&other)),
        }
    }
}

fn not_mounted(location: &Location) -> Error {
    let rule = "layers are mounted from a registry or an oci: layout; copy the image there";
    Error::new(ErrorKind::Unsupported, "assembly::place", rule).with_context("image", location)
}

fn layout_manifest(dir: PathBuf, tag: Option<&str>, wanted: ManifestName) -> Result<Bytes> {
    let layout = Layout::open(dir)?;
    let document = match wanted {
        ManifestName::Digest(digest) => layout.document_by_digest(digest)?,
        ManifestName::TocImage => layout.document(&layout.resolve(Some(&toc_image(tag)?))?)?,
    };
    Ok(document.into())
}

/// The tag of the image of TOCs beside that of a tag.
fn toc_image(tag: Option<&str>) -> Result<String> {
    tag.map(|tag| format!("{tag}{TOC_IMAGE_SUFFIX}")).ok_or_else(|| {
        let rule = "an image of TOCs is found by its image's tag: name the image by its tag";
        Error::new(ErrorKind::Malformed, "assembly::manifest", rule)
    })
}

/// Tries often enough that a read which a process waits for is given up by its own limit, not by
/// the number of tries, and not much more often.
fn patience(read_timeout: Duration) -> RetryPolicy {
    let base = RetryPolicy { max_delay: MAX_RETRY_DELAY, ..RetryPolicy::default() };
    let mut waited = Duration::ZERO;
    let mut delay = base.base_delay;
    let mut attempts = 1;
    while waited < read_timeout && attempts < 1000 {
        // Half of a wait is certain.
        waited += delay / 2;
        delay = (delay * 2).min(base.max_delay);
        attempts += 1;
    }
    RetryPolicy { attempts, seed: std::process::id().into(), ..base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_last_as_long_as_a_read_may_wait() {
        for seconds in [1, 3, 30, 300] {
            let limit = Duration::from_secs(seconds);
            let policy = patience(limit);
            let error = Error::new(ErrorKind::Unavailable, "test", "down");
            let waits = (1..policy.attempts).filter_map(|n| policy.delay(n, &error, 7));
            let total: Duration = waits.sum();
            assert!(total >= limit && total < limit * 3 + MAX_RETRY_DELAY, "{limit:?}: {total:?}");
        }
    }

    #[test]
    fn a_daemon_reads_no_directory_that_a_client_names() {
        let config = Config::default();
        let places = |layouts| {
            let surroundings = Surroundings { layouts, ..Surroundings::default() };
            NodePlaces::new(&config, &surroundings, Meter::new()).expect("places")
        };
        assert!(places(true).opener("oci:/somewhere").is_ok());
        let refused = places(false).opener("oci:/somewhere").expect_err("no reference");
        assert_eq!(refused.kind(), ErrorKind::Malformed);
    }
}
