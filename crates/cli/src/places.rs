//! How the commands reach the places that images lie at.
use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use bolide_image::{Access, ContainerdSession, Location};
use tempfile::TempDir;

use crate::registry;

/// How the place of an image is written.
pub(crate) const SOURCE: &str = "Image to read: a reference into a registry, oci:DIR[:TAG], \
    oci-archive:FILE[:TAG], docker-archive:FILE[:REF] or containerd:REF";

/// How places are reached.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Registry to speak to without TLS; this machine is one anyway
    #[arg(long, value_name = "HOST", value_parser = registry::plain_host)]
    plain_http: Vec<String>,
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
    _work_dir: TempDir,
}

impl PlaceArgs {
    /// Registries that are spoken to without TLS.
    pub(crate) fn plain_http(&self) -> &[String] {
        &self.plain_http
    }

    /// Makes these places ready to be read and written.
    pub(crate) async fn open(&self, places: &[&Location]) -> Result<Places> {
        let any = |is_wanted: fn(&Location) -> bool| places.iter().any(|place| is_wanted(place));
        // What is under way lies here, readable by nobody else.
        let work_dir = tempfile::Builder::new().prefix("bolide-").tempdir();
        let work_dir = work_dir.context("cannot make a temporary directory")?;
        let mut access = Access::layouts().with_work_dir(work_dir.path());
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
        Ok(Places { access, containerd, _work_dir: work_dir })
    }
}

impl Places {
    /// Sends blobs to registries in pieces of this size, in bytes.
    pub(crate) fn with_upload_chunk(mut self, size: u64) -> Self {
        self.access = self.access.with_upload_chunk(size);
        self
    }

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
