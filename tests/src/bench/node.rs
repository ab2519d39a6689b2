//! A machine that has never seen an image: a daemon and a containerd with nothing in them.
use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{Containerd, Daemon, DaemonOptions, MountsBelow, bolide, run};
use serde::Deserialize;
use tempfile::TempDir;

/// A pull that takes longer has failed.
const PULL: Duration = Duration::from_mins(10);

/// A daemon and a containerd of one sample.
#[derive(Debug)]
pub(crate) struct Node {
    // Fields are dropped in this order: containerd before what it talks to, the directory last.
    pub(crate) containerd: Containerd,
    pub(crate) daemon: Daemon,
    _mounts: MountsBelow,
    dir: TempDir,
    registry: String,
    containers: u32,
}

/// What `bolide pull --json` tells.
#[derive(Debug, Deserialize)]
pub(crate) struct Pulled {
    pub(crate) layers: Vec<PulledLayer>,
}

/// One layer of a pull.
#[derive(Debug, Deserialize)]
pub(crate) struct PulledLayer {
    pub(crate) lazy: bool,
    pub(crate) reason: Option<String>,
    /// From its Prepare to the answer.
    pub(crate) seconds: f64,
}

impl Node {
    /// Starts the daemons of a fresh node that pulls from `registry`.
    pub(crate) fn start(registry: &str) -> Result<Self> {
        Ok(Self::start_after(registry, |_| Ok(()))?.0)
    }

    /// Starts a node after something was done with its daemon. To restart the daemon later would
    /// have containerd wait before it connects again, and refuse snapshots meanwhile.
    pub(crate) fn start_after<T>(
        registry: &str,
        first: impl FnOnce(&mut Daemon) -> Result<T>,
    ) -> Result<(Self, T)> {
        let dir = tempfile::Builder::new().prefix("bolide-bench-").tempdir()?;
        let mounts = MountsBelow(dir.path().to_owned());
        let options = DaemonOptions::default();
        let mut daemon = Daemon::start(&dir.path().join("bolide"), registry, &options)?;
        let done = first(&mut daemon)?;
        let containerd = Containerd::start(&dir.path().join("containerd"), &daemon.socket())?;
        let registry = registry.to_owned();
        let node = Self { containerd, daemon, _mounts: mounts, dir, registry, containers: 0 };
        Ok((node, done))
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The reference of an image in the registry of this node.
    pub(crate) fn reference(&self, image: &str) -> String {
        format!("{}/{image}", self.registry)
    }

    /// Pulls lazily; an image that is not lazy is no measurement.
    pub(crate) fn pull_lazily(&self, image: &str) -> Result<Pulled> {
        let mut command = bolide(["pull", "--json"])?;
        command.args(["--plain-http", &self.registry, "--address"]);
        command.arg(self.containerd.socket()).arg(self.reference(image));
        let document = run(&mut command, PULL)?
            .success("bolide pull")
            .with_context(|| format!("log of bolide serve:\n{}", self.daemon.log_text()))?;
        let pulled: Pulled = serde_json::from_str(&document).with_context(|| document)?;
        for layer in &pulled.layers {
            ensure!(layer.lazy, "a layer of {image} is not lazy: {:?}", layer.reason);
        }
        Ok(pulled)
    }

    /// Pulls and unpacks everything, as containerd does by itself.
    pub(crate) fn pull_whole(&self, image: &str) -> Result<()> {
        let reference = self.reference(image);
        let arguments =
            ["images", "pull", "--plain-http", "--snapshotter", "overlayfs", &reference];
        self.containerd.ctr("default", arguments).map(drop)
    }

    /// Makes a container and runs it to its end; tells how long each took.
    pub(crate) fn start_container(
        &mut self,
        snapshotter: &str,
        image: &str,
    ) -> Result<(Duration, Duration)> {
        self.containers += 1;
        // Runtimes of other containerds on this machine share a directory, so names must differ.
        let id = format!("bench-{}-{}", std::process::id(), self.containers);
        let reference = self.reference(image);
        let containerd = &self.containerd;
        let create = ["containers", "create", "--snapshotter", snapshotter, &reference, &id];
        let (created, _) = timed(|| containerd.ctr("default", create))?;
        let (ran, printed) = timed(|| containerd.ctr("default", ["tasks", "start", &id]))?;
        ensure!(printed.contains("bolide-e2e: "), "the program did not finish: {printed}");
        containerd.ctr("default", ["containers", "rm", &id])?;
        Ok((created, ran))
    }
}

/// How long something takes that may fail.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let begin = Instant::now();
    let done = work()?;
    Ok((begin.elapsed(), done))
}
