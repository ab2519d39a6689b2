//! What a trace shows of reads: the tree of a cold one, nothing of a warm one.
use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use bolide_core::{
    FetchHint, FetchTarget, HintSink, NodeId, Prefetcher, Priority, TocIndex,
    memory::{MemoryLayer, MemoryLayerBuilder, MemoryLayerStore, NodeMeta},
};
use bolide_fs::Layer;
use bolide_prefetch::{Driver, DriverConfig};
use bolide_testkit::sample::noise;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};
use tracing::{
    Instrument as _, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

const CHUNK: u64 = 100_000;
/// What hangs fails; nothing here takes this long.
const HUNG: Duration = Duration::from_mins(10);

/// A span as it was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Begun {
    name: &'static str,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

/// Takes note of every span of bolide's.
#[derive(Clone, Debug, Default)]
struct Recorder {
    begun: Arc<Mutex<Vec<Begun>>>,
    more: Arc<Notify>,
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = context.span(id).and_then(|span| Some(span.parent()?.name()));
        let name = attributes.metadata().name();
        self.begun.lock().push(Begun { name, parent, fields: fields.0 });
        self.more.notify_one();
    }
}

impl Recorder {
    /// Records on this thread until the guard is dropped.
    fn install(&self, level: LevelFilter) -> DefaultGuard {
        let all = tracing_subscriber::registry().with(level).with(self.clone());
        tracing::subscriber::set_default(all)
    }

    fn take(&self) -> Vec<Begun> {
        std::mem::take(&mut self.begun.lock())
    }
}

/// One file of three chunks.
fn made() -> (MemoryLayer, NodeId) {
    let made = MemoryLayerBuilder::new(100_000)
        .directory("dir", NodeMeta::with_perm(0o755))
        .and_then(|made| made.file("dir/file", &noise(250_000, 3), NodeMeta::default()))
        .expect("a layer")
        .build();
    let dir = made.toc.lookup(made.toc.root(), "dir".as_ref()).expect("looks up");
    let file = made.toc.lookup(dir.expect("made"), "file".as_ref()).expect("looks up");
    (made, file.expect("made"))
}

async fn layer(made: MemoryLayer) -> Layer {
    let layer = Layer::builder().source(Arc::new(made.blob)).index(made.toc);
    layer.store(Arc::new(MemoryLayerStore::new())).build().await.expect("a layer")
}

#[tokio::test]
async fn a_cold_read_is_a_tree_and_a_warm_one_nothing() {
    let recorder = Recorder::default();
    let _recording = recorder.install(LevelFilter::DEBUG);
    let (made, file) = made();
    let blob = bolide_core::BlobSource::digest(&made.blob).to_string();
    let layer = layer(made).await;
    let reader = layer.view().reader;
    assert!(reader.try_read(file, 0..1).is_none(), "cold");
    assert_eq!(recorder.take(), [], "finding nothing is cheap");

    reader.read(file, CHUNK - 1..CHUNK + 1, Priority::OnDemand).await.expect("reads");
    let spans = recorder.take();
    let root = &spans[0];
    assert_eq!((root.name, root.parent), ("read_on_demand", None));
    for (key, value) in [
        ("blob", blob.as_str()),
        ("file", "dir/file"),
        ("offset", "99999"),
        ("len", "2"),
        ("chunks", "2"),
        ("fetched_bytes", "200000"),
    ] {
        assert_eq!(root.fields.get(key).map(String::as_str), Some(value), "{key}");
    }
    for name in ["fetch", "decode", "write"] {
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 2, "{name}, once a member");
        assert!(found.iter().all(|span| span.parent == Some("read_on_demand")), "{name}");
    }
    assert_eq!(spans.len(), 7);
    let fetch = spans.iter().find(|span| span.name == "fetch").expect("counted above");
    assert_eq!(fetch.fields.get("priority").map(String::as_str), Some("\"on_demand\""));
    assert!(fetch.fields.contains_key("range"));

    reader.read(file, 0..2 * CHUNK, Priority::OnDemand).await.expect("reads");
    reader.try_read(file, 0..2 * CHUNK).expect("present").expect("reads");
    assert_eq!(recorder.take(), [], "what is there costs no span");
}

#[tokio::test]
async fn what_a_fill_fetches_belongs_to_who_asked_for_it() {
    let recorder = Recorder::default();
    let _recording = recorder.install(LevelFilter::DEBUG);
    let (made, file) = made();
    let layer = layer(made).await;
    let target = FetchTarget::File { file, range: 0..1 };
    let reader = layer.view().reader;
    let wish = reader.fill(&target, Priority::Prefetch);
    wish.instrument(tracing::info_span!("prefetch")).await.expect("fills");
    let spans = recorder.take();
    let parents: Vec<_> = spans.iter().map(|span| (span.name, span.parent)).collect();
    let under = Some("prefetch");
    assert_eq!(
        parents,
        [("prefetch", None), ("fetch", under), ("decode", under), ("write", under)]
    );
}

/// Wants the whole file at start.
#[derive(Debug)]
struct Greedy(NodeId);

impl Prefetcher for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn start(&mut self, toc: &dyn TocIndex, out: &mut dyn HintSink) {
        for (range, priority) in
            [(0..CHUNK, Priority::Prefetch), (CHUNK..2 * CHUNK, Priority::Background)]
        {
            let target = FetchTarget::File { file: self.0, range };
            out.push(FetchHint { layer: toc.digest(), target, priority });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_prefetch_belongs_to_what_added_the_layer() {
    let recorder = Recorder::default();
    let _recording = recorder.install(LevelFilter::DEBUG);
    let (made, file) = made();
    let toc = made.toc.digest();
    let layer = layer(made).await;
    let driver = Driver::start(DriverConfig::default());
    tracing::info_span!("prepare")
        .in_scope(|| driver.add_layer(layer.view(), vec![Box::new(Greedy(file))]));
    assert!(driver.prefetched(toc, HUNG).await);
    let background = FetchTarget::File { file, range: CHUNK..2 * CHUNK };
    let all = async {
        while recorder.begun.lock().len() < 9 {
            recorder.more.notified().await;
        }
    };
    timeout(HUNG, all).await.expect("the background is filled too");
    driver.shutdown().await;
    let spans = recorder.take();
    let parents: Vec<_> = spans.iter().map(|span| (span.name, span.parent)).collect();
    let expected = [("prepare", None), ("prefetch", Some("prepare"))];
    let expected: Vec<_> = expected
        .into_iter()
        .chain(["fetch", "decode", "write"].map(|name| (name, Some("prefetch"))))
        .chain([("background", None)])
        .chain(["fetch", "decode", "write"].map(|name| (name, Some("background"))))
        .collect();
    assert_eq!(parents, expected);
    let target = format!("{background:?}");
    assert_eq!(spans[5].fields.get("target"), Some(&target));
}

#[tokio::test]
async fn reads_are_spans_for_those_who_debug() {
    let recorder = Recorder::default();
    let _recording = recorder.install(LevelFilter::INFO);
    let (made, file) = made();
    let layer = layer(made).await;
    layer.view().reader.read(file, 0..1, Priority::OnDemand).await.expect("reads");
    assert_eq!(recorder.take(), []);
}
