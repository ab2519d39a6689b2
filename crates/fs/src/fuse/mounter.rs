//! Mounts and unmounts layers.
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bolide_core::{
    Digest, Error, ErrorKind, Exposure, MountCapability, MountRequest, Mounted, Mounter, Result,
    memory::{MemoryLayerBuilder, MemoryLayerStore},
};
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use parking_lot::Mutex;
use rustix::mount::UnmountFlags;
use tokio::{runtime::Handle, sync::watch};
use tracing::Instrument as _;

use super::filesystem::LayerFilesystem;
use crate::{AccessObserver, Layer, ops::LayerOps};

/// How FUSE mounts behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuseConfig {
    /// Threads that read requests of one mount, at least 1. Each has a descriptor of its own.
    pub threads: usize,
    /// Reads ahead that the kernel may have waiting at once, at least 1. A reader that is blocked
    /// counts too once its file is read ahead.
    pub max_background: u16,
}

impl Default for FuseConfig {
    fn default() -> Self {
        // The kernel's own default of 12 would let one slow layer starve parallel readers.
        Self { threads: 2, max_background: 128 }
    }
}

/// Shows layers through FUSE: one mount a layer.
#[derive(Clone, Debug)]
pub struct FuseMounter {
    runtime: Handle,
    config: FuseConfig,
    observer: Option<Arc<dyn AccessObserver>>,
    live: Arc<Mutex<HashMap<String, Live>>>,
    /// Held while a mount is made, so that one id is mounted once.
    mounting: Arc<Mutex<()>>,
}

#[derive(Clone, Debug)]
struct Live {
    toc: Digest,
    exposure: Exposure,
    /// Why the session ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// Whether the end was asked for.
    unmounted: Arc<AtomicBool>,
    /// Unmounts, once: what it took from the session the session does not unmount at its end.
    session_mount: Arc<Mutex<Option<SessionUnmounter>>>,
}

impl FuseMounter {
    /// Fetches run on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle, config: FuseConfig) -> Self {
        Self { runtime, config, observer: None, live: Arc::default(), mounting: Arc::default() }
    }

    /// Tells an observer what is used of the layers it shows. Reads are slower: to see exactly what
    /// is read, nothing is read ahead.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn AccessObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The live mount of this id, if it shows the same.
    fn find(&self, request: &MountRequest) -> Result<Option<Live>> {
        let Some(live) = self.live.lock().get(&request.id).cloned() else { return Ok(None) };
        let exposure = Exposure::Directory(request.target.clone());
        if live.unmounted.load(Ordering::Acquire) || live.ended.borrow().is_some() {
            return Ok(None);
        }
        if live.toc == request.layer.toc.digest() && live.exposure == exposure {
            return Ok(Some(live));
        }
        Err(Error::new(
            ErrorKind::AlreadyExists,
            "fuse::mount",
            "another layer or target is mounted under this id",
        )
        .with_context("id", &request.id))
    }

    /// Mounts, or finds the mount. Blocks. Runs to its end once begun, so that a caller who goes
    /// away leaves no mount that nobody knows.
    fn find_or_start(&self, request: &MountRequest) -> Result<Live> {
        let _mounting = self.mounting.lock();
        if let Some(live) = self.find(request)? {
            return Ok(live);
        }
        let live = self.start(request)?;
        self.live.lock().insert(request.id.clone(), live.clone());
        Ok(live)
    }

    fn start(&self, request: &MountRequest) -> Result<Live> {
        let mut ops = LayerOps::new(request.layer.clone(), request.options.opaque)?;
        if let Some(observer) = &self.observer {
            ops = ops.observed(&request.id, Arc::clone(observer));
        }
        let runtime = self.runtime.clone();
        let filesystem = LayerFilesystem::new(Arc::new(ops), runtime, self.config.max_background);
        let session = Session::new(filesystem, &request.target, &self.options(request));
        let mut session = session.map_err(|error| {
            Error::new(
                ErrorKind::Unsupported,
                "fuse::mount",
                format!("FUSE cannot mount here: {error}"),
            )
            .with_context("target", request.target.display())
        })?;
        let session_mount = Arc::new(Mutex::new(Some(session.unmount_callable())));
        let (sender, ended) = watch::channel(None);
        let unmounted: Arc<AtomicBool> = Arc::default();
        let (target, asked) = (request.target.clone(), Arc::clone(&unmounted));
        let run = move || {
            let reason = session
                .run()
                .err()
                .map_or_else(|| "unmounted".to_owned(), |error| error.to_string());
            // Before anybody hears of it and mounts there again.
            if !asked.load(Ordering::Acquire) {
                clear_away(&target);
            }
            sender.send_replace(Some(reason));
        };
        std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(run)
            .map_err(|error| Error::io("fuse::mount", error))?;
        let exposure = Exposure::Directory(request.target.clone());
        Ok(Live { toc: request.layer.toc.digest(), exposure, ended, unmounted, session_mount })
    }

    fn options(&self, request: &MountRequest) -> Config {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("bolide".to_owned()),
            MountOption::Subtype("bolide".to_owned()),
            MountOption::RO,
            MountOption::Suid,
            MountOption::Dev,
        ];
        config.acl = if request.options.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(self.config.threads.max(1));
        config.clone_fd = self.config.threads > 1;
        config
    }

    fn handle(&self, id: String, live: Live) -> Box<dyn Mounted> {
        Box::new(FuseMounted { id, live, all: Arc::clone(&self.live) })
    }
}

