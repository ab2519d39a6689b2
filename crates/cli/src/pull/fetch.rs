//! Blobs of layers that are not lazy: streamed from the registry into containerd's content store,
//! some of them before their turn.
use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bolide_containerd_api::Ingest;
use bolide_core::{BlobOpener, BlobRef, ByteRange, Digest, ReadOptions};
use bolide_fetch::{Repository, RetryPolicy, WrapOpener};
use bolide_image::manifest::Descriptor;
use bytes::BytesMut;
use futures::StreamExt as _;
use indicatif::ProgressBar;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::{
    content::{self, Commit, Store},
    labels::Labels,
};

/// Blobs fetched at one time, as many as containerd's clients fetch.
const AT_ONCE: usize = 3;
/// Longest wait for the next bytes.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes collected before they are sent to containerd, which answers each message.
const BUFFER: usize = 512 << 10;
/// What containerd puts before the digest to name the upload of a layer.
const KIND: &str = "layer";

/// The blobs of a repository, read with patience.
pub(super) fn patient(repository: &Repository) -> Arc<dyn BlobOpener> {
    let opener = WrapOpener::new(Arc::new(repository.clone()));
    Arc::new(opener.with_idle_timeout(IDLE).with_retry(RetryPolicy::default()))
}

/// Fetches blobs in tasks that end with it.
#[derive(Debug)]
pub(super) struct Fetcher {
    store: Store,
    registry: Arc<dyn BlobOpener>,
    permits: Arc<Semaphore>,
    tasks: HashMap<Digest, AbortOnDropHandle<Result<()>>>,
}

impl Fetcher {
    pub(super) fn new(store: Store, registry: Arc<dyn BlobOpener>) -> Self {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Self { store, registry, permits, tasks: HashMap::new() }
    }

    /// Begins to fetch a blob, after those begun before.
    pub(super) fn begin(&mut self, blob: &Descriptor, bar: &ProgressBar) {
        self.tasks.entry(blob.digest).or_insert_with(|| {
            let (store, registry) = (self.store.clone(), Arc::clone(&self.registry));
            let (permits, blob, bar) = (Arc::clone(&self.permits), blob.clone(), bar.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                let _permit = permits.acquire_owned().await?;
                fetch(&store, registry.as_ref(), &blob, &bar).await
            }))
        });
    }

    /// Waits until the store holds a blob.
    pub(super) async fn need(&mut self, blob: &Descriptor, bar: &ProgressBar) -> Result<()> {
        self.begin(blob, bar);
        let Some(task) = self.tasks.remove(&blob.digest) else { return Ok(()) };
        task.await.context("a download ended early")?
    }

    /// Stops fetching a blob that turned out not to be needed.
    pub(super) fn cancel(&mut self, blob: &Descriptor) {
        self.tasks.remove(&blob.digest);
    }
}

async fn fetch(
    store: &Store,
    registry: &dyn BlobOpener,
    blob: &Descriptor,
    bar: &ProgressBar,
) -> Result<()> {
    while let Some(ingest) = store.open(KIND, blob).await? {
        bar.set_message("fetching");
        let resumed = ingest.offset() > 0;
        let Commit::Mismatch(rule) = transfer(ingest, registry, blob, bar).await? else { break };
        store.abort(KIND, blob).await?;
        // What an earlier client left may be to blame; from the start there is nobody else.
        if !resumed {
            Commit::Mismatch(rule).explain(blob)?;
        }
    }
    store.label(blob, Labels::new()).await
}

async fn transfer(
    mut ingest: Ingest,
    registry: &dyn BlobOpener,
    blob: &Descriptor,
    bar: &ProgressBar,
) -> Result<Commit> {
    bar.set_position(ingest.offset());
    if let Ok(rest) = ByteRange::new(ingest.offset()..blob.size) {
        let name = BlobRef { digest: blob.digest, size: Some(blob.size) };
        let opened = registry.open(name, 0).await?;
        let mut pieces = opened.source.stream(rest, ReadOptions::default());
        let mut buffer = BytesMut::new();
        while let Some(piece) = pieces.next().await.transpose()? {
            bar.inc(piece.len() as u64);
            buffer.extend_from_slice(&piece);
            if buffer.len() >= BUFFER {
                content::write(&mut ingest, buffer.split().freeze()).await?;
            }
        }
        content::write(&mut ingest, buffer.freeze()).await?;
    }
    content::commit(ingest).await
}
