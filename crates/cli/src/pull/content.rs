//! Blobs of containerd's content store: written, labelled and read.
//!
//! containerd compares the digest of everything that is committed, so what is in the store was
//! verified.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bolide_containerd_api::{
    Connection, Ingest,
    content::{
        AbortRequest, Info, InfoRequest, ReadContentRequest, StatusRequest, UpdateRequest,
        WriteContentRequest,
    },
    optional,
};
use bolide_fetch::ImageReference;
use bolide_image::manifest::{self, Descriptor, MAX_DOCUMENT_BYTES};
use bytes::{Bytes, BytesMut};
use tokio::time;
use tonic::Code;

use super::{
    containerd::{Explain as _, refusal},
    labels::{self, Labels},
};

/// How often a blob that another client writes is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long another client may write nothing.
const STALLED: Duration = Duration::from_mins(1);

/// The content store, as it is filled from one repository.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) containerd: Connection,
    pub(super) origin: ImageReference,
}

impl Store {
    /// Reads a document, checked; `None` if the store does not hold it.
    pub(super) async fn document(&self, name: &Descriptor) -> Result<Option<Bytes>> {
        let wanted = format!("read {}", name.digest);
        let request = ReadContentRequest { digest: name.digest.to_string(), offset: 0, size: 0 };
        let answer = self.containerd.content().read(request).await;
        let answer = optional(answer, Code::NotFound);
        let Some(mut pieces) = answer.map_err(|status| refusal(&wanted, &status))? else {
            return Ok(None);
        };
        let mut whole = BytesMut::new();
        loop {
            let piece = match pieces.message().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                // The store is asked for the blob only when the stream is read.
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                Err(status) => return Err(refusal(&wanted, &status)),
            };
            whole.extend_from_slice(&piece.data);
            ensure!(whole.len() as u64 <= MAX_DOCUMENT_BYTES, "{} is no document", name.digest);
        }
        manifest::verify(name, &whole)?;
        Ok(Some(whole.freeze()))
    }

    /// Stores a document, or makes what is there this lease's, and sets labels.
    pub(super) async fn put(
        &self,
        kind: &str,
        name: &Descriptor,
        bytes: Bytes,
        labels: Labels,
    ) -> Result<()> {
        if let Some(mut ingest) = self.open(kind, name).await? {
            let rest = usize::try_from(ingest.offset()).ok().and_then(|at| bytes.get(at..));
            let rest = rest.context("another client wrote more than the document has")?;
            write(&mut ingest, bytes.slice_ref(rest)).await?;
            let commit = commit(ingest).await?;
            if let Commit::Mismatch(_) = commit {
                self.abort(kind, name).await?;
            }
            commit.explain(name)?;
        }
        self.label(name, labels).await
    }

    /// Sets labels of a blob, and where it came from, and leaves the others.
    pub(super) async fn label(&self, name: &Descriptor, mut labels: Labels) -> Result<()> {
        let wanted = format!("label {}", name.digest);
        let digest = name.digest.to_string();
        let request = InfoRequest { digest: digest.clone() };
        let answer = self.containerd.content().info(request).await.explain(&wanted)?;
        let known = answer.info.unwrap_or_default().labels;
        labels.extend(labels::source(&self.origin, &known));
        labels.retain(|key, value| known.get(key) != Some(value));
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest, labels, ..Info::default() };
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = UpdateRequest { info: Some(info), update_mask };
        self.containerd.content().update(request).await.explain(&wanted).map(drop)
    }

    /// Opens a blob for writing, where its last writer stopped; `None` if the store holds it, and
    /// then the lease keeps it. Waits while another client writes it.
    pub(super) async fn open(&self, kind: &str, name: &Descriptor) -> Result<Option<Ingest>> {
        // containerd's own names, so that two clients see each other.
        let reference = format!("{kind}-{}", name.digest);
        let head = WriteContentRequest {
            r#ref: reference.clone(),
            total: i64::try_from(name.size).context("a blob is smaller than 8 EiB")?,
            expected: name.digest.to_string(),
            ..WriteContentRequest::default()
        };
        let mut seen = (None, Instant::now());
        loop {
            let status = match Ingest::open(&self.containerd, head.clone()).await {
                Ok(ingest) => return Ok(Some(ingest)),
                Err(status) => status,
            };
            match status.code() {
                Code::AlreadyExists => return Ok(None),
                Code::Unavailable if status.message().contains("locked") => {}
                _ => return Err(refusal(&format!("store {}", name.digest), &status)),
            }
            let written = self.written(&reference).await;
            if seen.0 != written {
                seen = (written, Instant::now());
            }
            if seen.1.elapsed() > STALLED {
                bail!("another client writes {} and does not go on; end it", name.digest);
            }
            time::sleep(LOOK).await;
        }
    }

    /// Bytes another client wrote; `None` if it just ended.
    async fn written(&self, reference: &str) -> Option<i64> {
        let request = StatusRequest { r#ref: reference.to_owned() };
        let answer = self.containerd.content().status(request).await.ok()?;
        Some(answer.into_inner().status?.offset)
    }

    /// Throws away what was written of a blob.
    pub(super) async fn abort(&self, kind: &str, name: &Descriptor) -> Result<()> {
        let request = AbortRequest { r#ref: format!("{kind}-{}", name.digest) };
        let answer = optional(self.containerd.content().abort(request).await, Code::NotFound);
        answer.map(drop).map_err(|status| refusal("abort an upload", &status))
    }
}

/// How a commit ended.
#[derive(Debug)]
pub(super) enum Commit {
    /// The store holds the blob.
    Done,
    /// The bytes are not those that the digest names, in containerd's words.
    Mismatch(String),
}

impl Commit {
    pub(super) fn explain(self, name: &Descriptor) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Mismatch(rule) => Err(anyhow!(
                "the registry sent other bytes than its digest {} names; push the image again, or \
                 pull from another registry ({rule})",
                name.digest
            )),
        }
    }
}

/// Ends an upload; containerd compares size and digest.
pub(super) async fn commit(ingest: Ingest) -> Result<Commit> {
    let Err(status) = ingest.commit().await else { return Ok(Commit::Done) };
    match status.code() {
        Code::AlreadyExists => Ok(Commit::Done),
        Code::FailedPrecondition => Ok(Commit::Mismatch(status.message().to_owned())),
        _ => Err(refusal("commit a blob", &status)),
    }
}

/// Appends bytes to an upload.
pub(super) async fn write(ingest: &mut Ingest, bytes: Bytes) -> Result<()> {
    ingest.write(bytes).await.map_err(|status| refusal("write a blob", &status))
}
