//! The snapshotter on containerd's socket. The namespace a request comes with does not matter:
//! containerd has put it into the keys.
mod convert;
mod status;

use std::{future::Future, pin::Pin, sync::Arc};

use bolide_containerd_api::snapshots::{
    self as api,
    snapshots_server::{Snapshots, SnapshotsServer},
};
use bolide_core::{Error, ErrorKind, Result};
use futures::{Stream, StreamExt as _, stream::iter};
use tokio::{net::UnixListener, time::sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, transport::Server};
use tracing::{Instrument as _, Span};

use self::status::status;
use crate::{
    admin::ACCEPT_PAUSE,
    labels::{self, Labels},
    lifecycle::Snapshot,
    service::SnapshotService,
};

/// Largest request, in bytes: a snapshot has tens of labels of at most 4 KiB.
const MAX_REQUEST: usize = 4 << 20;
/// Largest answer, in bytes; what containerd takes at most.
const MAX_ANSWER: usize = 16 << 20;
/// Calls served at once on one connection; containerd has one.
const MAX_CALLS: u32 = 1024;
/// Snapshots in one message of a list.
const PAGE: usize = 100;

/// Serves a bound socket until `stop`, and ends when the last call has.
pub async fn serve(
    listener: UnixListener,
    service: Arc<SnapshotService>,
    stop: CancellationToken,
) -> Result<()> {
    let calls = TaskTracker::new();
    let snapshots = SnapshotsServer::new(Calls { service, tasks: calls.clone() })
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_ANSWER);
    // The transport asks again at once, and as long as descriptors are short that fails at once.
    let connections = UnixListenerStream::new(listener).then(|accepted| async {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "containerd's connection cannot be accepted");
            sleep(ACCEPT_PAUSE).await;
        }
        accepted
    });
    let served = Server::builder()
        .max_concurrent_streams(MAX_CALLS)
        .add_service(snapshots)
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await;
    calls.close();
    calls.wait().await;
    served.map_err(|error| {
        Error::new(ErrorKind::Io, "grpc::serve", error.to_string()).with_source(error)
    })
}

/// The calls under way.
#[derive(Debug)]
struct Calls {
    service: Arc<SnapshotService>,
    tasks: TaskTracker,
}

impl Calls {
    /// Runs one operation to its end, even when the client does not wait for it: half of a change
    /// would have to be cleaned up.
    async fn run<T, F>(
        &self,
        span: Span,
        operation: impl FnOnce(Arc<SnapshotService>) -> F,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let running = self.tasks.spawn(operation(Arc::clone(&self.service)).instrument(span));
        let done = running.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Unexpected, "grpc::run", error.to_string()))
        });
        done.map_err(|error| status(&error))
    }
}

#[tonic::async_trait]
impl Snapshots for Calls {
    type ListStream =
        Pin<Box<dyn Stream<Item = Result<api::ListSnapshotsResponse, Status>> + Send>>;

    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let api::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let labels = convert::labels(labels);
        let span = tracing::info_span!("prepare", key, parent, chain_id = target(&labels));
        let mounts =
            self.run(span, async move |service| service.prepare(&key, &parent, labels).await);
        let mounts = convert::mounts(mounts.await?);
        Ok(Response::new(api::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let api::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let labels = convert::labels(labels);
        let span = tracing::debug_span!("view", key, parent);
        let mounts = self.run(span, async move |service| service.view(&key, &parent, labels).await);
        let mounts = convert::mounts(mounts.await?);
        Ok(Response::new(api::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let span = tracing::debug_span!("mounts", key);
        let mounts = self.run(span, async move |service| service.mounts(&key).await).await?;
        Ok(Response::new(api::MountsResponse { mounts: convert::mounts(mounts) }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let api::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let labels = convert::labels(labels);
        let span = tracing::debug_span!("commit", key, name);
        self.run(span, async move |service| service.commit(&key, &name, &parent, labels).await)
            .await?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        let span = tracing::debug_span!("remove", key);
        self.run(span, async move |service| service.remove(&key).await).await.map(Response::new)
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let span = tracing::debug_span!("stat", key);
        let snapshot = self.run(span, async move |service| service.stat(&key).await).await?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some(convert::info(snapshot)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let api::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let api::Info { name, labels, .. } = info.unwrap_or_default();
        let (labels, paths) = (convert::labels(labels), update_mask.unwrap_or_default().paths);
        let span = tracing::debug_span!("update", name);
        let snapshot =
            self.run(span, async move |service| service.update(&name, labels, paths).await);
        let info = convert::info(snapshot.await?);
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some(info) }))
    }

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let span = tracing::debug_span!("list", filters = filters.len());
        let found = self.run(span, async move |service| service.list(&filters).await).await?;
        Ok(Response::new(Box::pin(iter(pages(found).map(Ok)))))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let key = request.into_inner().key;
        let span = tracing::debug_span!("usage", key);
        let usage = self.run(span, async move |service| service.usage(&key).await).await?;
        Ok(Response::new(convert::usage(usage)))
    }

    async fn cleanup(
        &self,
        _request: Request<api::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        let span = tracing::debug_span!("cleanup");
        self.run(span, async move |service| service.cleanup().await).await.map(Response::new)
    }
}

/// The layer that a Prepare asks to be shown lazily, if it does.
fn target(labels: &Labels) -> Option<&str> {
    labels.get(labels::TARGET).map(String::as_str)
}

/// Messages of up to 100 snapshots; none where nothing was found.
fn pages(found: Vec<Snapshot>) -> impl Iterator<Item = api::ListSnapshotsResponse> {
    let mut found = found.into_iter().map(convert::info);
    std::iter::from_fn(move || {
        let info: Vec<_> = found.by_ref().take(PAGE).collect();
        (!info.is_empty()).then_some(api::ListSnapshotsResponse { info })
    })
}
