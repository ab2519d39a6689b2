//! A mounter that only remembers what it was asked.
use std::{
    collections::BTreeMap,
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    Digest, Error, ErrorKind, Exposure, MountCapability, MountRequest, Mounted, Mounter, Result,
};

type Mounts = Arc<Mutex<BTreeMap<String, (Digest, Exposure)>>>;

/// A [`Mounter`] that keeps a list of what is mounted and shows nothing: for tests of whoever
/// drives mounters.
#[derive(Clone, Debug, Default)]
pub struct RecordingMounter {
    mounts: Mounts,
}

impl RecordingMounter {
    /// Ids mounted at this moment, in order.
    #[must_use]
    pub fn mounted(&self) -> Vec<String> {
        lock(&self.mounts).keys().cloned().collect()
    }
}

fn lock(mounts: &Mounts) -> MutexGuard<'_, BTreeMap<String, (Digest, Exposure)>> {
    mounts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Mounter for RecordingMounter {
    fn name(&self) -> &'static str {
        "recording"
    }

    async fn probe(&self) -> Result<MountCapability> {
        Ok(MountCapability::default())
    }

    async fn mount(&self, request: MountRequest) -> Result<Box<dyn Mounted>> {
        let entry = (request.layer.toc.digest(), Exposure::Directory(request.target));
        let mut mounts = lock(&self.mounts);
        let held = mounts.entry(request.id.clone()).or_insert_with(|| entry.clone());
        if *held != entry {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "recording_mounter::mount",
                "another layer or target is mounted under this id",
            )
            .with_context("id", request.id));
        }
        let mounts = Arc::clone(&self.mounts);
        Ok(Box::new(RecordingMounted { id: request.id, exposure: entry.1, mounts }))
    }
}

/// A handle of a [`RecordingMounter`].
#[derive(Debug)]
pub struct RecordingMounted {
    id: String,
    exposure: Exposure,
    mounts: Mounts,
}

#[async_trait]
impl Mounted for RecordingMounted {
    fn id(&self) -> &str {
        &self.id
    }

    fn exposure(&self) -> &Exposure {
        &self.exposure
    }

    async fn lost(&self) -> Error {
        // Nothing but `unmount` ends a mount that only exists as a record.
        future::pending().await
    }

    async fn unmount(&self) -> Result<()> {
        lock(&self.mounts).remove(&self.id);
        Ok(())
    }
}
