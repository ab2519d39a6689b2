//! Blobs of containerd's content store. containerd compares the digest of what is committed.
use std::collections::HashMap;

use bolide_containerd_api::{
    Ingest,
    content::{Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteContentRequest},
    leases::Resource,
    optional,
    prost_types::FieldMask,
};
use bolide_core::{BlobSource, ByteRange, Digest, ReadOptions, Result};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use tonic::{Code, Status};

use super::{ContainerdSession, refused};
use crate::manifest::Descriptor;

/// Labels of a blob.
pub(crate) type Labels = HashMap<String, String>;

impl ContainerdSession {
    /// Size and labels of a blob; `None` if the store does not hold it.
    pub(crate) async fn blob_info(&self, digest: Digest) -> Result<Option<(u64, Labels)>> {
        let answer =
            self.connection().content().info(InfoRequest { digest: digest.to_string() }).await;
        let answer = optional(answer, Code::NotFound);
        let answer = answer.map_err(|status| refused("look up a blob", &status))?;
        let info = answer.map(|answer| answer.info.unwrap_or_default());
        Ok(info.map(|info| (info.size.try_into().unwrap_or_default(), info.labels)))
    }

    /// Streams a range of a blob.
    pub(crate) async fn read_blob(
        &self,
        digest: Digest,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let number = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        let (offset, size) = (number(range.start()), number(range.len()));
        let request = ReadContentRequest { digest: digest.to_string(), offset, size };
        let explain =
            move |status: Status| refused("read a blob", &status).with_context("blob", digest);
        let pieces = self.connection().content().read(request).await.map_err(explain)?.into_inner();
        Ok(pieces.map(move |piece| Ok(piece.map_err(explain)?.data.into())).boxed())
    }

    /// Stores a blob unless it is there, and sets labels beside those it has.
    pub(crate) async fn write_blob(&self, blob: &dyn BlobSource, labels: Labels) -> Result<()> {
        self.lease().await?;
        let reference = format!("bolide-{}", blob.digest());
        self.uploads.lock().insert(reference.clone());
        if let Some(ingest) = self.ingest(&reference, blob).await? {
            fill(ingest, blob).await?;
        }
        self.uploads.lock().remove(&reference);
        self.label_blob(blob.digest(), labels).await
    }

    /// Whether the store holds a blob; it is the lease's now, too.
    pub(crate) async fn adopt_blob(&self, name: &Descriptor) -> Result<bool> {
        if self.blob_info(name.digest).await?.is_none_or(|(size, _)| size != name.size) {
            return Ok(false);
        }
        let resource = Resource { id: name.digest.to_string(), r#type: "content".to_owned() };
        self.hold(resource).await.map(|()| true)
    }

    /// Sets labels of a blob that is there and leaves the others; it is the lease's now, too.
    pub(crate) async fn label_blob(&self, digest: Digest, labels: Labels) -> Result<()> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_string(), labels, ..Info::default() };
        let update_mask = Some(FieldMask { paths });
        let answer = self
            .connection()
            .content()
            .update(UpdateRequest { info: Some(info), update_mask })
            .await;
        answer.map(drop).map_err(|status| refused("label a blob", &status))
    }

    /// Opens a blob for writing, where its last writer stopped; none if the store holds it.
    async fn ingest(&self, reference: &str, blob: &dyn BlobSource) -> Result<Option<Ingest>> {
        let head = WriteContentRequest {
            r#ref: reference.to_owned(),
            total: blob.size().try_into().unwrap_or(i64::MAX),
            expected: blob.digest().to_string(),
            ..WriteContentRequest::default()
        };
        match Ingest::open(self.connection(), head).await {
            Ok(ingest) => Ok(Some(ingest)),
            Err(status) if status.code() == Code::AlreadyExists => Ok(None),
            Err(status) => {
                let wanted = if status.message().contains("locked") {
                    "store a blob before the other command that stores it has ended"
                } else {
                    "store a blob"
                };
                Err(refused(wanted, &status).with_context("blob", blob.digest()))
            }
        }
    }
}

/// Sends what is missing of a blob.
async fn fill(mut ingest: Ingest, blob: &dyn BlobSource) -> Result<()> {
    if let Ok(rest) = ByteRange::new(ingest.offset()..blob.size()) {
        let mut pieces = blob.stream(rest, ReadOptions::default());
        while let Some(piece) = pieces.next().await {
            let written = ingest.write(piece?).await;
            written.map_err(|status| refused("write a blob", &status))?;
        }
    }
    match ingest.commit().await {
        Err(status) if status.code() != Code::AlreadyExists => {
            Err(refused("commit a blob", &status).with_context("blob", blob.digest()))
        }
        _ => Ok(()),
    }
}
