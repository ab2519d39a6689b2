//! Where an image is written to.
use std::path::PathBuf;

use bolide_core::{Digest, Result};
use tempfile::NamedTempFile;

use crate::{Layout, Location, blob_reader::blocking, manifest::Descriptor};

/// Where an image is written to. Its name is given last, so nobody finds half an image.
#[derive(Clone, Debug)]
pub struct ImageSink {
    layout: Layout,
    tag: Option<String>,
}

impl ImageSink {
    /// Makes `location` ready to be written; `Unsupported` when it cannot be.
    pub async fn open(location: &Location) -> Result<Self> {
        let Location::Layout { dir, tag } = location else {
            return Err(crate::source::registry_unsupported(location));
        };
        let (dir, tag) = (dir.clone(), tag.clone());
        let layout = blocking(move || Layout::create(dir)).await?;
        Ok(Self { layout, tag })
    }

    /// A directory for the blobs that are being made, from where they reach their place without
    /// another copy.
    #[must_use]
    pub fn work_dir(&self) -> PathBuf {
        self.layout.blob_dir()
    }

    /// Stores a blob that was written in [`work_dir`](Self::work_dir) and has this digest.
    pub async fn put_blob(&self, file: NamedTempFile, digest: Digest) -> Result<()> {
        let layout = self.layout.clone();
        blocking(move || layout.put_blob(file, digest)).await
    }

    /// Stores a configuration.
    pub async fn put_document(&self, bytes: Vec<u8>) -> Result<()> {
        let layout = self.layout.clone();
        blocking(move || layout.put_document(&bytes)).await
    }

    /// Stores the manifest that `name` describes and gives the image its name.
    pub async fn publish(&self, name: Descriptor, bytes: Vec<u8>) -> Result<()> {
        let this = self.clone();
        blocking(move || {
            this.layout.put_document(&bytes)?;
            this.layout.tag(&name, this.tag.as_deref())
        })
        .await
    }
}
