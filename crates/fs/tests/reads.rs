//! What the read pipeline promises, without a mount.
use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bolide_cache::{DiskLayerConfig, DiskLayerStore};
use bolide_core::{
    AccessEvent, AccessSink, BlobSource, ByteRange, ChunkCache as _, ChunkIndex, Digest, ErrorKind,
    FetchRequest, FetchTarget, Fetched, LayerStore, NodeId, Priority, Result, Scheduler,
    SchedulerLoad, TocIndex as _, VerifiedChunk,
    memory::{
        DirectScheduler, MapCache, MemoryLayer, MemoryLayerBuilder, MemoryLayerStore, NodeMeta,
    },
};
use bolide_fs::{Layer, ReadConfig};
use bolide_testkit::{
    fault::{FaultySource, SourceFault},
    sample::noise,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

const CHUNK: usize = 200_000;

/// One file of three chunks, the last one short.
fn sample() -> MemoryLayer {
    MemoryLayerBuilder::new(CHUNK)
        .file("file", &noise(500_000, 3), NodeMeta::default())
        .expect("a file")
        .build()
}

fn file(made: &MemoryLayer) -> NodeId {
    made.toc.lookup(made.toc.root(), "file".as_ref()).expect("looks up").expect("made above")
}

async fn layer(
    made: &MemoryLayer,
    source: Arc<dyn BlobSource>,
    scheduler: Arc<dyn Scheduler>,
    config: ReadConfig,
) -> Layer {
    Layer::builder()
        .source(source)
        .index(Arc::<bolide_core::memory::MemoryToc>::clone(&made.toc))
        .store(Arc::new(MemoryLayerStore::new()))
        .scheduler(scheduler)
        .read_config(config)
        .build()
        .await
        .expect("a layer")
}

fn blob(made: &MemoryLayer) -> Arc<dyn BlobSource> {
    Arc::new(made.blob.clone())
}

/// Answers once somebody asks with this priority, and remembers who asked.
#[derive(Debug)]
struct Gate {
    opens_at: Priority,
    opened: Notify,
    asked: Mutex<Vec<Priority>>,
    seen: Notify,
}

impl Gate {
    fn new(opens_at: Priority) -> Arc<Self> {
        let (opened, asked, seen) = (Notify::new(), Mutex::default(), Notify::new());
        Arc::new(Self { opens_at, opened, asked, seen })
    }
}

#[async_trait]
impl Scheduler for Gate {
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        self.asked.lock().push(request.priority);
        self.seen.notify_one();
        if request.priority == self.opens_at {
            self.opened.notify_one();
        } else {
            self.opened.notified().await;
        }
        DirectScheduler.fetch(request).await
    }

    fn max_len(&self) -> u64 {
        DirectScheduler.max_len()
    }

    fn load(&self) -> SchedulerLoad {
        SchedulerLoad::default()
    }
}

/// Takes no more than 64 KiB at once.
#[derive(Debug)]
struct Narrow;

#[async_trait]
impl Scheduler for Narrow {
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        assert!(request.range.len() <= self.max_len(), "{}", request.range);
        DirectScheduler.fetch(request).await
    }

    fn max_len(&self) -> u64 {
        64 * 1024
    }

    fn load(&self) -> SchedulerLoad {
        SchedulerLoad::default()
    }
}

#[tokio::test]
async fn any_range_is_what_the_file_holds() {
    let made = sample();
    let expected = noise(500_000, 3);
    let schedulers: [Arc<dyn Scheduler>; 2] = [Arc::new(DirectScheduler), Arc::new(Narrow)];
    for scheduler in schedulers {
        let layer = layer(&made, blob(&made), scheduler, ReadConfig::default()).await;
        let reader = layer.view().reader;
        let wishes: [Range<usize>; 6] =
            [0..1, 199_999..200_001, 0..500_000, 499_999..600_000, 500_000..500_001, 7..7];
        for wish in wishes {
            let range = wish.start as u64..wish.end as u64;
            let read = reader.read(file(&made), range, Priority::OnDemand).await.expect("reads");
            let end = wish.end.min(expected.len());
            assert_eq!(read, expected[wish.start..end], "{wish:?}");
        }
        assert_eq!(layer.status().fetched_bytes, 500_000);
    }
}

