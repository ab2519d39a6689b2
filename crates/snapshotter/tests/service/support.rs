//! A daemon on a socket of its own, and a client as containerd has it.
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bolide_containerd_api::{
    NAMESPACE_HEADER,
    prost_types::FieldMask,
    snapshots::{self as api, Info, Kind, snapshots_client::SnapshotsClient},
    types::Mount,
};
use bolide_snapshotter::{RedbStore, RemoteLayers, SnapshotService, SnapshotStore, grpc};
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::fakes::FakeLayers;

/// Labels of a call.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A directory that daemons can be started on one after the other.
pub(crate) struct Host {
    dir: TempDir,
}

/// A served snapshotter.
pub(crate) struct Daemon {
    pub(crate) service: Arc<SnapshotService>,
    pub(crate) client: Client,
    stop: CancellationToken,
    served: JoinHandle<bolide_core::Result<()>>,
}

/// Answers of a call, with the status code if it failed.
pub(crate) type Answer<T> = Result<T, Code>;

#[derive(Clone)]
pub(crate) struct Client(SnapshotsClient<Channel>);

impl Host {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("dir") }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The directory of snapshots.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root().join("snapshots").canonicalize().expect("made at start")
    }

    /// Names in the directory of snapshots, sorted, without the mark of their owner.
    pub(crate) fn directories(&self) -> Vec<String> {
        let mut names = names(&self.snapshots());
        names.retain(|name| name != ".bolide");
        names
    }

    pub(crate) async fn store(&self) -> Arc<RedbStore> {
        std::fs::create_dir_all(self.root()).expect("root");
        Arc::new(RedbStore::open(&self.root().join("metadata.redb")).await.expect("opened"))
    }

    pub(crate) async fn start(&self, layers: &Arc<FakeLayers>) -> Daemon {
        let store = self.store().await;
        self.start_with(store, layers).await
    }

    pub(crate) async fn start_with(
        &self,
        store: Arc<dyn SnapshotStore>,
        layers: &Arc<FakeLayers>,
    ) -> Daemon {
        let layers: Arc<dyn RemoteLayers> = Arc::<FakeLayers>::clone(layers);
        let service = SnapshotService::open(&self.root(), store, layers).expect("opened");
        service.restore().await.expect("restored");
        let socket = self.dir.path().join("sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("bound");
        let stop = CancellationToken::new();
        let served = tokio::spawn(grpc::serve(listener, Arc::clone(&service), stop.clone()));
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let channel = endpoint.expect("address").connect().await.expect("connects");
        Daemon { service, client: Client(SnapshotsClient::new(channel)), stop, served }
    }
}

impl Daemon {
    /// A daemon without lazy layers.
    pub(crate) async fn plain() -> (Host, Self) {
        let host = Host::new();
        let daemon = host.start(&Arc::default()).await;
        (host, daemon)
    }

    /// Waits until it has ended, in good order.
    pub(crate) async fn stop(self) {
        let Self { service, client, stop, served } = self;
        stop.cancel();
        // A connection without calls must not keep it.
        served.await.expect("no panic").expect("ends well");
        drop((client, service));
    }
}

