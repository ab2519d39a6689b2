//! The remote path: what a client is told of lazy layers, and of those that cannot be lazy.
use std::{io, sync::Arc};

use bolide_containerd_api::snapshots::Kind;
use bolide_core::{Digest, Error, ErrorKind};
use bolide_snapshotter::{admin::StatusProvider as _, labels};
use parking_lot::Mutex;
use serde_json::Value;
use tonic::Code;

use crate::{
    fakes::{CONTENT, FakeLayers, FullStore},
    support::{Daemon, Host, Labels, identity},
};

/// What a client of stargz-snapshotter sends for a layer.
pub(crate) struct Layer {
    pub(crate) target: String,
    pub(crate) digest: String,
}

impl Layer {
    pub(crate) fn new(name: &str) -> Self {
        let digest = Digest::of(name.as_bytes()).to_string();
        Self { target: format!("sha256:chain-of-{name}"), digest }
    }

    pub(crate) fn labels(&self) -> Vec<(&str, &str)> {
        vec![
            (labels::TARGET, &self.target),
            ("containerd.io/snapshot/remote/stargz.reference", "registry/image:tag"),
            ("containerd.io/snapshot/remote/stargz.digest", &self.digest),
        ]
    }
}

/// Lines of JSON that were logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Level, message, outcome, key and parent of the lines about remote snapshots of such keys.
    fn outcomes(&self, keys: &str) -> Vec<[String; 5]> {
        let log = self.0.lock();
        let lines = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines = lines.map(|line| serde_json::from_slice(line).expect("JSON"));
        let about = lines.filter(|line: &Value| line.get("remote-snapshot-prepared").is_some());
        let fields = ["level", "message", "remote-snapshot-prepared", "key", "parent"];
        let texts =
            about.map(|line| fields.map(|field| line[field].as_str().expect(field).to_owned()));
        texts.filter(|[_, _, _, key, _]| key.starts_with(keys)).collect()
    }
}

async fn host(layers: FakeLayers) -> (Host, Daemon, Arc<FakeLayers>) {
    let (host, layers) = (Host::new(), Arc::new(layers));
    let daemon = host.start(&layers).await;
    (host, daemon, layers)
}

