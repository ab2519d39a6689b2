//! The scheduler of a node under contention, failures and shutdown.
use std::{sync::Arc, time::Duration};

use bolide_core::{
    BlobSource, ByteRange, ErrorKind, FetchRequest, Fetched, Priority, Result, Scheduler,
    memory::MemoryBlob,
};
use bolide_fetch::{NodeScheduler, SchedulerConfig};
use bolide_testkit::{
    conformance::scheduler::{self, Limits},
    fault::{FaultySource, GatedSource, SourceFault},
    sample::noise,
};
use bytes::Bytes;
use tokio::task::JoinHandle;

const MIB: u64 = 1 << 20;

fn with_limits(limits: Limits) -> Arc<dyn Scheduler> {
    NodeScheduler::new(SchedulerConfig {
        max_in_flight: limits.in_flight,
        reserved_on_demand: 0,
        budget_bytes: limits.budget_bytes,
        max_len: limits.budget_bytes / 2,
        ..SchedulerConfig::default()
    })
}

/// A blob of bytes that differ from place to place, cheaply.
fn large(len: u64) -> Bytes {
    let block = noise(1 << 16, 5);
    let blocks = len.div_ceil(1 << 16);
    let mut whole = Vec::new();
    for number in 0..blocks {
        whole.extend_from_slice(&number.to_le_bytes());
        whole.extend_from_slice(&block[8..]);
    }
    whole.truncate(usize::try_from(len).expect("small"));
    whole.into()
}

fn ask(
    scheduler: &Arc<NodeScheduler>,
    source: Arc<dyn BlobSource>,
    range: std::ops::Range<u64>,
    priority: Priority,
) -> JoinHandle<Result<Fetched>> {
    let scheduler = Arc::clone(scheduler);
    let range = ByteRange::new(range).expect("not empty");
    tokio::spawn(async move { scheduler.fetch(FetchRequest { source, range, priority }).await })
}

/// Waits until every task waits: the paused clock does not move before.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

async fn kind(fetch: JoinHandle<Result<Fetched>>) -> Option<ErrorKind> {
    fetch.await.expect("no panic").err().map(|error| error.kind())
}

