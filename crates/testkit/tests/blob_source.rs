//! The suite of blob sources passes the memory double, and each clause fails a double that breaks it.
use std::sync::Arc;

use bolide_core::{
    BlobSource,
    memory::{DirectScheduler, MemoryBlob},
};
use bolide_testkit::{
    conformance::{Verdict, blob_source},
    fault::{FaultySource, SourceFault},
    sample,
};
use bytes::Bytes;

fn truth() -> Bytes {
    Bytes::from(sample::noise(10_000, 3))
}

fn faulty(fault: SourceFault) -> FaultySource {
    FaultySource::new(Arc::new(MemoryBlob::new(truth())), fault)
}

fn clause_of(verdict: &Verdict) -> Option<&'static str> {
    verdict.as_ref().err().map(bolide_testkit::conformance::Broken::clause)
}

#[tokio::test]
async fn memory_blob_conforms() {
    let source: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(truth()));
    blob_source::all(source, truth()).await.expect("conforms");
    blob_source::all(Arc::new(faulty(SourceFault::None)), truth()).await.expect("conforms");
}

#[tokio::test(start_paused = true)]
async fn every_clause_of_blob_source_can_fail() {
    let truth = truth();
    let broken = faulty(SourceFault::WrongSize);
    assert_eq!(clause_of(&blob_source::size_is_exact(&broken, &truth)), Some("exact size"));
    for fault in [SourceFault::Flipped(0), SourceFault::Short, SourceFault::Broken(1)] {
        let verdict = blob_source::reads_are_exact(&faulty(fault), &truth).await;
        assert_eq!(clause_of(&verdict), Some("exact"), "{fault:?}");
        let verdict = blob_source::stream_equals_read(&faulty(fault), &truth).await;
        assert_eq!(clause_of(&verdict), Some("ordered stream"), "{fault:?}");
    }
    let verdict = blob_source::whole_stream_matches_digest(&faulty(SourceFault::Flipped(5))).await;
    assert_eq!(clause_of(&verdict), Some("digest"));
    let verdict = blob_source::past_the_end_is_out_of_range(&faulty(SourceFault::Unbounded)).await;
    assert_eq!(clause_of(&verdict), Some("in bounds"));
    let verdict =
        blob_source::dropped_reads_leak_nothing(&faulty(SourceFault::Stalled), &truth).await;
    assert_eq!(clause_of(&verdict), Some("cancel-safe"));
    let unsteady = faulty(SourceFault::Unsteady);
    let verdict = blob_source::concurrent_reads_do_not_mix(&unsteady, &truth).await;
    assert_eq!(clause_of(&verdict), Some("concurrent"));
    let verdict = blob_source::reads_repeat(&faulty(SourceFault::Broken(1)), &truth).await;
    assert_eq!(clause_of(&verdict), Some("immutable"));
}

#[tokio::test]
async fn direct_scheduler_reads() {
    use bolide_core::{ByteRange, FetchRequest, Priority, Scheduler as _};
    let source: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(truth()));
    let range = ByteRange::new(10..20).expect("range");
    let request = FetchRequest { source, range, priority: Priority::OnDemand };
    let fetched = DirectScheduler.fetch(request).await.expect("fetch");
    assert_eq!(fetched.bytes(), &truth().slice(10..20));
}
