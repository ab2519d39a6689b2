//! Everything a test needs, started in the right order and taken down in the reverse.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    Containerd, Daemon, DaemonOptions, Image, MountsBelow, Registry,
    daemon::{bolide, from_environment},
    detach_below, entrypoint, opened_files, run,
};

/// Converting a whole image in a debug build.
const CONVERSION: Duration = Duration::from_mins(5);
const PULL: Duration = Duration::from_mins(5);

/// A registry, a snapshotter and a containerd of one test.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order: containerd before what it talks to, the directory last.
    /// containerd with the snapshotter `bolide`.
    pub containerd: Containerd,
    /// `bolide serve`.
    pub daemon: Daemon,
    /// The registry images are pushed to and pulled from.
    pub registry: Registry,
    mounts: MountsBelow,
    dir: TempDir,
}

impl Lab {
    /// Starts a registry, then the snapshotter, then containerd.
    pub fn start(options: &DaemonOptions) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bolide-e2e-").tempdir()?;
        let mounts = MountsBelow(dir.path().to_owned());
        let registry = Registry::start(&dir.path().join("registry"))?;
        let daemon = Daemon::start(&dir.path().join("bolide"), &registry.host(), options)?;
        let containerd = Containerd::start(&dir.path().join("containerd"), &daemon.socket())?;
        Ok(Self { containerd, daemon, registry, mounts, dir })
    }

    /// A directory of the test's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Mount points of all daemons and tests of this lab.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        crate::mounts_below(&self.mounts.0)
    }

    /// Pushes the image as it was built, with plain tar.gz layers; returns its reference.
    pub fn push_plain(&self) -> Result<(String, Image)> {
        let image = Image::open(&from_environment("BOLIDE_E2E_LAYOUT")?)?;
        self.registry.push(&image, "python", "plain")?;
        Ok((format!("{}/python:plain", self.registry.host()), image))
    }

    /// Converts the image straight into the registry; returns its reference.
    pub fn push_estargz(&self) -> Result<(String, Image)> {
        self.convert("esgz", &[])
    }

    /// Converts the image with further options into the registry, as `python:TAG`.
    pub fn convert(&self, tag: &str, options: &[&str]) -> Result<(String, Image)> {
        let reference = format!("{}/python:{tag}", self.registry.host());
        let layout = from_environment("BOLIDE_E2E_LAYOUT")?;
        let mut command = bolide(["convert", "--plain-http", &self.registry.host()])?;
        command.arg(format!("oci:{}:python", layout.display())).arg(&reference).args(options);
        run(&mut command, CONVERSION)?.success("bolide convert")?;
        let image = self.registry.image("python", tag).context("the converted image")?;
        Ok((reference, image))
    }

    /// The files that the image's program opens, in the order of first use, as strace sees it run
    /// in an ordinary unpack.
    pub fn opened_files(&self) -> Result<Vec<String>> {
        let (reference, plain) = self.push_plain()?;
        let overlayfs = ["--snapshotter", "overlayfs", &reference];
        let pull = ["images", "pull", "--plain-http"].into_iter().chain(overlayfs);
        self.containerd.ctr("default", pull)?;
        let root = self.dir().join("opened");
        std::fs::create_dir(&root)?;
        let shown = root.to_str().context("paths of tests are UTF-8")?;
        let mount = ["images", "mount"].into_iter().chain(overlayfs).chain([shown]);
        self.containerd.ctr("default", mount)?;
        let files = opened_files(&root, &entrypoint(&plain)?);
        detach_below(&root)?;
        files
    }

    /// `bolide pull` into a namespace; returns the JSON document it prints.
    pub fn pull(&self, namespace: &str, reference: &str) -> Result<String> {
        let mut command = bolide(["pull", "--json", "--namespace", namespace])?;
        command.args(["--plain-http", &self.registry.host(), "--address"]);
        command.arg(self.containerd.socket()).arg(reference);
        run(&mut command, PULL)?
            .success("bolide pull")
            .with_context(|| format!("log of bolide serve:\n{}", self.daemon.log_text()))
    }
}
