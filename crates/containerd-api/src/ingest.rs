//! A blob on its way into containerd's content store.
use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::{
    Connection,
    content::{WriteAction, WriteContentRequest, WriteContentResponse},
};

/// Largest piece sent in one message, in bytes; containerd accepts 16 MiB.
const PIECE: usize = 1 << 20;

/// An upload. Dropped, it can be taken up where it stopped.
#[derive(Debug)]
pub struct Ingest {
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<WriteContentResponse>,
    head: WriteContentRequest,
    offset: u64,
}

impl Ingest {
    /// Opens an upload under a reference, where its last writer stopped. `AlreadyExists` when the
    /// store holds the blob, and then the lease keeps it; `Unavailable` with the word "locked" while
    /// another client writes it.
    pub async fn open(connection: &Connection, head: WriteContentRequest) -> Result<Self, Status> {
        let (requests, mut queue) = mpsc::channel(1);
        let ask = WriteContentRequest { action: WriteAction::Stat.into(), ..head.clone() };
        requests.try_send(ask).map_err(|error| Status::internal(error.to_string()))?;
        let sent = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        let responses = connection.content().write(sent).await?.into_inner();
        let mut ingest = Self { requests, responses, head, offset: 0 };
        let answer = ingest.answer().await?;
        ingest.offset = u64::try_from(answer.offset).unwrap_or_default();
        Ok(ingest)
    }

    /// Bytes the store has.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends bytes; `DataLoss` when not all of them were taken.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Status> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let end = self.offset + piece.len() as u64;
            let answer = self.send(WriteAction::Write, piece.into()).await?;
            if u64::try_from(answer.offset) != Ok(end) {
                return Err(Status::data_loss("containerd lost a part of a blob"));
            }
            self.offset = end;
        }
        Ok(())
    }

    /// Ends the upload; containerd compares size and digest. `FailedPrecondition` when they differ,
    /// `AlreadyExists` when somebody else stored the blob meanwhile.
    pub async fn commit(mut self) -> Result<(), Status> {
        self.send(WriteAction::Commit, Vec::new()).await.map(drop)
    }

    async fn send(
        &mut self,
        action: WriteAction,
        data: Vec<u8>,
    ) -> Result<WriteContentResponse, Status> {
        let offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        let request =
            WriteContentRequest { action: action.into(), offset, data, ..self.head.clone() };
        // A stream that broke says why in its answer.
        let _ = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        let ended = || Status::unavailable("containerd ended the upload");
        self.responses.message().await?.ok_or_else(ended)
    }
}