#[tokio::test]
async fn holes_read_as_zeros_and_cost_nothing() {
    const TIB: usize = 1 << 40;
    let content = noise(500_000, 5);
    let made = MemoryLayerBuilder::new(CHUNK)
        .sparse_file(
            "file",
            &[(3000, &content), (TIB as u64, b"after"), (100, b"")],
            NodeMeta::default(),
        )
        .expect("a file")
        .build();
    let root = tempfile::tempdir().expect("dir");
    let disk = DiskLayerStore::open(root.path().to_owned(), DiskLayerConfig::default()).await;
    let disk = disk.expect("store");
    let stores: [Arc<dyn LayerStore>; 2] =
        [Arc::new(MemoryLayerStore::new()), Arc::<DiskLayerStore>::clone(&disk)];
    for store in stores {
        let layer = Layer::builder()
            .source(blob(&made))
            .index(Arc::<bolide_core::memory::MemoryToc>::clone(&made.toc))
            .store(store)
            .build()
            .await
            .expect("a layer");
        let (reader, node) = (layer.view().reader, file(&made));
        let end = 3000 + content.len() + TIB;
        let expected = |at: usize| match at {
            at if (3000..3000 + content.len()).contains(&at) => content[at - 3000],
            at if (end..end + 5).contains(&at) => b"after"[at - end],
            _ => 0,
        };
        let zeros = reader.read(node, 1 << 30..(1 << 30) + 100_000, Priority::OnDemand).await;
        assert_eq!(zeros.expect("reads"), vec![0; 100_000]);
        assert!(reader.try_read(node, 0..3000).is_some(), "nothing is missing there");
        assert_eq!(layer.status().fetched_bytes, 0);
        for (at, len) in [(0, 4096), (2990, 20), (502_990, 20), (end - 7, 20), (end + 90, 50)] {
            let wanted = at as u64..(at + len) as u64;
            let read = reader.read(node, wanted, Priority::OnDemand).await.expect("reads");
            let whole: Vec<u8> = (at..(at + len).min(end + 105)).map(expected).collect();
            assert_eq!(read, whole, "{at}");
        }
        let too_long = reader.read(node, 0..u64::MAX, Priority::OnDemand).await;
        assert_eq!(too_long.expect_err("too long").kind(), ErrorKind::OutOfRange);
        let all = FetchTarget::File { file: node, range: 0..u64::MAX };
        reader.fill(&all, Priority::Background).await.expect("fills");
        let status = layer.status();
        assert!(status.presence.is_complete());
        assert_eq!((status.presence.bytes_total, status.fetched_bytes), (500_005, 500_005));
    }
    let used: u64 = disk.list().await.expect("lists").iter().map(|layer| layer.disk_bytes).sum();
    assert!(used < 4 << 20, "{used} bytes on disk");
    disk.close().await;
}

/// Remembers what happened.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<AccessEvent>>);

impl AccessSink for Heard {
    fn record(&self, _: Digest, event: AccessEvent) {
        self.0.lock().push(event);
    }
}

#[tokio::test]
async fn a_layer_that_is_filled_from_this_node_is_told_to_be_complete_once() {
    let made = sample();
    let tier = MapCache::new(1 << 20);
    let content = Bytes::from(noise(500_000, 3));
    for number in 0..made.toc.chunk_count() {
        let span = made.toc.chunk(ChunkIndex(number)).expect("a chunk");
        let at = usize::try_from(span.file_offset).expect("small");
        let bytes = content.slice(at..at + usize::try_from(span.key.len).expect("small"));
        tier.put(VerifiedChunk::verify(span.key, bytes).expect("right")).await.expect("held");
    }
    let heard = Arc::<Heard>::default();
    let layer = Layer::builder()
        .source(blob(&made))
        .index(Arc::<bolide_core::memory::MemoryToc>::clone(&made.toc))
        .store(Arc::new(MemoryLayerStore::new()))
        .cache(Arc::new(tier))
        .access(Arc::<Heard>::clone(&heard))
        .build()
        .await
        .expect("a layer");
    let whole = FetchTarget::File { file: file(&made), range: 0..500_000 };
    for _ in 0..2 {
        layer.view().reader.fill(&whole, Priority::Background).await.expect("fills");
    }
    assert_eq!(layer.status().fetched_bytes, 0);
    assert_eq!(*heard.0.lock(), [AccessEvent::Complete]);
}

/// Takes no more than 64 KiB at once, and remembers what it was asked for.
#[derive(Debug, Default)]
struct Listing(Mutex<Vec<u64>>);

#[async_trait]
impl Scheduler for Listing {
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        self.0.lock().push(request.range.len());
        Narrow.fetch(request).await
    }

    fn max_len(&self) -> u64 {
        Narrow.max_len()
    }

    fn load(&self) -> SchedulerLoad {
        SchedulerLoad::default()
    }
}

