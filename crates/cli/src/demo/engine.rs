//! A containerd of the demonstration's own, with bolide as its snapshotter where it is to be lazy.
//!
//! Everything is below one directory and in this process's mount namespace. Containers outlive
//! their containerd by design, so that they are ended one by one.
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bolide_snapshotter::{Config, LayerReport, admin, assembly::Surroundings, daemon};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::programs;
use crate::{
    sandbox::{Finished, finish},
    surroundings,
};

/// Namespace of containerd, as `ctr` has it when nothing else is said.
pub(super) const NAMESPACE: &str = "default";
/// Longest time containerd may take to start.
const START: Duration = Duration::from_mins(1);
/// Longest time containerd may take to end, before it is killed.
const END: Duration = Duration::from_secs(20);
/// Longest word of readiness.
const MAX_NOTICE: usize = 4096;

/// Names that containerd is told; what is not there is not missed.
const DISABLED: &str = r#"[
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]"#;

/// What runs, if anything does. To be stopped whatever happens.
#[derive(Debug, Default)]
pub(super) struct Engine {
    dir: PathBuf,
    containerd: Option<Child>,
    snapshotter: Option<Snapshotter>,
}

#[derive(Debug)]
struct Snapshotter {
    config: Config,
    stop: CancellationToken,
    task: JoinHandle<bolide_core::Result<()>>,
}

impl Engine {
    /// Starts containerd below `dir`, an empty directory; with bolide if `lazy` tells how.
    pub(super) async fn start(&mut self, dir: &Path, lazy: Option<Config>) -> Result<()> {
        ensure!(self.containerd.is_none(), "one containerd is running");
        dir.clone_into(&mut self.dir);
        // Before containerd, which would be slow to notice it.
        if let Some(config) = lazy {
            self.start_snapshotter(config).await.context("cannot start the snapshotter")?;
        }
        self.start_containerd().await.context("cannot start containerd")
    }

    async fn start_snapshotter(&mut self, config: Config) -> Result<()> {
        let config = Config {
            address: self.dir.join("bolide.sock"),
            admin_address: self.dir.join("admin.sock"),
            ..config
        };
        let surroundings = Surroundings {
            docker_config: surroundings::docker_config(),
            proxy: surroundings::proxy()?,
            ..Surroundings::default()
        };
        let (stop, (ready, listening)) = (CancellationToken::new(), oneshot::channel());
        let (settings, stopped) = (config.clone(), stop.clone());
        let task = tokio::spawn(async move {
            // Nobody waits when this was interrupted.
            let ready = || ready.send(()).unwrap_or_default();
            daemon::serve(&settings, &surroundings, ready, stopped).await
        });
        self.snapshotter = Some(Snapshotter { config, stop, task });
        if listening.await.is_err() {
            self.stop_snapshotter().await?;
            bail!("it ended");
        }
        Ok(())
    }

