//! `bolide serve` with a configuration of its own, and the other commands of the binary.
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::Process;

const READY: Duration = Duration::from_secs(30);

/// What a test sets of the configuration.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Fetches what nobody asked for while the network is idle.
    pub background: bool,
    /// Longest time a read may block, as it is written in the configuration.
    pub read_timeout: String,
    /// Lines of the table `cache`.
    pub cache: String,
    /// Longest time a container's start waits for prefetch, as it is written in the configuration.
    pub prefetch_wait: String,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl Default for DaemonOptions {
    /// Nothing but what is read is fetched, so that what the registry sends can be judged.
    fn default() -> Self {
        Self {
            background: false,
            read_timeout: "30s".to_owned(),
            cache: String::new(),
            prefetch_wait: "0".to_owned(),
            environment: Vec::new(),
        }
    }
}

/// A running snapshotter.
#[derive(Debug)]
pub struct Daemon {
    dir: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

/// The part of `bolide status --json` that tests judge.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Layers that are lazy.
    pub layers: Vec<LazyLayer>,
    /// Layers that were to be lazy and are not.
    pub not_lazy: Vec<NotLazy>,
}

/// A lazy layer.
#[derive(Clone, Debug, Deserialize)]
pub struct LazyLayer {
    /// Digest of the blob.
    pub blob: String,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Uncompressed bytes present.
    pub present_bytes: u64,
    /// Uncompressed bytes in all.
    pub total_bytes: u64,
    /// Whether the whole blob was checked, and what it was found to be.
    pub whole: Option<bool>,
    /// What shows it.
    pub mounter: Option<String>,
}

/// A layer that fell back to a normal pull.
#[derive(Clone, Debug, Deserialize)]
pub struct NotLazy {
    /// Digest of the blob.
    pub blob: String,
    /// Why.
    pub reason: String,
}

impl Daemon {
    /// Writes the configuration below `dir`, starts the daemon and waits for its sockets.
    pub fn start(dir: &Path, registry: &str, options: &DaemonOptions) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let environment = options.environment.clone();
        let mut daemon = Self { dir: dir.to_owned(), environment, process: None };
        let config = format!(
            "root = {}\naddress = {}\nadmin_address = {}\nread_timeout = \"{}\"\n\
             [registry]\nplain_http = [\"{registry}\"]\n\
             [cache]\n{}\n[prefetch]\nbackground = {}\nwait = \"{}\"\n",
            quoted(&daemon.root()),
            quoted(&daemon.socket()),
            quoted(&daemon.admin_socket()),
            options.read_timeout,
            options.cache,
            options.background,
            options.prefetch_wait,
        );
        fs::write(dir.join("config.toml"), config)?;
        daemon.resume()?;
        Ok(daemon)
    }

    /// Socket that containerd is told of.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("bolide.sock")
    }

    /// Directory of everything the daemon keeps.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Number of its process, to look it up below `/proc`.
    pub fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("bolide serve does not run")?.id())
    }

    /// Starts the daemon again after it was stopped or killed.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new(binary()?);
        command.arg("serve").arg("--config").arg(self.dir.join("config.toml"));
        command.envs(self.environment.iter().cloned());
        let out = self.dir.join("out.log");
        let mut process = Process::spawn("bolide serve", &mut command, &out, &self.log())?;
        for socket in [self.socket(), self.admin_socket()] {
            process
                .wait_until("its socket", READY, || UnixStream::connect(&socket).ok())
                .with_context(|| self.log_text())?;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Ends the daemon in good order.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            let status = process.stop()?;
            ensure!(status.success(), "bolide serve: {status}\n{}", self.log_text());
        }
        Ok(())
    }

    /// What the daemon says of its layers.
    pub fn status(&self) -> Result<Status> {
        let mut command = bolide(["status", "--json", "--address"])?;
        let finished = crate::run(command.arg(self.admin_socket()), READY)?;
        let document = finished.success("bolide status")?;
        serde_json::from_str(&document).with_context(|| document)
    }

    /// Everything the daemon logged so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_else(|error| format!("no log: {error}"))
    }

    fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("serve.log")
    }
}

/// A path as a TOML string. Paths of tests hold nothing that would need an escape.
pub(crate) fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

/// The command under test with its first arguments.
pub fn bolide<const N: usize>(arguments: [&str; N]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments);
    Ok(command)
}

fn binary() -> Result<PathBuf> {
    from_environment("BOLIDE_E2E_BINARY")
}

/// A path that `cargo xtask` hands over.
pub fn from_environment(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable);
    let path = path.with_context(|| format!("{variable} is not set: run through `cargo xtask`"))?;
    Ok(path.into())
}