#[tokio::test]
async fn what_was_asked_for_is_taken_before_more_is_asked_for() {
    // The answers that wait hold memory: a member that is streamed would wait for it.
    let mut made = MemoryLayerBuilder::new(CHUNK);
    for (name, len) in [("large", 150_000), ("one", 1000), ("two", 1001)] {
        made = made.file(name, &noise(len, 1), NodeMeta::default()).expect("a file");
    }
    let made = made.build();
    let scheduler = Arc::<Listing>::default();
    let config = ReadConfig { fill_concurrency: 1, ..ReadConfig::default() };
    let layer = layer(&made, blob(&made), Arc::<Listing>::clone(&scheduler), config).await;
    let whole = ByteRange::new(0..made.blob.size()).expect("not empty");
    layer.view().reader.fill(&FetchTarget::Blob(whole), Priority::Prefetch).await.expect("fills");
    assert_eq!(*scheduler.0.lock(), [1000, 1001, 65_536, 65_536, 18_928]);
}

#[tokio::test]
async fn a_blocked_reader_hurries_a_background_fetch() {
    let made = sample();
    let gate = Gate::new(Priority::OnDemand);
    let scheduler = Arc::<Gate>::clone(&gate);
    let layer = layer(&made, blob(&made), scheduler, ReadConfig::default()).await;
    let (reader, node) = (layer.view().reader, file(&made));
    let target = FetchTarget::File { file: node, range: 0..1 };
    let fill = reader.fill(&target, Priority::Background);
    let read = async {
        gate.seen.notified().await;
        reader.read(node, 0..1, Priority::OnDemand).await
    };
    let (filled, read) = tokio::join!(fill, read);
    assert_eq!(filled.expect("fills").chunks, 1);
    assert_eq!(read.expect("reads").len(), 1);
    assert_eq!(*gate.asked.lock(), [Priority::Background, Priority::OnDemand]);
}

#[tokio::test]
async fn a_reader_that_goes_away_wastes_nothing() {
    let made = sample();
    let gate = Gate::new(Priority::Prefetch);
    let scheduler = Arc::<Gate>::clone(&gate);
    let layer = layer(&made, blob(&made), scheduler, ReadConfig::default()).await;
    let (reader, node) = (layer.view().reader, file(&made));
    tokio::select! {
        biased;
        _ = reader.read(node, 0..1, Priority::OnDemand) => panic!("the gate is shut"),
        () = gate.seen.notified() => {}
    }
    gate.opened.notify_one();
    assert_eq!(reader.read(node, 0..1, Priority::OnDemand).await.expect("reads").len(), 1);
    assert_eq!(gate.asked.lock().len(), 1, "asked once, though the first reader left");
}

#[tokio::test]
async fn a_source_that_stalls_ends_in_an_error_and_close_ends_its_fetch() {
    let made = sample();
    let stalled = Arc::new(FaultySource::new(blob(&made), SourceFault::Stalled));
    let config =
        ReadConfig { on_demand_timeout: Duration::from_millis(20), ..ReadConfig::default() };
    let layer = layer(&made, stalled, Arc::new(DirectScheduler), config).await;
    let reader = layer.view().reader;
    let error = reader.read(file(&made), 0..1, Priority::OnDemand).await.expect_err("stalls");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.context("blob"), Some(made.blob.digest().to_string().as_str()));
    layer.close().await;
    let error = reader.read(file(&made), 0..1, Priority::OnDemand).await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn damage_is_named_and_a_fill_goes_on_past_it() {
    let made = sample();
    let schedulers: [Arc<dyn Scheduler>; 2] = [Arc::new(DirectScheduler), Arc::new(Narrow)];
    for scheduler in schedulers {
        let damaged = FaultySource::new(blob(&made), SourceFault::Flipped(250_000));
        let layer = layer(&made, Arc::new(damaged), scheduler, ReadConfig::default()).await;
        let whole = FetchTarget::File { file: file(&made), range: 0..500_000 };
        let view = layer.view();
        let error = view.reader.fill(&whole, Priority::Background).await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!((error.context("file"), error.context("chunk")), (Some("file"), Some("1")));
        let right = Digest::of(&noise(500_000, 3)[CHUNK..2 * CHUNK]).to_string();
        assert_eq!(error.context("expected"), Some(right.as_str()));
        assert!(error.context("actual").is_some_and(|actual| actual != right));
        assert_eq!(view.image.presence().chunks, 2, "the other two chunks are there");
    }
}
