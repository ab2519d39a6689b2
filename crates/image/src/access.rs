//! What reading and writing images needs of the caller's world.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bolide_core::{Error, ErrorKind, Result};
use bolide_fetch::{RegistryClient, RetryPolicy};

/// What reading and writing images needs of the caller's world. Image layouts need none of it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    registries: Option<Arc<RegistryClient>>,
    work_dir: Option<PathBuf>,
    retry: RetryPolicy,
}

impl Access {
    /// Image layouts only.
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

    /// A directory, private to the caller, for blobs on their way into a registry. Nothing stays
    /// in it.
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

    pub(crate) fn registries(&self) -> Result<&Arc<RegistryClient>> {
        self.registries.as_ref().ok_or_else(|| {
            missing("a registry is reached through a client, which the caller must give")
        })
    }

    pub(crate) fn work_dir(&self) -> Result<&Path> {
        self.work_dir.as_deref().ok_or_else(|| {
            missing("writing to a registry needs a work directory, which the caller must give")
        })
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }
}

fn missing(rule: &'static str) -> Error {
    Error::new(ErrorKind::Config, "image::access", rule)
}
