//! A private containerd whose only foreign snapshotter is bolide.
use std::{
    ffi::OsStr,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{Finished, Process, daemon::quoted, run};

const READY: Duration = Duration::from_mins(1);
/// Longest time one `ctr` may take: a container that reads lazily in a debug build.
const PATIENCE: Duration = Duration::from_mins(5);

/// What the images of the tests run.
const PROGRAM: [&str; 2] = ["/usr/bin/python3", "/opt/bolide/start.py"];

/// Plugins that would look at the machine, or complain that they cannot.
const DISABLED: &str = r#"[
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]"#;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    dir: PathBuf,
    process: Process,
}

impl Containerd {
    /// Starts containerd below `dir` and waits for its socket. The snapshotter must listen by then:
    /// containerd would otherwise be slow to notice it.
    pub fn start(dir: &Path, snapshotter: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let socket = dir.join("containerd.sock");
        let config = format!(
            "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = {DISABLED}\n\
             [grpc]\naddress = {}\n[ttrpc]\naddress = {}\n\
             [proxy_plugins.bolide]\ntype = \"snapshot\"\naddress = {}\n",
            quoted(&dir.join("root")),
            quoted(&dir.join("state")),
            quoted(&socket),
            quoted(&dir.join("ttrpc.sock")),
            quoted(snapshotter),
        );
        let file = dir.join("config.toml");
        fs::write(&file, config)?;
        let log = dir.join("containerd.log");
        let mut process = Process::spawn(
            "containerd",
            Command::new("containerd").arg("--config").arg(&file),
            &log,
            &log,
        )?;
        process.wait_until("its socket", READY, || UnixStream::connect(&socket).ok())?;
        Ok(Self { dir: dir.to_owned(), process })
    }

    /// Socket of its API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Runs `ctr` in a namespace, whatever comes of it.
    pub fn try_ctr<I: AsRef<OsStr>>(
        &self,
        namespace: &str,
        arguments: impl IntoIterator<Item = I>,
    ) -> Result<Finished> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", namespace]);
        run(command.args(arguments), PATIENCE)
    }

    /// Runs `ctr` in a namespace; returns what it prints.
    pub fn ctr<I: AsRef<OsStr>>(
        &self,
        namespace: &str,
        arguments: impl IntoIterator<Item = I>,
    ) -> Result<String> {
        let arguments: Vec<_> =
            arguments.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let shown = format!("ctr {arguments:?}");
        let finished = self.try_ctr(namespace, &arguments)?;
        finished.success(&shown).with_context(|| self.log_text())
    }

    /// Runs a container to its end with further arguments to its program; returns what it prints.
    pub fn run_container(
        &self,
        namespace: &str,
        snapshotter: &str,
        reference: &str,
        arguments: &[&str],
    ) -> Result<String> {
        self.ctr(namespace, self.run_arguments(snapshotter, reference, arguments))
    }

    /// Like [`Containerd::run_container`], whatever comes of it.
    pub fn try_run_container(
        &self,
        namespace: &str,
        snapshotter: &str,
        reference: &str,
        arguments: &[&str],
    ) -> Result<Finished> {
        self.try_ctr(namespace, self.run_arguments(snapshotter, reference, arguments))
    }

    fn run_arguments(&self, snapshotter: &str, reference: &str, program: &[&str]) -> Vec<String> {
        // Another containerd of this machine may know a container of the same name.
        let id = format!("e2e-{}", self.process.id());
        let runc_root = self.dir.join("runc").display().to_string();
        let mut all: Vec<String> = ["run", "--rm", "--snapshotter", snapshotter]
            .map(str::to_owned)
            .into_iter()
            .chain(["--runc-root".to_owned(), runc_root, reference.to_owned(), id])
            .collect();
        if !program.is_empty() {
            // Arguments replace the image's own command line, entrypoint included.
            all.extend(PROGRAM.iter().chain(program).map(|&word| word.to_owned()));
        }
        all
    }

    /// Waits until containerd has noticed that a snapshotter which was away is back: it tries again
    /// after a while, and not because somebody asks.
    pub fn wait_for_snapshotter(&mut self, snapshotter: &str) -> Result<()> {
        let socket = self.socket();
        self.process.wait_until("the snapshotter's return", READY, || {
            let mut command = Command::new("ctr");
            command.arg("--address").arg(&socket);
            command.args(["snapshots", "--snapshotter", snapshotter, "ls"]);
            run(&mut command, PATIENCE).ok().filter(|finished| finished.status.success())
        })?;
        Ok(())
    }

    /// Snapshots of a namespace: key and parent of each.
    pub fn snapshots(&self, namespace: &str, snapshotter: &str) -> Result<Vec<(String, String)>> {
        let listed = self.ctr(namespace, ["snapshots", "--snapshotter", snapshotter, "ls"])?;
        // A snapshot without parent has two columns: key and kind.
        let row = |line: &str| {
            let mut words = line.split_ascii_whitespace().map(str::to_owned);
            let key = words.next()?;
            let second = words.next()?;
            Some((key, if words.next().is_some() { second } else { String::new() }))
        };
        Ok(listed.lines().skip(1).filter_map(row).collect())
    }

    /// Labels and kind of a snapshot, as JSON.
    pub fn snapshot_info(&self, namespace: &str, key: &str) -> Result<serde_json::Value> {
        let shown = self.ctr(namespace, ["snapshots", "--snapshotter", "bolide", "info", key])?;
        serde_json::from_str(&shown).context(shown)
    }

    /// Removes an image and waits until garbage collection is over.
    pub fn remove_image(&self, namespace: &str, reference: &str) -> Result<()> {
        self.ctr(namespace, ["images", "rm", "--sync", reference]).map(drop)
    }

    fn log_text(&self) -> String {
        let log = self.dir.join("containerd.log");
        fs::read_to_string(log).unwrap_or_else(|error| format!("no log: {error}"))
    }

    /// Ends what a failed test left running; shims outlive containerd by design.
    fn end_tasks(&self) -> Result<()> {
        let namespaces = self.ctr("default", ["namespaces", "ls", "--quiet"])?;
        for namespace in namespaces.lines() {
            for task in self.ctr(namespace, ["tasks", "ls", "--quiet"])?.lines() {
                self.ctr(namespace, ["tasks", "rm", "--force", task])?;
            }
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Err(error) = self.end_tasks() {
            eprintln!("e2e: tasks may be left: {error:#}");
        }
    }
}