    async fn start_containerd(&mut self) -> Result<()> {
        let (file, log) = (self.dir.join("containerd.toml"), self.log());
        std::fs::write(&file, self.configuration()).context("cannot write its configuration")?;
        let log = File::create(log).context("cannot make its log")?;
        let notice = self.dir.join("notice");
        let notices = UnixDatagram::bind(&notice).context("cannot listen to it")?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&file)
            .env("NOTIFY_SOCKET", &notice)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot make its log")?)
            .stderr(log)
            // An interrupt from the keyboard is for this process, which ends it in good order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let child = self.containerd.insert(child);
        let ready = tokio::select! {
            ready = timeout(START, readiness(&notices)) => {
                ready.unwrap_or_else(|_| Err(anyhow!("it did not say that it is ready")))
            }
            ended = child.wait() => Err(match ended {
                Ok(status) => anyhow!("it ended, {status}"),
                Err(error) => error.into(),
            }),
        };
        ready.map_err(|error| anyhow!("{error:#}; it said:\n{}", self.last_words()))
    }

    fn configuration(&self) -> String {
        let path = |name: &str| toml::Value::String(self.dir.join(name).display().to_string());
        let mut lines = vec![format!(
            "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = {DISABLED}\n\
             [grpc]\naddress = {}\n[ttrpc]\naddress = {}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {}\n",
            path("root"),
            path("state"),
            path("containerd.sock"),
            path("ttrpc.sock"),
            path("opt"),
        )];
        if self.snapshotter.is_some() {
            let address = path("bolide.sock");
            lines.push(format!(
                "[proxy_plugins.bolide]\ntype = \"snapshot\"\naddress = {address}\n"
            ));
        }
        lines.concat()
    }

    /// Socket of containerd.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// What bolide knows of its layers.
    pub(super) async fn layers(&self) -> Result<Vec<LayerReport>> {
        let Some(snapshotter) = &self.snapshotter else { return Ok(Vec::new()) };
        Ok(admin::status(&snapshotter.config.admin_address).await?.layers)
    }

    /// Runs `ctr` to its end, whatever comes of it.
    pub(super) async fn ctr(&self, arguments: &[&str]) -> Result<Finished> {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]).args(arguments);
        finish(ctr.process_group(0)).await.context("cannot run ctr")
    }

    /// Runs the program of an image in a container, to its end.
    pub(super) async fn run(
        &self,
        snapshotter: &str,
        image: &str,
        command: &[String],
    ) -> Result<Finished> {
        let place = |name: &str| self.dir.join(name).display().to_string();
        let (runc, fifos) = (place("runc"), place("fifo"));
        // The same name in another containerd of this machine would be in the way.
        let name = format!("bolide-demo-{}", std::process::id());
        let mut arguments = vec!["run", "--rm", "--snapshotter", snapshotter];
        arguments.extend(["--runc-root", &runc, "--fifo-dir", &fifos, image, &name]);
        arguments.extend(command.iter().map(String::as_str));
        self.ctr(&arguments).await
    }

    /// Ends everything; nothing happens where nothing runs.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let mut done = Ok(());
        if let Some(containerd) = self.containerd.take() {
            let ended = timeout(END, self.end_tasks()).await;
            let ended = ended.unwrap_or_else(|_| Err(anyhow!("containerd does not answer")));
            done = ended.and(end(containerd).await);
        }
        let stopped = self.stop_snapshotter().await.context("the snapshotter failed");
        done.and(stopped)
    }

    async fn stop_snapshotter(&mut self) -> Result<()> {
        let Some(Snapshotter { stop, task, .. }) = self.snapshotter.take() else { return Ok(()) };
        stop.cancel();
        Ok(task.await??)
    }

    /// Ends what an interruption left running.
    async fn end_tasks(&self) -> Result<()> {
        let listed = self.ctr(&["tasks", "ls", "--quiet"]).await?;
        for task in String::from_utf8_lossy(&listed.stdout.start).lines() {
            let removed = self.ctr(&["tasks", "rm", "--force", task]).await?;
            programs::succeeded("ctr tasks rm", &removed)?;
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }

    /// The last lines of containerd's log.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Waits for the word that a service manager would wait for (`sd_notify(3)`).
async fn readiness(notices: &UnixDatagram) -> Result<()> {
    let mut notice = [0; MAX_NOTICE];
    loop {
        let length = notices.recv(&mut notice).await.context("cannot listen to it")?;
        if notice[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return Ok(());
        }
    }
}

/// Asks a process to end, and kills it when it does not.
async fn end(mut child: Child) -> Result<()> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // It is this child still: it was not waited for.
        kill_process(pid, Signal::TERM).context("cannot end containerd")?;
    }
    match timeout(END, child.wait()).await {
        Ok(ended) => ended.map(drop).context("cannot wait for containerd"),
        Err(_) => child.kill().await.context("cannot kill containerd"),
    }
}
