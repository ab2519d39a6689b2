//! `bolide serve`: the containerd snapshotter.
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bolide_snapshotter::{assembly::Surroundings, daemon};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{config, surroundings};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration [default: /etc/bolide/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of metadata, snapshots and layer images, in place of the configured one
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Socket that containerd talks to, in place of the configured one
    #[arg(long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// Socket that other commands talk to, in place of the configured one
    #[arg(long, value_name = "SOCKET")]
    admin_address: Option<PathBuf>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut settings = config::load(args.config.as_deref())?;
    let replace = |place: &mut PathBuf, given: Option<PathBuf>| {
        if let Some(path) = given {
            *place = path;
        }
    };
    replace(&mut settings.root, args.root);
    replace(&mut settings.address, args.address);
    replace(&mut settings.admin_address, args.admin_address);
    raise_descriptor_limit();
    let surroundings = Surroundings {
        docker_config: surroundings::docker_config(),
        proxy: surroundings::proxy()?,
        ..Surroundings::default()
    };
    let stop = CancellationToken::new();
    let signals = end_on_signals(stop.clone())?;
    let ready = || notify(sd_notify::NotifyState::Ready);
    let served = daemon::serve(&settings, &surroundings, ready, stop).await;
    signals.abort();
    notify(sd_notify::NotifyState::Stopping);
    Ok(served?)
}

/// A mounted layer holds five descriptors: with the 1024 that most sessions and units start with, a
/// node could show some 200 layers, and then neither mount nor answer containerd.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised: raise it with LimitNOFILE or ulimit -n");
    }
}

/// Stops in good order on SIGTERM and SIGINT.
fn end_on_signals(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("the daemon stops: a signal asked for it");
        stop.cancel();
    }))
}

/// Tells systemd, if it started this process.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_descriptors_that_may_be_had_are_had() {
        raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
