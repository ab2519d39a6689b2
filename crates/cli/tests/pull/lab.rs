//! A registry and a containerd of one test, and the command under test.
use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bolide_e2e::{Containerd, Finished, Process, Registry, detach_below, run};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::image::Sample;

const PATIENCE: Duration = Duration::from_mins(3);
pub(crate) const NAMESPACE: &str = "pulled";

/// What one test needs.
pub(crate) struct Lab {
    // Fields are dropped in this order: containerd before its mounts, the directory last.
    pub(crate) containerd: Containerd,
    pub(crate) registry: Registry,
    mounts: MountsBelow,
}

/// A pull that is under way.
pub(crate) struct Pull {
    pub(crate) process: Process,
    err: NamedTempFile,
}

impl Pull {
    /// What it said on standard error so far.
    pub(crate) fn told(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.err.path())?)
    }
}

struct MountsBelow(TempDir);

impl Drop for MountsBelow {
    fn drop(&mut self) {
        if let Err(error) = detach_below(self.0.path()) {
            eprintln!("mounts are left: {error:#}");
        }
    }
}

/// Says loudly that nothing was tested, where nothing can be.
pub(crate) fn cannot_run() -> bool {
    let missing = ["containerd", "ctr", "runc", "docker-registry"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    let reason = match missing {
        _ if !rustix::process::geteuid().is_root() => "this test needs root".to_owned(),
        Some(program) => format!("{program} is not installed"),
        None => return false,
    };
    bolide_testkit::skip(&reason);
    true
}

impl Lab {
    /// Starts a registry and containerd.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(|_| Ok(())).map(|(lab, ())| lab)
    }

    /// Starts what `snapshotter` makes of a directory before containerd, which finds it at the
    /// socket `sock` there.
    pub(crate) fn start_with<T>(snapshotter: impl FnOnce(&Path) -> Result<T>) -> Result<(Self, T)> {
        let mounts = MountsBelow(tempfile::Builder::new().prefix("bolide-pull-").tempdir()?);
        let dir = mounts.0.path();
        let registry = Registry::start(&dir.join("registry"))?;
        let double = snapshotter(&dir.join("double"))?;
        let socket = dir.join("double/sock");
        let containerd = Containerd::start(&dir.join("containerd"), &socket)?;
        Ok((Self { containerd, registry, mounts }, double))
    }

    /// Uploads an image; returns its reference.
    pub(crate) fn push(&self, sample: &Sample) -> Result<String> {
        sample.push(&self.registry.host())?;
        Ok(format!("{}/sample:plain", self.registry.host()))
    }

    /// The command under test.
    pub(crate) fn command(&self, snapshotter: &str, reference: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bolide"));
        command.args(["pull", "--json", "--namespace", NAMESPACE, "--snapshotter", snapshotter]);
        command.args(["--plain-http", &self.registry.host(), "--address"]);
        command.arg(self.containerd.socket()).arg(reference);
        command.env("DOCKER_CONFIG", self.mounts.0.path());
        command
    }

    /// Starts the command under test.
    pub(crate) fn spawn(&self, snapshotter: &str, reference: &str) -> Result<Pull> {
        let (out, err) = (NamedTempFile::new()?, NamedTempFile::new()?);
        let mut command = self.command(snapshotter, reference);
        let process = Process::spawn("bolide pull", &mut command, out.path(), err.path())?;
        Ok(Pull { process, err })
    }

    pub(crate) fn try_pull(&self, snapshotter: &str, reference: &str) -> Result<Finished> {
        run(&mut self.command(snapshotter, reference), PATIENCE)
    }

    pub(crate) fn pull(&self, snapshotter: &str, reference: &str) -> Result<Value> {
        let finished = self.try_pull(snapshotter, reference)?;
        ensure!(finished.stderr.is_empty(), "{}", finished.stderr);
        let document = finished.success("bolide pull")?;
        serde_json::from_str(&document).context(document)
    }

    /// Pulls and expects a refusal; returns its words.
    pub(crate) fn refused(&self, snapshotter: &str, reference: &str) -> Result<String> {
        let finished = self.try_pull(snapshotter, reference)?;
        ensure!(finished.status.code() == Some(1), "{finished:?}");
        ensure!(finished.stdout.is_empty(), "{finished:?}");
        Ok(finished.stderr)
    }

    pub(crate) fn ctr<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        self.containerd.ctr(NAMESPACE, arguments)
    }

    /// Nothing of a pull may be left when it failed.
    pub(crate) fn expect_nothing(&self, snapshotter: &str) -> Result<()> {
        self.expect_no_lease()?;
        for list in [
            &["images", "ls", "--quiet"][..],
            &["content", "ls", "--quiet"],
            &["snapshots", "--snapshotter", snapshotter, "ls"],
            &["content", "active"],
        ] {
            let listed = self.containerd.ctr(NAMESPACE, list)?;
            let headings = ["KEY", "REF"];
            let left: Vec<_> =
                listed.lines().filter(|l| !headings.iter().any(|h| l.starts_with(h))).collect();
            ensure!(left.is_empty(), "{list:?}: {left:?}");
        }
        Ok(())
    }

    pub(crate) fn expect_no_lease(&self) -> Result<()> {
        let leases = self.ctr(["leases", "ls", "--quiet"])?;
        ensure!(leases.is_empty(), "leases are left: {leases}");
        Ok(())
    }
}