#[tokio::test(start_paused = true)]
async fn node_scheduler_conforms() {
    scheduler::all(&with_limits).await.expect("conforms");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_reader_overtakes_a_background_fetch_which_then_loses_nothing() {
    let scheduler = NodeScheduler::new(SchedulerConfig::default());
    let bytes = large(64 * MIB);
    let source = Arc::new(GatedSource::new(bytes.clone(), 32 << 10));
    let background = ask(&scheduler, Arc::clone(&source) as _, 0..64 * MIB, Priority::Background);
    settle().await;
    source.open_to(3 * MIB);
    settle().await;
    let other = Arc::new(GatedSource::new(large(MIB), 32 << 10));
    other.open();
    let read = ask(&scheduler, Arc::clone(&other) as _, 0..4096, Priority::OnDemand);
    settle().await;
    assert!(read.is_finished() && !background.is_finished());
    // In the middle of what the background fetch will bring: it does not wait for that either.
    let within =
        ask(&scheduler, Arc::clone(&source) as _, 9 * MIB..9 * MIB + 5, Priority::OnDemand);
    settle().await;
    assert_eq!(source.in_flight(), 1, "background stands still");
    assert_eq!(source.asked().last().map(|range| range.start()), Some(9 * MIB));
    source.open();
    assert_eq!(within.await.expect("no panic").expect("read").bytes().len(), 5);
    let whole = background.await.expect("no panic").expect("fetched");
    assert_eq!(*whole.bytes(), bytes);
    assert!(!source.repeated());
    assert_eq!(source.delivered(), 64 * MIB);
}

#[tokio::test(start_paused = true)]
async fn background_stands_still_while_a_reader_waits_and_slots_are_free() {
    let scheduler = NodeScheduler::new(SchedulerConfig::default());
    let source = Arc::new(GatedSource::new(large(2 * MIB), 0));
    let stalled = Arc::new(GatedSource::new(large(MIB), 0));
    let background = ask(&scheduler, Arc::clone(&source) as _, 0..2 * MIB, Priority::Background);
    settle().await;
    assert_eq!(source.in_flight(), 1);
    let read = ask(&scheduler, Arc::clone(&stalled) as _, 0..10, Priority::OnDemand);
    settle().await;
    assert_eq!((source.in_flight(), stalled.in_flight()), (0, 1));
    stalled.open();
    read.await.expect("no panic").expect("read");
    settle().await;
    assert_eq!(source.in_flight(), 1, "it goes on");
    source.open();
    background.await.expect("no panic").expect("fetched");
    assert_eq!(source.delivered(), 2 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_breaks_midway_fails_all_who_wait_and_nobody_else() {
    let scheduler = NodeScheduler::new(SchedulerConfig::default());
    let source = Arc::new(GatedSource::new(large(MIB), 0));
    source.fail_at(5000);
    let fetches = [0..8000, 0..8000, 1000..9000, 6000..6001]
        .map(|range| ask(&scheduler, Arc::clone(&source) as _, range, Priority::Prefetch));
    let other = ask(&scheduler, Arc::clone(&source) as _, 500_000..500_010, Priority::Prefetch);
    let early = ask(&scheduler, Arc::clone(&source) as _, 0..100, Priority::Prefetch);
    settle().await;
    source.open();
    for fetch in fetches {
        assert_eq!(kind(fetch).await, Some(ErrorKind::Unavailable));
    }
    other.await.expect("no panic").expect("another request");
    early.await.expect("no panic").expect("its bytes had arrived");
    ask(&scheduler, source, 0..8000, Priority::Prefetch).await.expect("no panic").expect("again");
    assert_eq!(scheduler.load().pending, [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn sources_that_stall_panic_or_end_early_hold_nobody_else_up() {
    let scheduler = NodeScheduler::new(SchedulerConfig::default());
    let faulty = |fault, seed| {
        let blob = Arc::new(MemoryBlob::new(noise(10_000, seed)));
        Arc::new(FaultySource::new(blob, fault)) as Arc<dyn BlobSource>
    };
    let ask = |source, priority| ask(&scheduler, source, 0..5000, priority);
    let stalled = ask(faulty(SourceFault::Stalled, 1), Priority::OnDemand);
    let panics = ask(faulty(SourceFault::Panics, 3), Priority::OnDemand);
    let short = ask(faulty(SourceFault::Short, 5), Priority::OnDemand);
    assert_eq!(kind(panics).await, Some(ErrorKind::Unexpected));
    assert_eq!(kind(short).await, Some(ErrorKind::Unavailable));
    let sound = ask(faulty(SourceFault::None, 7), Priority::OnDemand).await;
    sound.expect("no panic").expect("goes on");
    let sound = ask(faulty(SourceFault::None, 9), Priority::Prefetch).await;
    sound.expect("no panic").expect("goes on");
    assert!(!stalled.is_finished());
    stalled.abort();
    settle().await;
    assert_eq!(scheduler.load().pending, [0; 3]);
}

#[tokio::test]
async fn a_range_past_the_blob_fails_alone() {
    let scheduler = NodeScheduler::new(SchedulerConfig::default());
    let source = Arc::new(MemoryBlob::new(noise(10_000, 1)));
    let past = ask(&scheduler, Arc::clone(&source) as _, 5000..10_001, Priority::OnDemand);
    let within = ask(&scheduler, source, 4000..10_000, Priority::OnDemand);
    assert_eq!(kind(past).await, Some(ErrorKind::OutOfRange));
    within.await.expect("no panic").expect("within");
}

#[tokio::test(start_paused = true)]
async fn shutdown_fails_what_waits_and_stops_what_is_in_flight() {
    let scheduler = NodeScheduler::new(SchedulerConfig::default());
    let source = Arc::new(GatedSource::new(large(MIB), 0));
    let waits = ask(&scheduler, Arc::clone(&source) as _, 0..5000, Priority::OnDemand);
    settle().await;
    assert_eq!(source.in_flight(), 1);
    scheduler.shutdown().await;
    assert_eq!(source.in_flight(), 0);
    assert_eq!(kind(waits).await, Some(ErrorKind::FailedPrecondition));
    let late = ask(&scheduler, source, 0..5000, Priority::OnDemand);
    assert_eq!(kind(late).await, Some(ErrorKind::FailedPrecondition));
}

#[tokio::test(start_paused = true)]
async fn dropping_it_ends_its_tasks() {
    let scheduler = NodeScheduler::new(SchedulerConfig::default());
    let source = Arc::new(GatedSource::new(large(MIB), 0));
    let waits = ask(&scheduler, Arc::clone(&source) as _, 0..5000, Priority::OnDemand);
    settle().await;
    drop(scheduler);
    assert_eq!(source.in_flight(), 1, "the caller still holds it");
    waits.abort();
    settle().await;
    assert_eq!(source.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_fetches_on_many_threads_are_each_exact() {
    let scheduler = NodeScheduler::new(SchedulerConfig {
        budget_bytes: 256 << 10,
        max_len: 64 << 10,
        ..SchedulerConfig::default()
    });
    let bytes = large(4 * MIB);
    let source = Arc::new(GatedSource::new(bytes.clone(), 512));
    source.open();
    // Each drops its answer when it is used: the budget holds a hundredth of them.
    let fetches = (0..3000_u64).map(|number| {
        let start = number * 7919 % (4 * MIB - 40_000);
        let range = start..start + 1 + number * 31 % 30_000;
        let priority = Priority::ALL[usize::try_from(number % 3).expect("small")];
        let fetch = ask(&scheduler, Arc::clone(&source) as _, range.clone(), priority);
        let bytes = bytes.clone();
        tokio::spawn(async move {
            let fetched = fetch.await.expect("no panic").expect("fetched");
            let bound = |at: u64| usize::try_from(at).expect("small");
            assert_eq!(*fetched.bytes(), bytes.slice(bound(range.start)..bound(range.end)));
        })
    });
    for used in fetches.collect::<Vec<_>>() {
        used.await.expect("exact");
    }
    assert_eq!(scheduler.load().pending, [0; 3]);
}