#[async_trait]
impl Mounter for FuseMounter {
    fn name(&self) -> &'static str {
        "fuse"
    }

    async fn probe(&self) -> Result<MountCapability> {
        let target = tempdir()?;
        let made = MemoryLayerBuilder::default()
            .directory("probe", bolide_core::memory::NodeMeta::with_perm(0o755))?
            .build();
        let layer = Layer::builder()
            .source(Arc::new(made.blob))
            .index(made.toc)
            .store(Arc::new(MemoryLayerStore::new()));
        let layer = layer.build().await?.view();
        let id = format!("probe:{}", target.0.display());
        let request = MountRequest {
            id,
            layer,
            target: target.0.clone(),
            options: bolide_core::MountOptions::default(),
        };
        let mounted = self.mount(request).await?;
        let probed = target.0.join("probe");
        let seen = tokio::task::spawn_blocking(move || std::fs::metadata(probed)).await;
        mounted.unmount().await?;
        match seen {
            Ok(Ok(metadata)) if metadata.is_dir() => Ok(MountCapability::default()),
            other => Err(Error::new(
                ErrorKind::Unsupported,
                "fuse::probe",
                format!("a trial mount does not show its tree: {other:?}"),
            )),
        }
    }

    async fn mount(&self, request: MountRequest) -> Result<Box<dyn Mounted>> {
        let (mounter, id) = (self.clone(), request.id.clone());
        let span = tracing::info_span!(
            "mount",
            mounter = self.name(),
            id,
            toc = %request.layer.toc.digest(),
            target = %request.target.display(),
        );
        let start = tokio::task::spawn_blocking(move || mounter.find_or_start(&request));
        let started = start.instrument(span).await;
        let live = started.map_err(|error| {
            Error::new(ErrorKind::Unexpected, "fuse::mount", error.to_string())
        })??;
        Ok(self.handle(id, live))
    }
}

/// A directory that is removed when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // An empty directory left behind in /tmp harms nobody.
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn tempdir() -> Result<Scratch> {
    let base = std::env::temp_dir();
    let io = |error| Error::io("fuse::probe", error);
    for number in 0..100_u32 {
        let path = base.join(format!("bolide-probe-{}-{number}", std::process::id()));
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| Scratch(path)).map_err(io),
        }
    }
    Err(io(io::ErrorKind::AlreadyExists.into()))
}

/// A handle of a live mount.
#[derive(Debug)]
struct FuseMounted {
    id: String,
    live: Live,
    all: Arc<Mutex<HashMap<String, Live>>>,
}

#[async_trait]
impl Mounted for FuseMounted {
    fn id(&self) -> &str {
        &self.id
    }

    fn exposure(&self) -> &Exposure {
        &self.live.exposure
    }

    async fn lost(&self) -> Error {
        let mut ended = self.live.ended.clone();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        if self.live.unmounted.load(Ordering::Acquire) {
            // What was asked for is no loss.
            return std::future::pending().await;
        }
        Error::new(
            ErrorKind::Unavailable,
            "fuse::session",
            reason.unwrap_or_else(|| "the session panicked".to_owned()),
        )
        .with_context("id", &self.id)
    }

    async fn unmount(&self) -> Result<()> {
        let Exposure::Directory(target) = self.live.exposure.clone() else { return Ok(()) };
        let (asked, session_mount) =
            (Arc::clone(&self.live.unmounted), Arc::clone(&self.live.session_mount));
        let work = move || {
            // Before it happens: the session may end before the system call returns.
            if asked.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            // A session that still has its mount would unmount the path once more when it ends, and
            // with it whatever is mounted there by then.
            let first = session_mount.lock().take();
            let done = match first {
                Some(mut session) => session.unmount().map_err(|error| refused(&target, &error)),
                None => unmount(&target, UnmountFlags::empty()),
            };
            done.inspect_err(|_| asked.store(false, Ordering::Release))
        };
        let unmounted = tokio::task::spawn_blocking(work).await;
        unmounted.map_err(|error| {
            Error::new(ErrorKind::Unexpected, "fuse::unmount", error.to_string())
        })??;
        // Not waited for: an overlay on top holds the file system without its name, and the session
        // serves it until that is gone.
        let mut all = self.all.lock();
        if all.get(&self.id).is_some_and(|live| Arc::ptr_eq(&live.unmounted, &self.live.unmounted))
        {
            all.remove(&self.id);
        }
        Ok(())
    }
}

fn unmount(target: &Path, flags: UnmountFlags) -> Result<()> {
    rustix::mount::unmount(target, flags).map_err(|errno| refused(target, &errno.into()))
}

fn refused(target: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::ResourceBusy => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "fuse::unmount", error.to_string()).with_context("target", target.display())
}

/// Takes a mount whose connection was aborted out of the way, though something may still use it:
/// nothing else could be mounted there, and nobody could remove the directory. Blocks.
fn clear_away(target: &Path) {
    // Not `stat`: the kernel answers that from what it remembers of the root.
    let dead = [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED];
    let is_dead = rustix::fs::statfs(target).is_err_and(|errno| dead.contains(&errno));
    if is_dead && let Err(error) = detach(target) {
        tracing::warn!(%error, "a mount that died stays in the way; unmount it with umount --lazy");
    }
}

/// Takes a mount out of the tree of names, busy or not: for mounts whose process has died. What is
/// open keeps failing; nothing new sees it. Blocks.
pub fn detach(target: &Path) -> Result<()> {
    unmount(target, UnmountFlags::DETACH)
}