impl Client {
    pub(crate) async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: Labels<'_>,
    ) -> Answer<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = api::PrepareSnapshotRequest {
            snapshotter: String::new(),
            key,
            parent,
            labels: owned(labels),
        };
        let mut request = Request::new(request);
        request.metadata_mut().insert(NAMESPACE_HEADER, MetadataValue::from_static("any"));
        let answer = self.0.clone().prepare(request).await;
        answer.map(|answer| answer.into_inner().mounts).map_err(code)
    }

    pub(crate) async fn view(&self, key: &str, parent: &str) -> Answer<Vec<Mount>> {
        let (key, parent, labels) = (key.to_owned(), parent.to_owned(), HashMap::new());
        let request = api::ViewSnapshotRequest { snapshotter: String::new(), key, parent, labels };
        let answer = self.0.clone().view(request).await;
        answer.map(|answer| answer.into_inner().mounts).map_err(code)
    }

    pub(crate) async fn mounts(&self, key: &str) -> Answer<Vec<Mount>> {
        let request = api::MountsRequest { snapshotter: String::new(), key: key.to_owned() };
        let answer = self.0.clone().mounts(request).await;
        answer.map(|answer| answer.into_inner().mounts).map_err(code)
    }

    pub(crate) async fn commit(&self, name: &str, key: &str, labels: Labels<'_>) -> Answer<()> {
        self.commit_on(name, key, "", labels).await
    }

    pub(crate) async fn commit_on(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: Labels<'_>,
    ) -> Answer<()> {
        let request = api::CommitSnapshotRequest {
            snapshotter: String::new(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: owned(labels),
            parent: parent.to_owned(),
        };
        self.0.clone().commit(request).await.map(drop).map_err(code)
    }

    pub(crate) async fn remove(&self, key: &str) -> Answer<()> {
        let request =
            api::RemoveSnapshotRequest { snapshotter: String::new(), key: key.to_owned() };
        self.0.clone().remove(request).await.map(drop).map_err(code)
    }

    pub(crate) async fn stat(&self, key: &str) -> Answer<Info> {
        let request = api::StatSnapshotRequest { snapshotter: String::new(), key: key.to_owned() };
        let answer = self.0.clone().stat(request).await;
        answer.map(|answer| answer.into_inner().info.expect("info")).map_err(code)
    }

    pub(crate) async fn update(
        &self,
        name: &str,
        labels: Labels<'_>,
        paths: &[&str],
    ) -> Answer<Info> {
        let info = Info { name: name.to_owned(), labels: owned(labels), ..Info::default() };
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = api::UpdateSnapshotRequest {
            snapshotter: String::new(),
            info: Some(info),
            update_mask: Some(FieldMask { paths }),
        };
        let answer = self.0.clone().update(request).await;
        answer.map(|answer| answer.into_inner().info.expect("info")).map_err(code)
    }

    /// The messages of a list.
    pub(crate) async fn pages(&self, filters: &[&str]) -> Answer<Vec<Vec<Info>>> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = api::ListSnapshotsRequest { snapshotter: String::new(), filters };
        let mut stream = self.0.clone().list(request).await.map_err(code)?.into_inner();
        let mut pages = Vec::new();
        while let Some(page) = stream.message().await.map_err(code)? {
            pages.push(page.info);
        }
        Ok(pages)
    }

    pub(crate) async fn list(&self, filters: &[&str]) -> Answer<Vec<Info>> {
        self.pages(filters).await.map(|pages| pages.into_iter().flatten().collect())
    }

    /// Names of the snapshots that the filters match.
    pub(crate) async fn names(&self, filters: &[&str]) -> Vec<String> {
        let found = self.list(filters).await.expect("listed");
        found.into_iter().map(|info| info.name).collect()
    }

    /// Size and inodes.
    pub(crate) async fn usage(&self, key: &str) -> Answer<(i64, i64)> {
        let request = api::UsageRequest { snapshotter: String::new(), key: key.to_owned() };
        let answer = self.0.clone().usage(request).await.map_err(code)?.into_inner();
        Ok((answer.size, answer.inodes))
    }

    pub(crate) async fn cleanup(&self) -> Answer<()> {
        let request = api::CleanupRequest { snapshotter: String::new() };
        self.0.clone().cleanup(request).await.map(drop).map_err(code)
    }

    /// A committed snapshot with nothing in it.
    pub(crate) async fn committed(&self, name: &str, parent: &str) {
        let key = format!("key of {name}");
        self.prepare(&key, parent, &[]).await.expect("prepared");
        self.commit(name, &key, &[]).await.expect("committed");
    }
}

/// Name, parent and kind.
pub(crate) fn identity(info: &Info) -> (&str, &str, Kind) {
    (&info.name, &info.parent, info.kind())
}

/// Names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("read");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn owned(labels: Labels<'_>) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn code(status: Status) -> Code {
    assert!(!status.message().is_empty(), "{status:?} says nothing");
    status.code()
}
