//! A snapshotter that shows some layers without content, as far as containerd can tell.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use bolide_containerd_api::{
    snapshots::{
        CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest,
        ListSnapshotsResponse, MountsRequest, MountsResponse, PrepareSnapshotRequest,
        PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse,
        UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse,
        ViewSnapshotRequest, ViewSnapshotResponse,
        snapshots_server::{Snapshots, SnapshotsServer},
    },
    types::Mount,
};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::{net::UnixListener, runtime::Runtime, sync::oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, async_trait, transport::Server};

const TARGET: &str = "containerd.io/snapshot.ref";
const DIGEST: &str = "containerd.io/snapshot/remote/stargz.digest";
const REMOTE: &str = "containerd.io/snapshot/remote";
pub(crate) const NOT_LAZY: &str = "containerd.io/snapshot/bolide.not-lazy";
/// What it says of layers it does not show.
pub(crate) const REASON: &str = "the double was not told to show it";

/// A snapshotter that listens on a socket until it is dropped.
pub(crate) struct Double {
    state: Arc<State>,
    _end: oneshot::Sender<()>,
    _runtime: Runtime,
}

struct State {
    dir: PathBuf,
    lazy: BTreeSet<String>,
    /// Name to snapshot and directory.
    snapshots: Mutex<BTreeMap<String, (Info, PathBuf)>>,
}

impl Double {
    /// Starts a snapshotter that shows the layers of these digests.
    pub(crate) fn start(dir: &Path, lazy: impl IntoIterator<Item = String>) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let lazy = lazy.into_iter().collect();
        let state = Arc::new(State { dir: dir.to_owned(), lazy, snapshots: Mutex::default() });
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(async { UnixListener::bind(dir.join("sock")) })?;
        let (end, ended) = oneshot::channel::<()>();
        let service = SnapshotsServer::from_arc(Arc::clone(&state));
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            async move {
                drop(ended.await);
            },
        ));
        Ok(Self { state, _end: end, _runtime: runtime })
    }

    /// Labels of the snapshots, by the part of their names that clients know.
    pub(crate) fn labels(&self) -> HashMap<String, HashMap<String, String>> {
        let known = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let snapshots = self.state.snapshots();
        snapshots.iter().map(|(name, (info, _))| (known(name), info.labels.clone())).collect()
    }
}

impl State {
    fn snapshots(&self) -> MutexGuard<'_, BTreeMap<String, (Info, PathBuf)>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, kind: Kind, asked: PrepareSnapshotRequest) -> Result<Vec<Mount>, Status> {
        let PrepareSnapshotRequest { key, parent, mut labels, .. } = asked;
        let mut snapshots = self.snapshots();
        let path = self.dir.join(format!("{}-{}", snapshots.len(), key.len()));
        let path = path.with_extension(key.replace(['/', ' ', ':'], "_"));
        for name in ["fs", "work"] {
            std::fs::create_dir_all(path.join(name))
                .map_err(|e| Status::internal(e.to_string()))?;
        }
        let target = labels.get(TARGET).cloned();
        let shown = labels.get(DIGEST).is_some_and(|digest| self.lazy.contains(digest));
        if let Some(target) = target.filter(|_| shown) {
            labels.insert(REMOTE.to_owned(), "remote snapshot".to_owned());
            let info = info(&target, &parent, Kind::Committed, labels);
            snapshots.insert(target.clone(), (info, path));
            return Err(Status::already_exists(target));
        }
        if labels.contains_key(TARGET) {
            labels.insert(NOT_LAZY.to_owned(), REASON.to_owned());
        }
        let mounts = mounts(&snapshots, &parent, &path);
        snapshots.insert(key.clone(), (info(&key, &parent, kind, labels), path));
        Ok(mounts)
    }

    fn info(&self, key: &str) -> Result<Info, Status> {
        let found = self.snapshots().get(key).map(|(info, _)| info.clone());
        found.ok_or_else(|| Status::not_found(key))
    }
}

fn info(name: &str, parent: &str, kind: Kind, labels: HashMap<String, String>) -> Info {
    let (name, parent) = (name.to_owned(), parent.to_owned());
    Info { name, parent, kind: kind.into(), labels, ..Info::default() }
}

fn mounts(snapshots: &BTreeMap<String, (Info, PathBuf)>, parent: &str, path: &Path) -> Vec<Mount> {
    let upper = path.join("fs").display().to_string();
    let mut below = Vec::new();
    let mut at = parent.to_owned();
    while let Some((info, dir)) = snapshots.get(&at) {
        below.push(dir.join("fs").display().to_string());
        at.clone_from(&info.parent);
    }
    let (kind, source, options) = if below.is_empty() {
        ("bind", upper, vec!["rw".to_owned(), "rbind".to_owned()])
    } else {
        let work = path.join("work").display().to_string();
        let lower = below.join(":");
        let options = [("workdir", work), ("upperdir", upper), ("lowerdir", lower)];
        let options = options.map(|(key, value)| format!("{key}={value}"));
        ("overlay", "overlay".to_owned(), options.to_vec())
    };
    vec![Mount { r#type: kind.to_owned(), source, options, ..Mount::default() }]
}

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl Snapshots for State {
    type ListStream = BoxStream<'static, Result<ListSnapshotsResponse, Status>>;

    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Answer<PrepareSnapshotResponse> {
        let mounts = self.create(Kind::Active, request.into_inner())?;
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let ViewSnapshotRequest { snapshotter, key, parent, labels } = request.into_inner();
        let asked = PrepareSnapshotRequest { snapshotter, key, parent, labels };
        Ok(Response::new(ViewSnapshotResponse { mounts: self.create(Kind::View, asked)? }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Answer<MountsResponse> {
        let key = request.into_inner().key;
        let parent = self.info(&key)?.parent;
        let snapshots = self.snapshots();
        let path = snapshots.get(&key).map(|(_, path)| path.clone()).unwrap_or_default();
        Ok(Response::new(MountsResponse { mounts: mounts(&snapshots, &parent, &path) }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Answer<()> {
        let CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        let mut snapshots = self.snapshots();
        let (active, path) = snapshots.remove(&key).ok_or_else(|| Status::not_found(key))?;
        let info = info(&name, &active.parent, Kind::Committed, labels);
        snapshots.insert(name, (info, path));
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Answer<()> {
        let key = request.into_inner().key;
        let mut snapshots = self.snapshots();
        if snapshots.values().any(|(info, _)| info.parent == key) {
            return Err(Status::failed_precondition("it has children"));
        }
        snapshots.remove(&key).ok_or_else(|| Status::not_found(key))?;
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let info = self.info(&request.into_inner().key)?;
        Ok(Response::new(StatSnapshotResponse { info: Some(info) }))
    }

    async fn update(&self, _: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        Err(Status::unimplemented("update"))
    }

    async fn list(&self, _: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let info = self.snapshots().values().map(|(info, _)| info.clone()).collect();
        let answer = [Ok(ListSnapshotsResponse { info })];
        Ok(Response::new(stream::iter(answer).boxed()))
    }

    async fn usage(&self, _: Request<UsageRequest>) -> Answer<UsageResponse> {
        Ok(Response::new(UsageResponse::default()))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        Ok(Response::new(()))
    }
}
