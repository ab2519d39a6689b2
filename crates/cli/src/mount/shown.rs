//! An image on a directory, from its layers to the mount, and back to nothing.
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use bolide_core::Digest;
use bolide_fs::{AccessObserver, AccessRecorder};
use bolide_image::Location;
use bolide_snapshotter::Config;
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};
use tempfile::TempDir;

use super::{LazyStack, SourceImage, mountinfo, recordable::recordable, source::mountable};
use crate::{
    sandbox,
    usage::{self, UsedPath},
};

/// Start of the names of directories with layers.
const PREFIX: &str = "bolide-mount-";

/// What to show, and how.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) image: &'a Location,
    pub(super) writable: bool,
    /// Where data stays for the next time.
    pub(super) cache: Option<PathBuf>,
    /// Whether it is recorded what is used of the image.
    pub(super) record: bool,
    pub(super) plain_http: &'a [String],
}

/// An image that is being shown, or was, or will be: every state can be closed.
#[derive(Debug)]
pub(super) struct Shown {
    target: PathBuf,
    work: TempDir,
    layers: Option<LazyStack>,
    /// Digest of the image's manifest and what is used of it, if that is recorded.
    recording: Option<(Digest, Arc<AccessRecorder>)>,
    /// The mount on the target.
    mount: Option<u64>,
}

/// The directory to mount on, by its real name.
pub(super) fn target(dir: &Path) -> Result<PathBuf> {
    let real = dir.canonicalize();
    let real = real.with_context(|| format!("cannot mount on {}", dir.display()))?;
    ensure!(real.is_dir(), "cannot mount on {}: it is no directory", dir.display());
    Ok(real)
}

impl Shown {
    /// Makes a place for layers, without mounting anything yet.
    pub(super) fn new(target: &Path) -> Result<Self> {
        let work = tempfile::Builder::new().prefix(PREFIX).tempdir();
        let work = work.context("cannot make a directory for layers")?;
        Ok(Self { target: target.to_owned(), work, layers: None, recording: None, mount: None })
    }

    /// Where the image is shown.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Where the layers lie.
    pub(super) fn work(&self) -> &Path {
        self.work.path()
    }

    /// Shows the image; tells the id of the mount. To be [closed](Self::close) also when it fails.
    pub(super) async fn show(&mut self, wish: &Wish<'_>) -> Result<u64> {
        let (image, observer) = self.open(wish).await?;
        let root = match &wish.cache {
            Some(dir) => std::path::absolute(dir).context("cannot find the cache directory")?,
            None => self.work.path().join("node"),
        };
        let mut config = Config { root, ..Config::default() };
        config.registry.plain_http = wish.plain_http.to_vec();
        let layers = LazyStack::prepare(&config, self.work.path(), observer).await?;
        let layers = self.layers.insert(layers);
        layers.mount(&image).await?;
        sandbox::mount_stack(layers.stack(), wish.writable, &self.target)?;
        let mount = mountinfo::id_of(&self.target)?;
        self.mount = mount;
        mount.context("the mount is gone again")
    }

    async fn open(
        &mut self,
        wish: &Wish<'_>,
    ) -> Result<(SourceImage, Option<Arc<dyn AccessObserver>>)> {
        let access = mountable(wish.image, wish.plain_http)?;
        let image = SourceImage::open(wish.image, &access).await?;
        if !wish.record {
            return Ok((image, None));
        }
        let recorder = Arc::new(AccessRecorder::default());
        self.recording = Some((image.digest(), Arc::clone(&recorder)));
        let dir = self.work.path().join("recorded");
        let image = recordable(image, wish.image, &access, &dir).await?;
        Ok((image, Some(recorder)))
    }

    /// What was used of the image until now, if that is recorded; ends the recording.
    pub(super) fn used(&self) -> Result<Vec<UsedPath>> {
        match &self.recording {
            Some((image, recorder)) => usage::finish(recorder, *image),
            None => Ok(Vec::new()),
        }
    }

    /// Unmounts everything and removes what was made for it. What is in use goes out of sight now
    /// and ends with its last user, who gets errors from here on.
    pub(super) async fn close(self) -> Result<()> {
        let Self { target, work, layers, mount, .. } = self;
        // Perhaps it is gone: that may be why this ends.
        if mount.is_some() && mountinfo::id_of(&target)? == mount {
            match unmount(&target, UnmountFlags::empty()) {
                Err(Errno::BUSY) => {
                    tracing::warn!(target = %target.display(), "unmounted while in use");
                    unmount(&target, UnmountFlags::DETACH)
                }
                done => done,
            }
            .with_context(|| format!("cannot unmount {}", target.display()))?;
        }
        if let Some(layers) = layers {
            layers.shutdown().await;
        }
        clean(work.path())?;
        work.close().context("cannot remove the directory of layers")
    }
}

/// Removes what a process left that did not come to its end.
pub(super) fn remove_leftovers(target: &Path, mount: u64, work: &Path) -> Result<()> {
    if mountinfo::id_of(target)? == Some(mount) {
        unmount(target, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    clean(work)?;
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", work.display()))
        }
        _ => Ok(()),
    }
}

/// Nothing below may be a mount when files are removed.
fn clean(work: &Path) -> Result<()> {
    let real = work.canonicalize().unwrap_or_else(|_| work.to_owned());
    mountinfo::detach_below(&real)
}