#[tokio::test]
async fn a_lazy_layer_exists_already() {
    let (host, daemon, layers) = host(FakeLayers::default()).await;
    let client = &daemon.client;
    let (base, top) = (Layer::new("base"), Layer::new("top"));
    let labels = base.labels();
    assert_eq!(client.prepare("ns/1/extract", "", &labels).await, Err(Code::AlreadyExists));
    assert_eq!(client.stat("ns/1/extract").await, Err(Code::NotFound));
    let info = client.stat(&base.target).await.expect("committed");
    assert_eq!(identity(&info), (base.target.as_str(), "", Kind::Committed));
    for (key, value) in labels.iter().chain(&[(labels::REMOTE, labels::REMOTE_VALUE)]) {
        assert_eq!(info.labels.get(*key).map(String::as_str), Some(*value), "{key}");
    }
    assert_eq!(client.usage(&base.target).await, Ok((0, 0)));
    // Another layer on it.
    let parent = base.target.as_str();
    assert_eq!(client.prepare("ns/2/x", parent, &top.labels()).await, Err(Code::AlreadyExists));
    // containerd finds what it was told exists by these.
    for (layer, parent) in [(&base, ""), (&top, parent)] {
        let label = format!("labels.\"{}\"=={}", labels::TARGET, layer.target);
        let filter = format!("{label},parent==\"{parent}\"");
        assert_eq!(client.names(&[&filter]).await, [layer.target.as_str()]);
        assert!(client.names(&[&format!("{label},parent==other")]).await.is_empty());
    }
    // Another namespace asks again: nothing is mounted twice.
    layers.take_calls();
    assert_eq!(client.prepare("other/3/extract", "", &labels).await, Err(Code::AlreadyExists));
    assert!(layers.take_calls().is_empty());
    // A container on top.
    let mounts = client.prepare("container", &top.target, &[]).await.expect("prepared");
    let dir = host.snapshots();
    let lower = format!("lowerdir={0}/2/fs:{0}/1/fs", dir.display());
    assert!(mounts[0].options.contains(&lower), "{mounts:?}");
    let shown = std::fs::read_to_string(dir.join("1/fs").join(CONTENT)).expect("mounted");
    assert_eq!(shown, base.digest);
    assert!(daemon.service.report().not_lazy.is_empty());
    assert_eq!(daemon.service.report().layers.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_lazy_is_unpacked_and_says_why() {
    let (host, daemon, layers) = host(FakeLayers::default()).await;
    let client = &daemon.client;
    let layer = Layer::new("plain");
    let why = "the layer has no TOC: ".to_owned() + &"long ".repeat(2000);
    *layers.refuse.lock() = Some(Error::new(ErrorKind::AlreadyExists, "fake::mount", why));
    let mounts = client.prepare("key", "", &layer.labels()).await.expect("to unpack into");
    assert_eq!((mounts.len(), mounts[0].r#type.as_str()), (1, "bind"));
    let reason = client.stat("key").await.expect("active").labels[labels::NOT_LAZY].clone();
    assert!(reason.contains("the layer has no TOC"), "{reason}");
    assert!(reason.len() + labels::NOT_LAZY.len() <= 4096, "containerd's limit of a label");
    assert_eq!(host.directories().len(), 1, "of the failed mount nothing is left");
    // Unpacked and committed as containerd does, with labels of its own.
    client.commit("ns/2/chain", "key", &layer.labels()).await.expect("committed");
    let committed = client.stat("ns/2/chain").await.expect("committed");
    assert_eq!(committed.labels[labels::NOT_LAZY], reason);
    assert!(!committed.labels.contains_key(labels::REMOTE));
    // A client that names no layer, too.
    let target: Labels<'_> = &[(labels::TARGET, "sha256:other")];
    client.prepare("nameless", "ns/2/chain", target).await.expect("to unpack into");
    let told = |daemon: &Daemon| {
        let report = daemon.service.report().not_lazy;
        report.into_iter().map(|one| (one.key, one.chain_id, one.blob)).collect::<Vec<_>>()
    };
    let own = |key: &str, chain: &str, blob: &str| (key.into(), chain.into(), blob.into());
    let expected =
        [own("ns/2/chain", &layer.target, &layer.digest), own("nameless", "sha256:other", "")];
    assert_eq!(told(&daemon), expected);
    let nameless = daemon.service.report().not_lazy[1].reason.clone();
    assert!(nameless.contains("cri.image-ref"), "{nameless}");
    daemon.stop().await;
    let daemon = host.start(&layers).await;
    assert_eq!(told(&daemon), expected, "after a restart");
    daemon.client.remove("nameless").await.expect("removed");
    assert_eq!(told(&daemon), expected[..1], "what is gone needs no reason");
}

#[tokio::test]
async fn the_log_says_what_is_lazy() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let subscriber = subscriber.with_max_level(tracing::Level::DEBUG);
    // For all tests: what one thread alone listens to, others may have turned off for good.
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    let (_host, daemon, layers) = host(FakeLayers::default()).await;
    let (lazy, eager) = (Layer::new("lazy"), Layer::new("eager"));
    let prepared = daemon.client.prepare("log/1", "", &lazy.labels()).await;
    assert_eq!(prepared, Err(Code::AlreadyExists));
    *layers.refuse.lock() = Some(Error::new(ErrorKind::Malformed, "fake::mount", "no TOC"));
    let prepared = daemon.client.prepare("log/2", &lazy.target, &eager.labels()).await;
    prepared.expect("to unpack into");
    assert_eq!(
        log.outcomes("log/"),
        [
            ["DEBUG", "prepared remote snapshot", "true", "log/1", ""],
            ["WARN", "failed to prepare remote snapshot", "false", "log/2", &lazy.target],
        ]
    );
}

#[tokio::test]
async fn two_clients_ask_for_one_target() {
    let (host, daemon, layers) = host(FakeLayers::gated()).await;
    let layer = Layer::new("shared");
    let labels = layer.labels();
    let both = async {
        let (one, two) = (daemon.client.clone(), daemon.client.clone());
        tokio::join!(one.prepare("one", "", &labels), two.prepare("two", "", &labels))
    };
    let open = async {
        // Both are past the question whether the target exists.
        layers.waiting.acquire_many(2).await.expect("open").forget();
        layers.gate.add_permits(2);
    };
    let (answers, ()) = tokio::join!(both, open);
    assert_eq!(answers, (Err(Code::AlreadyExists), Err(Code::AlreadyExists)));
    assert_eq!(daemon.client.names(&[]).await, [layer.target.as_str()]);
    assert_eq!((layers.mounted().len(), host.directories().len()), (1, 1), "nothing is leaked");
}

#[tokio::test]
async fn a_target_on_another_parent_is_unpacked() {
    let (_host, daemon, layers) = host(FakeLayers::default()).await;
    let client = &daemon.client;
    let layer = Layer::new("upper");
    for parent in ["one/1/base", "two/1/base"] {
        client.committed(parent, "").await;
    }
    let on_one = client.prepare("one/2/x", "one/1/base", &layer.labels()).await;
    assert_eq!(on_one, Err(Code::AlreadyExists));
    // containerd would not find the target on this parent, and fail the pull.
    client.prepare("two/2/x", "two/1/base", &layer.labels()).await.expect("to unpack into");
    let reason = client.stat("two/2/x").await.expect("active").labels[labels::NOT_LAZY].clone();
    assert!(reason.contains("another parent"), "{reason}");
    assert_eq!(layers.mounted().len(), 1);
}

#[tokio::test]
async fn nothing_is_put_on_a_layer_that_is_out_of_reach() {
    let (host, daemon, layers) = host(FakeLayers::default()).await;
    let client = &daemon.client;
    let (base, top) = (Layer::new("base"), Layer::new("top"));
    let asked = [("", &base), (&base.target, &top)];
    for (parent, layer) in asked {
        let prepared = client.prepare("extract", parent, &layer.labels()).await;
        assert_eq!(prepared, Err(Code::AlreadyExists));
    }
    client.prepare("before", &top.target, &[]).await.expect("all are there");
    layers.take_calls();
    client.mounts("before").await.expect("all are there");
    assert_eq!(layers.take_calls(), ["check 2", "check 1"], "every layer below is asked");
    layers.lost.lock().insert("1".to_owned());
    let names = (client.names(&[]).await, host.directories());
    assert_eq!(client.prepare("after", &top.target, &[]).await, Err(Code::Unavailable));
    assert_eq!(client.view("after", &top.target).await, Err(Code::Unavailable));
    assert_eq!(client.mounts("before").await, Err(Code::Unavailable));
    assert_eq!((client.names(&[]).await, host.directories()), names, "nothing is left behind");
    layers.lost.lock().clear();
    client.prepare("after", &top.target, &[]).await.expect("it is back");
}

#[tokio::test]
async fn a_view_is_never_remote() {
    let (_host, daemon, layers) = host(FakeLayers::default()).await;
    daemon.client.view("view", "").await.expect("view");
    assert!(layers.take_calls().is_empty());
}

#[tokio::test]
async fn a_layer_that_cannot_be_committed_is_unmounted() {
    let (host, layers) = (Host::new(), Arc::<FakeLayers>::default());
    let inner = Arc::try_unwrap(host.store().await).expect("only one");
    let daemon = host.start_with(Arc::new(FullStore { inner }), &layers).await;
    let layer = Layer::new("layer");
    let refused = daemon.client.prepare("key", "", &layer.labels()).await;
    assert_eq!(refused, Err(Code::ResourceExhausted));
    assert_eq!(layers.take_calls(), ["mount 1", "unmount 1"]);
    assert_eq!(host.directories(), Vec::<String>::new());
    assert!(daemon.client.names(&[]).await.is_empty());
    // The key is not burned.
    daemon.client.prepare("key", "", &[]).await.expect("an ordinary one");
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_a_mount_halfway() {
    let (host, daemon, layers) = host(FakeLayers::gated()).await;
    let layer = Layer::new("slow");
    let client = daemon.client.clone();
    let target = layer.target.clone();
    let calling = tokio::spawn(async move { client.prepare("key", "", &layer.labels()).await });
    layers.waiting.acquire().await.expect("open").forget();
    calling.abort();
    assert!(calling.await.expect_err("aborted").is_cancelled());
    // What is being made is no stray.
    daemon.client.cleanup().await.expect("cleaned");
    assert_eq!(host.directories(), ["1"]);
    layers.gate.add_permits(1);
    daemon.stop().await;
    let daemon = host.start(&Arc::default()).await;
    assert_eq!(daemon.client.names(&[]).await, [target]);
}

#[tokio::test]
async fn labels_a_lazy_layer_lives_by_cannot_be_changed() {
    let (_host, daemon, _layers) = host(FakeLayers::default()).await;
    let client = &daemon.client;
    let layer = Layer::new("layer");
    let prepared = client.prepare("key", "", &layer.labels()).await;
    assert_eq!(prepared, Err(Code::AlreadyExists));
    let before = client.stat(&layer.target).await.expect("there").labels;
    let after = client.update(&layer.target, &[("own", "label")], &["labels"]).await;
    let mut after = after.expect("updated").labels;
    assert_eq!(after.remove("own").as_deref(), Some("label"));
    assert_eq!(after, before);
}
