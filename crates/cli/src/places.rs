//! How the commands reach the places that images lie at.
use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use bolide_image::{Access, ContainerdSession, Location};
use tempfile::TempDir;

use crate::{registry, size};

/// How places are reached.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Registry to speak to without TLS; this machine is one anyway
    #[arg(long, value_name = "HOST", value_parser = registry::plain_host)]
    plain_http: Vec<String>,
    /// Send blobs to a registry in pieces of this size; what breaks goes on from there
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = size::parse)]
    upload_chunk: u64,
    /// Socket of the containerd whose images are read or written
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd_address: PathBuf,
    /// Namespace of these images
    #[arg(long, value_name = "NAME", default_value = "default")]
    containerd_namespace: String,
}

/// Places that can be reached. To be closed in the end.
#[derive(Debug)]
pub(crate) struct Places {
    access: Access,
    containerd: Option<Arc<ContainerdSession>>,
    /// Dropped, and so removed, when all is done or has failed.
    _work_dir: Option<TempDir>,
}

impl PlaceArgs {
    /// Makes these places ready to be read and written.
    pub(crate) async fn open(&self, places: &[&Location]) -> Result<Places> {
        let any = |is_wanted: fn(&Location) -> bool| places.iter().any(|place| is_wanted(place));
        let mut access = Access::layouts().with_upload_chunk(self.upload_chunk);
        if any(|place| matches!(place, Location::Registry(_))) {
            access = access.with_registries(registry::client(&self.plain_http)?);
        }
        let mut containerd = None;
        if any(|place| matches!(place, Location::Containerd(_))) {
            let (address, namespace) = (&self.containerd_address, &self.containerd_namespace);
            let session = ContainerdSession::connect(address, namespace).await?;
            access = access.with_containerd(Arc::clone(&session));
            containerd = Some(session);
        }
        let mut work_dir = None;
        if any(|place| !matches!(place, Location::Layout { .. })) {
            // What is under way lies here, readable by nobody else.
            let dir = tempfile::Builder::new().prefix("bolide-").tempdir();
            let dir = dir.context("cannot make a temporary directory")?;
            access = access.with_work_dir(dir.path());
            work_dir = Some(dir);
        }
        Ok(Places { access, containerd, _work_dir: work_dir })
    }
}

impl Places {
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Gives back what containerd lent.
    pub(crate) async fn close(self, failed: bool) -> Result<()> {
        match &self.containerd {
            Some(session) => Ok(session.close(failed).await?),
            None => Ok(()),
        }
    }
}
