//! Blobs of containerd's content store. containerd compares the digest of what is committed.
use std::collections::HashMap;

use bolide_containerd_api::content::{
    Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest,
    WriteContentResponse,
};
use bolide_containerd_api::leases::Resource;
use bolide_core::{BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result};
use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::{ContainerdSession, optional, refused};
use crate::manifest::Descriptor;

/// Largest piece sent in one message, in bytes; containerd accepts 16 MiB.
const PIECE: usize = 1 << 20;

/// Labels of a blob.
pub(crate) type Labels = HashMap<String, String>;

impl ContainerdSession {
    /// Size and labels of a blob; `None` if the store does not hold it.
    pub(crate) async fn blob_info(&self, digest: Digest) -> Result<Option<(u64, Labels)>> {
        let answer = self.content().info(InfoRequest { digest: digest.to_string() }).await;
        let answer = optional(answer, Code::NotFound);
        let answer = answer.map_err(|status| refused("look up a blob", &status))?;
        let info = answer.map(|answer| answer.into_inner().info.unwrap_or_default());
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
        let pieces = self.content().read(request).await.map_err(explain)?.into_inner();
        Ok(pieces.map(move |piece| Ok(piece.map_err(explain)?.data.into())).boxed())
    }

    /// Stores a blob unless it is there, and sets labels beside those it has.
    pub(crate) async fn write_blob(&self, blob: &dyn BlobSource, labels: Labels) -> Result<()> {
        self.lease().await?;
        let reference = format!("bolide-{}", blob.digest());
        self.uploads.lock().insert(reference.clone());
        if let Some(mut ingest) = Ingest::open(self, &reference, blob).await? {
            if let Ok(rest) = ByteRange::new(ingest.offset..blob.size()) {
                let mut pieces = blob.stream(rest, ReadOptions::default());
                while let Some(piece) = pieces.next().await {
                    ingest.write(piece?).await?;
                }
            }
            ingest.commit().await?;
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
        let answer = self.content().update(UpdateRequest { info: Some(info), update_mask }).await;
        answer.map(drop).map_err(|status| refused("label a blob", &status))
    }
}

/// A blob on its way into the store.
struct Ingest {
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<WriteContentResponse>,
    head: WriteContentRequest,
    offset: u64,
}

impl Ingest {
    /// Opens a blob for writing, where its last writer stopped; `None` if the store holds it, and
    /// then the lease keeps it.
    async fn open(
        session: &ContainerdSession,
        reference: &str,
        blob: &dyn BlobSource,
    ) -> Result<Option<Self>> {
        let head = WriteContentRequest {
            r#ref: reference.to_owned(),
            total: blob.size().try_into().unwrap_or(i64::MAX),
            expected: blob.digest().to_string(),
            ..WriteContentRequest::default()
        };
        let explain = |status: &Status| {
            let error = refused("store a blob", status).with_context("blob", blob.digest());
            if status.message().contains("locked") {
                return error.with_context("remedy", "wait until the other command has ended");
            }
            error
        };
        let (requests, mut queue) = mpsc::channel(1);
        let ask = WriteContentRequest { action: WriteAction::Stat.into(), ..head.clone() };
        let sent = stream::poll_fn(move |context| queue.poll_recv(context));
        // There is room for one.
        let _ = requests.try_send(ask);
        let responses = optional(session.content().write(sent).await, Code::AlreadyExists);
        let Some(responses) = responses.map_err(|status| explain(&status))? else {
            return Ok(None);
        };
        let responses = responses.into_inner();
        let mut ingest = Self { requests, responses, head, offset: 0 };
        let answer = optional(ingest.answer().await, Code::AlreadyExists);
        let Some(answer) = answer.map_err(|status| explain(&status))? else { return Ok(None) };
        ingest.offset = u64::try_from(answer.offset).unwrap_or_default();
        Ok(Some(ingest))
    }

    /// Appends bytes.
    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let end = self.offset + piece.len() as u64;
            let answer = self.send(WriteAction::Write, piece.into()).await;
            let answer = answer.map_err(|status| refused("write a blob", &status))?;
            if u64::try_from(answer.offset) != Ok(end) {
                let rule = "containerd must keep what is written";
                return Err(Error::new(ErrorKind::Unexpected, "containerd::write", rule));
            }
            self.offset = end;
        }
        Ok(())
    }

    /// Ends the upload; containerd compares size and digest.
    async fn commit(mut self) -> Result<()> {
        let answer = self.send(WriteAction::Commit, Vec::new()).await;
        let answer = optional(answer, Code::AlreadyExists);
        answer.map(drop).map_err(|status| refused("commit a blob", &status))
    }

    async fn send(
        &mut self,
        action: WriteAction,
        data: Vec<u8>,
    ) -> std::result::Result<WriteContentResponse, Status> {
        let offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        let request =
            WriteContentRequest { action: action.into(), offset, data, ..self.head.clone() };
        // A stream that broke says why in its answer.
        let _ = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> std::result::Result<WriteContentResponse, Status> {
        let ended = || Status::unavailable("containerd ended the upload");
        self.responses.message().await?.ok_or_else(ended)
    }
}
