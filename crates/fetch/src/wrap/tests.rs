//! Each wrapper keeps the contract of sources, and does what it is for.
use std::{sync::Arc, time::Duration};

use bolide_core::{
    BlobOpener as _, BlobRef, BlobSource, ByteRange, Error, ErrorKind, Priority, ReadOptions,
    memory::MemoryBlob,
};
use bolide_testkit::{
    conformance,
    fault::{FaultySource, SourceFault},
};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::Semaphore;

use super::*;

fn truth() -> Bytes {
    (0..10_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

fn faulty(fault: SourceFault) -> Arc<FaultySource> {
    Arc::new(FaultySource::new(Arc::new(MemoryBlob::new(truth())), fault))
}

fn options() -> ReadOptions {
    ReadOptions::default().with_priority(Priority::OnDemand)
}

fn whole() -> ByteRange {
    ByteRange::at(0, 10_000).expect("not empty")
}

#[tokio::test]
async fn every_wrapper_keeps_the_contract() {
    let blob = MemoryBlob::new(truth());
    let inner: Arc<dyn BlobSource> = Arc::new(blob.clone());
    let (digest, size) = (inner.digest(), inner.size());
    let wrapped: [Arc<dyn BlobSource>; 6] = [
        Arc::new(FallbackSource::new(Arc::clone(&inner))),
        Arc::new(RetrySource::new(Arc::clone(&inner), RetryPolicy::default())),
        Arc::new(TimeoutSource::new(Arc::clone(&inner), Duration::from_mins(1))),
        Arc::new(LimitSource::new(Arc::clone(&inner), Arc::new(Semaphore::new(2)))),
        Arc::new(MeteredSource::new(Arc::clone(&inner), Meter::new())),
        Arc::new(LazySource::new(Arc::new(blob), digest, size)),
    ];
    for source in wrapped {
        let name = source.to_string();
        conformance::blob_source::all(source, truth()).await.expect(&name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_goes_on_where_it_broke() {
    let inner = faulty(SourceFault::Broken(2));
    let source = RetrySource::new(Arc::clone(&inner) as _, RetryPolicy::default());
    assert_eq!(source.read_at(whole(), options()).await.expect("third try"), truth());
    assert_eq!(inner.requests(), 3);
    // Nothing arrives twice: a half, half of the rest, and the rest.
    assert_eq!(inner.bytes(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn the_budget_ends() {
    let inner = faulty(SourceFault::Broken(u64::MAX));
    let source = RetrySource::new(Arc::clone(&inner) as _, RetryPolicy::default());
    let error = source.read_at(whole(), options()).await.expect_err("never whole");
    assert_eq!((error.kind(), error.context("tries")), (ErrorKind::Unavailable, Some("5")));
    assert_eq!(inner.requests(), 5);
}

#[test]
fn only_what_may_succeed_is_tried_again() {
    let policy = RetryPolicy::default();
    let error = |kind| Error::new(kind, "test", "no");
    assert!(policy.delay(1, &error(ErrorKind::NotFound), 0).is_none());
    assert!(policy.delay(5, &error(ErrorKind::Unavailable), 0).is_none());
    let wait = policy.delay(1, &error(ErrorKind::Unavailable), 7).expect("again");
    assert!(wait >= policy.base_delay / 2 && wait <= policy.base_delay);
    assert_eq!(policy.delay(1, &error(ErrorKind::Unavailable), 7), Some(wait));
    let asked = |seconds| {
        let wait = Duration::from_secs(seconds);
        policy.delay(1, &error(ErrorKind::Throttled).with_retry_after(wait), 0)
    };
    assert_eq!(asked(3), Some(Duration::from_secs(3)));
    assert_eq!(asked(11), None);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_source_times_out() {
    let source = TimeoutSource::new(faulty(SourceFault::Stalled), Duration::from_secs(5));
    let error = source.read_at(whole(), options()).await.expect_err("nothing arrives");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn permits_return_when_reads_are_dropped() {
    let permits = Arc::new(Semaphore::new(1));
    let stalled = LimitSource::new(faulty(SourceFault::Stalled), Arc::clone(&permits));
    let mut read = stalled.stream(whole(), options());
    assert!(futures::poll!(read.next()).is_pending());
    assert_eq!(permits.available_permits(), 0);
    drop(read);
    assert_eq!(permits.available_permits(), 1);
    let honest = LimitSource::new(faulty(SourceFault::None), Arc::clone(&permits));
    assert_eq!(honest.read_at(whole(), options()).await.expect("read"), truth());
    assert_eq!(permits.available_permits(), 1);
}

#[tokio::test]
async fn meters_count_reads_bytes_and_failures() {
    let meter = Meter::new();
    let source = MeteredSource::new(faulty(SourceFault::Broken(1)), meter.clone());
    source.read_at(whole(), options()).await.expect_err("broken once");
    source.read_at(whole(), options()).await.expect("then whole");
    assert_eq!((meter.requests(), meter.errors()), (2, 1));
    assert!(meter.bytes() >= 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_wrapped_opener_opens_and_reads() {
    let blob = MemoryBlob::new(truth());
    let (meter, permits) = (Meter::new(), Arc::new(Semaphore::new(1)));
    let place = WrapOpener::new(Arc::new(blob.clone()))
        .with_idle_timeout(Duration::from_secs(5))
        .with_meter(meter.clone())
        .with_limit(Arc::clone(&permits))
        .with_retry(RetryPolicy::default());
    let blob = BlobRef { digest: blob.digest(), size: None };
    let opened = place.open(blob, 10).await.expect("opened");
    assert_eq!(opened.tail, truth().slice(9_990..));
    conformance::blob_source::all(opened.source, truth()).await.expect("conforms");
    assert_eq!(permits.available_permits(), 1);
    assert!(meter.requests() > 1);
}

#[tokio::test]
async fn another_place_goes_on_where_the_first_broke() {
    let (first, second) = (faulty(SourceFault::Broken(u64::MAX)), faulty(SourceFault::None));
    let source = FallbackSource::new(Arc::clone(&first) as _);
    let error = source.read_at(whole(), options()).await.expect_err("one place, broken");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    source.add(Arc::clone(&second) as _).expect("the same blob");
    let sent = first.bytes();
    assert_eq!(source.read_at(whole(), options()).await.expect("the second has it"), truth());
    assert_eq!(first.bytes() - sent + second.bytes(), 10_000, "nothing is asked for twice");
}

#[test]
fn a_place_of_another_blob_is_refused() {
    let source = FallbackSource::new(Arc::new(MemoryBlob::new(truth())));
    let other = source.add(Arc::new(MemoryBlob::new(truth().slice(1..))));
    assert_eq!(other.expect_err("another blob").kind(), ErrorKind::Corrupt);
}

async fn spooled(inner: Arc<FaultySource>) -> SpoolSource {
    SpoolSource::create(inner as _, &std::env::temp_dir()).await.expect("created")
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start..end).expect("not empty")
}

#[tokio::test]
async fn a_spool_keeps_the_contract_and_fills_on_the_way() {
    let inner = faulty(SourceFault::None);
    let source = spooled(Arc::clone(&inner)).await;
    conformance::blob_source::all(Arc::new(source.clone()), truth()).await.expect("conforms");
    assert_eq!((source.coverage(), source.missing()), (10_000, Vec::new()));
    let asked = inner.requests();
    assert_eq!(source.read_at(whole(), options()).await.expect("from the spool"), truth());
    assert_eq!(inner.requests(), asked);
}

#[tokio::test]
async fn a_spool_asks_only_for_what_it_lacks() {
    let inner = faulty(SourceFault::None);
    let source = spooled(Arc::clone(&inner)).await;
    let read = async |start, end| source.read_at(range(start, end), options()).await.expect("read");
    assert_eq!(read(1000, 2000).await, truth().slice(1000..2000));
    assert_eq!(read(5000, 9000).await, truth().slice(5000..9000));
    assert_eq!(source.missing(), [range(0, 1000), range(2000, 5000), range(9000, 10_000)]);
    let error = source.reader().expect_err("not whole");
    assert_eq!(
        (error.kind(), error.context("missing")),
        (ErrorKind::FailedPrecondition, Some("5000"),)
    );
    assert_eq!(read(500, 9500).await, truth().slice(500..9500));
    for gap in source.missing() {
        read(gap.start(), gap.end()).await;
    }
    assert_eq!(inner.bytes(), 10_000);
    let mut whole = Vec::new();
    let mut reader = source.reader().expect("whole");
    std::io::Read::read_to_end(&mut reader, &mut whole).expect("read");
    assert_eq!(whole, truth());
}

#[tokio::test]
async fn a_spool_keeps_what_came_before_a_failure() {
    let source = spooled(faulty(SourceFault::Broken(1))).await;
    source.read_at(whole(), options()).await.expect_err("broken once");
    assert_eq!(source.read_at(whole(), options()).await.expect("then whole"), truth());
    assert_eq!(source.missing(), []);
}
