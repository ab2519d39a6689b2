//! One run of a workload whose use of its image is recorded, from nothing to nothing.
use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use bolide_core::Digest;
use bolide_fs::{AccessObserver, AccessRecorder};
use bolide_image::{Access, Location};
use bolide_snapshotter::{Config, config::PrefetchSettings};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    args::{NetworkArgs, StopArgs, WorkloadArgs},
    cdi,
    cni::CniNetwork,
    container::{Container, Streams},
    hosts,
    spec::{self, Network, Parts},
    workload::Workload,
};
use crate::{
    interrupt::Signals,
    mount::{LazyStack, SourceImage, detach_below, recordable},
    sandbox::{exit_code, make_netns, mount_stack},
    usage::{self, UsedPath},
};

/// Start of the names of directories, and of containers.
const PREFIX: &str = "bolide-optimize-";

/// A run that is under way, or was, or will be: every state can be [closed](Self::close).
#[derive(Debug)]
pub(super) struct Session {
    work: TempDir,
    recorder: Arc<AccessRecorder>,
    layers: Option<LazyStack>,
    root: PathBuf,
    /// Whether something is mounted on the root.
    mounted: bool,
    network: Option<CniNetwork>,
    container: Option<Container>,
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub(super) image: &'a Location,
    pub(super) access: &'a Access,
    pub(super) plain_http: &'a [String],
    pub(super) workload: &'a WorkloadArgs,
    pub(super) network: &'a NetworkArgs,
    pub(super) stop: &'a StopArgs,
    /// Whether the workload must leave standard output alone.
    pub(super) aside: bool,
}

impl Session {
    /// Makes a place for everything, without mounting anything yet.
    pub(super) fn new() -> Result<Self> {
        let work = tempfile::Builder::new().prefix(PREFIX).tempdir();
        let work = work.context("cannot make a directory for the workload")?;
        let root = work.path().join("root");
        Ok(Self {
            work,
            recorder: Arc::default(),
            layers: None,
            root,
            mounted: false,
            network: None,
            container: None,
        })
    }

    /// Runs the workload until it, or the recording, is to end; what was used until then.
    pub(super) async fn record(
        &mut self,
        run: Run<'_>,
        signals: &mut Signals,
    ) -> Result<Vec<UsedPath>> {
        let image = signals.bound(self.start(run)).await?;
        self.wait(run.stop, signals).await?;
        // What the workload does when it is asked to end is no part of a start.
        usage::finish(&self.recorder, image)
    }

    /// Starts the workload; tells the digest of its image.
    async fn start(&mut self, run: Run<'_>) -> Result<Digest> {
        let image = SourceImage::open(run.image, run.access).await?;
        let (digest, config) = (image.digest(), image.runtime_config()?);
        let lazy = recordable(image, run.image, run.access, &self.path("recorded")).await?;
        self.mount(&lazy, run.plain_http).await?;
        let workload = Workload::new(run.workload, config, &self.root)?;
        let bundle = self.path("bundle");
        fs::create_dir(&bundle).context("cannot make a directory")?;
        let network = self.connect(run.network).await?;
        let parts = Parts {
            id: self.id()?,
            root: &self.root,
            workload: &workload,
            network: &network,
            mounts: &run.workload.mount,
            files: hosts::write(run.network, &bundle)?,
            edits: cdi::gpus(&run.workload.gpus, &run.workload.cdi_spec_dir)?,
        };
        let config = serde_json::to_vec(&spec::config(parts))?;
        fs::write(bundle.join("config.json"), config).context("cannot write a configuration")?;
        let streams = Streams {
            terminal: workload.terminal,
            stdin: run.workload.stdin,
            line: run.stop.wait_on_line.as_deref(),
            aside: run.aside,
        };
        self.container = Some(Container::start(&bundle, self.id()?, streams)?);
        Ok(digest)
    }

    async fn mount(&mut self, image: &SourceImage, plain_http: &[String]) -> Result<()> {
        // Nothing that is not used is fetched.
        let prefetch = PrefetchSettings {
            background: false,
            neighbours: false,
            ..PrefetchSettings::default()
        };
        let mut config = Config { root: self.path("node"), prefetch, ..Config::default() };
        config.registry.plain_http = plain_http.to_vec();
        let observer = Some(Arc::clone(&self.recorder) as Arc<dyn AccessObserver>);
        let layers = LazyStack::prepare(&config, self.work.path(), observer).await?;
        let layers = self.layers.insert(layers);
        layers.mount(image).await?;
        fs::create_dir(&self.root).context("cannot make a directory")?;
        mount_stack(layers.stack(), true, &self.root)?;
        self.mounted = true;
        Ok(())
    }

    async fn connect(&mut self, args: &NetworkArgs) -> Result<Network> {
        if !args.cni {
            return Ok(if args.net_host { Network::Host } else { Network::Loopback });
        }
        let netns = self.path("netns");
        make_netns(&netns).await?;
        let (configs, plugins) = (&args.cni_plugin_conf_dir, &args.cni_plugin_dir);
        let network = CniNetwork::load(configs, plugins, self.id()?, &netns)?;
        self.network.insert(network).connect().await?;
        Ok(Network::Named(netns))
    }

    async fn wait(&mut self, stop: &StopArgs, signals: &mut Signals) -> Result<()> {
        let container = self.container.as_mut().context("the workload was not started")?;
        let line = container.line();
        let ended = tokio::select! {
            ended = container.ended() => Some(ended?),
            () = line => None,
            () = sleep(stop.period), if !stop.wait_on_signal => None,
            _ = signals.interrupts.recv() => {
                if !stop.wait_on_signal {
                    bail!("interrupted");
                }
                None
            }
            _ = signals.terminates.recv() => bail!("interrupted"),
        };
        // What it used until then is a start all the same.
        if let Some(status) = ended.filter(|status| !status.success()) {
            tracing::warn!(code = exit_code(status), "the workload failed; its use is recorded");
        }
        Ok(())
    }

    /// Ends the workload, unmounts everything and removes what was made for it.
    pub(super) async fn close(self) -> Result<()> {
        let Self { work, layers, root, mounted, network, container, .. } = self;
        let mut done = match container {
            Some(container) => container.remove().await,
            None => Ok(()),
        };
        if let Some(network) = network {
            done = done.and(network.disconnect().await);
        }
        if mounted {
            let unmounted = unmount(&root, UnmountFlags::empty());
            done = done.and(unmounted.context("cannot unmount the workload's root"));
        }
        if let Some(layers) = layers {
            layers.shutdown().await;
        }
        // Nothing below may be a mount when files are removed.
        let real = work.path().canonicalize();
        let detached = real.context("cannot find a directory").and_then(|dir| detach_below(&dir));
        done.and(detached)?;
        work.close().context("cannot remove the directory of the workload")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// A name that nothing else has.
    fn id(&self) -> Result<&str> {
        self.work.path().file_name().and_then(|name| name.to_str()).context("a name is UTF-8")
    }
}
