//! What reading and writing images needs of the caller's world.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bolide_core::{Error, ErrorKind, Result};
use bolide_fetch::{RegistryClient, RetryPolicy, UploadOptions};

use crate::ContainerdSession;

/// What reading and writing images needs of the caller's world. Layouts and archives need none of
/// it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    registries: Option<Arc<RegistryClient>>,
    work_dir: Option<PathBuf>,
    retry: RetryPolicy,
    upload_chunk: Option<u64>,
    containerd: Option<Arc<ContainerdSession>>,
}

impl Access {
    /// Image layouts and archives only.
    #[must_use]
    pub fn layouts() -> Self {
        Self::default()
    }

    /// Registries too, through `client`.
    #[must_use]
    pub fn with_registries(mut self, client: Arc<RegistryClient>) -> Self {
        self.registries = Some(client);
        self
    }

    /// A directory, private to the caller, for blobs on their way into a registry or a containerd,
    /// and for archives that are compressed as a whole. Nothing stays in it.
    #[must_use]
    pub fn with_work_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.work_dir = Some(dir.into());
        self
    }

    /// How patiently registries are asked again.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How many bytes of a blob are sent to a registry in one request, at least 1.
    #[must_use]
    pub fn with_upload_chunk(mut self, size: u64) -> Self {
        self.upload_chunk = Some(size);
        self
    }

    /// A containerd too. Who gives it closes it afterwards.
    #[must_use]
    pub fn with_containerd(mut self, session: Arc<ContainerdSession>) -> Self {
        self.containerd = Some(session);
        self
    }

    pub(crate) fn registries(&self) -> Result<&Arc<RegistryClient>> {
        self.registries.as_ref().ok_or_else(|| {
            missing("a registry is reached through a client, which the caller must give")
        })
    }

    pub(crate) fn work_dir(&self) -> Result<&Path> {
        self.work_dir.as_deref().ok_or_else(|| {
            missing(
                "writing to a registry or a containerd needs a work directory, which the caller \
                 must give",
            )
        })
    }

    pub(crate) fn containerd(&self) -> Result<&Arc<ContainerdSession>> {
        self.containerd.as_ref().ok_or_else(|| {
            missing(
                "images of containerd are reached through a session, which the caller must give",
            )
        })
    }

    pub(crate) fn upload(&self) -> UploadOptions {
        let mut options = UploadOptions { retry: self.retry.clone(), ..UploadOptions::default() };
        options.chunk_size = self.upload_chunk.unwrap_or(options.chunk_size);
        options
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }
}

fn missing(rule: &'static str) -> Error {
    Error::new(ErrorKind::Config, "image::access", rule)
}
