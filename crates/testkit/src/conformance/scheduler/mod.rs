//! The contract of [`Scheduler`], clause by clause.
//!
//! The clauses wait until nothing moves by sleeping on tokio's paused clock, which goes on only
//! when every task waits: run them under `#[tokio::test(start_paused = true)]`.
mod blob;

use std::sync::Arc;

use bolide_core::{
    BlobSource, ByteRange, Digest, ErrorKind, FetchRequest, Priority, Result, Scheduler,
    memory::MemoryBlob,
};

use self::blob::{Blob, GAP, KIB, PATIENCE, SIZE, Waiting, settle};
use super::verdict::{Broken, Verdict, hold, succeed};
use crate::fault::overlap;

/// Bounds of a scheduler to be made for a clause.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most requests in flight; `OnDemand` ones may take all of them.
    pub in_flight: usize,
    /// Most bytes held. One request may ask for 64 KiB or more, but for no more than half of it.
    pub budget_bytes: u64,
}

/// Makes a scheduler with these bounds.
pub type Make<'a> = &'a dyn Fn(Limits) -> Arc<dyn Scheduler>;

const ROOMY: Limits = Limits { in_flight: 8, budget_bytes: 1024 * KIB };
const SINGLE: Limits = Limits { in_flight: 1, ..ROOMY };

/// Runs every clause.
pub async fn all(make: Make<'_>) -> Verdict {
    basic(make).await?;
    asks_once(make).await?;
    near_requests_are_merged(make).await?;
    what_is_asked_together_is_sent_together(make).await?;
    urgent_requests_go_first(make).await?;
    joined_requests_take_over_urgency(make).await?;
    pre_empted_work_goes_on_where_it_was(make).await?;
    requests_in_flight_are_bounded(make).await?;
    bytes_held_are_bounded(make).await
}

/// Runs the clauses that hold for a scheduler that passes everything on, as
/// [`DirectScheduler`](bolide_core::memory::DirectScheduler) does: exact answers, range limit,
/// cancel-safe, no policy of sources. It neither joins, merges, orders nor bounds.
pub async fn basic(make: Make<'_>) -> Verdict {
    answers_are_exact(make).await?;
    long_ranges_are_refused(make).await?;
    dropped_futures_withdraw(make).await?;
    failures_are_passed_on(make).await
}

/// Each gets the bytes it asked for.
pub async fn answers_are_exact(make: Make<'_>) -> Verdict {
    let clause = "exact";
    let blob = Blob::open(1);
    let scheduler = make(ROOMY);
    let ranges = [(0, 1), (0, SIZE / 8), (SIZE - 1, SIZE), (5000, 9000), (8000, 12_000), (3, 5001)];
    let fetches: Vec<_> =
        ranges.map(|(start, end)| blob.fetch(&scheduler, start..end, Priority::OnDemand)).into();
    for ((start, end), fetch) in ranges.into_iter().zip(fetches) {
        let answer = succeed(clause, fetch.answer(clause).await?)?;
        let right = *answer.bytes() == blob.truth(start..end);
        hold(clause, right, format!("other bytes for {start}..{end}"))?;
    }
    Ok(())
}

/// A request longer than the scheduler's longest is `OutOfRange`; 64 KiB are always allowed.
pub async fn long_ranges_are_refused(make: Make<'_>) -> Verdict {
    let clause = "range limit";
    let scheduler = make(ROOMY);
    let max = scheduler.max_len();
    hold(clause, max >= 64 * KIB, format!("only {max} bytes are allowed"))?;
    let zeros = vec![0; usize::try_from(max + 1).unwrap_or(0)];
    let source = Arc::new(MemoryBlob::with_digest(zeros, Digest::of(b"zeros")));
    let range = succeed(clause, ByteRange::at(0, max + 1))?;
    let fetch = scheduler.fetch(FetchRequest { source, range, priority: Priority::OnDemand });
    let kind = fetch.await.err().map(|error| error.kind());
    hold(clause, kind == Some(ErrorKind::OutOfRange), format!("{kind:?} for {} bytes", max + 1))
}

/// A dropped future stops its request, unless others joined it.
pub async fn dropped_futures_withdraw(make: Make<'_>) -> Verdict {
    let clause = "cancel-safe";
    let (blob, scheduler) = (Blob::closed(2), make(ROOMY));
    let first = blob.fetch(&scheduler, 0..8 * KIB, Priority::OnDemand);
    let second = blob.fetch(&scheduler, 0..8 * KIB, Priority::OnDemand);
    settle().await;
    drop(first);
    settle().await;
    blob.source.open();
    let answer = succeed(clause, second.answer(clause).await?)?;
    hold(clause, *answer.bytes() == blob.truth(0..8 * KIB), "other bytes for who stayed")?;
    blob.source.open_to(0);
    let alone = blob.fetch(&scheduler, 100 * KIB..110 * KIB, Priority::Prefetch);
    settle().await;
    drop(alone);
    settle().await;
    let left = blob.source.in_flight();
    hold(clause, left == 0, format!("{left} requests nobody wants"))?;
    let pending = scheduler.load().pending;
    hold(clause, pending == [0; 3], format!("{pending:?} pending"))?;
    let again = blob.fetch(&scheduler, 100 * KIB..110 * KIB, Priority::Prefetch);
    blob.source.open();
    succeed(clause, again.answer(clause).await?).map(|_| ())
}

/// A failure of the source is everyone's answer; nothing is tried again until somebody asks.
pub async fn failures_are_passed_on(make: Make<'_>) -> Verdict {
    let clause = "no policy of sources";
    let (blob, scheduler) = (Blob::closed(3), make(ROOMY));
    blob.source.fail_at(2000);
    let fetch = blob.fetch(&scheduler, 0..8 * KIB, Priority::OnDemand);
    settle().await;
    let joined = blob.fetch(&scheduler, 0..8 * KIB, Priority::Prefetch);
    settle().await;
    let asked = blob.source.asked().len();
    blob.source.open();
    // A request of its own may be the one that meets the failure, which comes once.
    let kinds = [
        fetch.answer(clause).await?.err().map(|error| error.kind()),
        joined.answer(clause).await?.err().map(|error| error.kind()),
    ];
    let failed = kinds.iter().filter(|kind| **kind == Some(ErrorKind::Unavailable)).count();
    let right = if asked == 1 { failed == 2 } else { failed == 1 };
    hold(clause, right, format!("{kinds:?} instead of the failure"))?;
    settle().await;
    let after = blob.source.asked().len();
    hold(clause, after == asked, format!("{after} requests instead of {asked}"))?;
    let again = blob.fetch(&scheduler, 0..8 * KIB, Priority::OnDemand);
    succeed(clause, again.answer(clause).await?).map(|_| ())
}

/// What a request in flight will deliver is not asked for again, whatever source is named.
pub async fn asks_once(make: Make<'_>) -> Verdict {
    let clause = "once";
    let (blob, twin, scheduler) = (Blob::closed(4), Blob::closed(4), make(ROOMY));
    let mut fetches = vec![(0..8 * KIB, blob.fetch(&scheduler, 0..8 * KIB, Priority::OnDemand))];
    settle().await;
    for range in [0..8 * KIB, 0..10, 100..4000, 8000..8 * KIB, 4 * KIB..12 * KIB] {
        fetches.push((range.clone(), blob.fetch(&scheduler, range.clone(), Priority::OnDemand)));
        if range.end <= 8 * KIB {
            fetches.push((range.clone(), twin.fetch(&scheduler, range, Priority::OnDemand)));
        }
    }
    settle().await;
    blob.source.open_to(5000);
    settle().await;
    // Half of it has arrived: the other half still will.
    fetches.push((0..8 * KIB, twin.fetch(&scheduler, 0..8 * KIB, Priority::OnDemand)));
    settle().await;
    hold(clause, twin.source.asked().is_empty(), "the same blob by another source was asked")?;
    hold(clause, !overlap(blob.source.asked()), format!("{:?} asked", blob.source.asked()))?;
    blob.source.open();
    for (range, fetch) in fetches {
        let answer = succeed(clause, fetch.answer(clause).await?)?;
        let right = *answer.bytes() == blob.truth(range.clone());
        hold(clause, right, format!("other bytes for {range:?}"))?;
    }
    Ok(())
}

/// Waiting requests nearer than the merge gap become one, and each is answered when its bytes are
/// there.
pub async fn near_requests_are_merged(make: Make<'_>) -> Verdict {
    let clause = "merged";
    let (blocker, blob, scheduler) = (Blob::closed(5), Blob::closed(6), make(SINGLE));
    let busy = blocker.fetch(&scheduler, 0..10, Priority::OnDemand);
    settle().await;
    let near = [0..1000, 1500..2500, 2500..3000];
    let near = near.map(|range| blob.fetch(&scheduler, range, Priority::OnDemand));
    let far = blob.fetch(&scheduler, 3000 + GAP..5000 + GAP, Priority::OnDemand);
    settle().await;
    blocker.source.open();
    succeed(clause, busy.answer(clause).await?)?;
    settle().await;
    let asked = blob.source.asked();
    let merged = asked.first().is_some_and(|range| range.as_range() == (0..3000));
    hold(clause, merged && asked.len() == 1, format!("{asked:?} asked instead of 0..3000"))?;
    blob.source.open_to(1000);
    let [first, second, third] = near;
    succeed(clause, first.answer(clause).await?)?;
    hold(clause, !second.is_answered(), "an answer before its bytes")?;
    blob.source.open();
    succeed(clause, second.answer(clause).await?)?;
    succeed(clause, third.answer(clause).await?)?;
    succeed(clause, far.answer(clause).await?)?;
    let asked = blob.source.asked();
    hold(clause, asked.len() == 2, format!("{asked:?}: what is far is asked for alone"))
}

/// What [`Scheduler::fetch_all`] is asked for is known as a whole before the first of it is sent.
pub async fn what_is_asked_together_is_sent_together(make: Make<'_>) -> Verdict {
    let clause = "together";
    let (blob, scheduler) = (Blob::open(7), make(ROOMY));
    let ranges: Vec<_> = (0..500).map(|number| number * 1000..(number + 1) * 1000).collect();
    let request = |range: &std::ops::Range<u64>| {
        let source = Arc::clone(&blob.source) as Arc<dyn BlobSource>;
        let range = ByteRange::new(range.clone())?;
        Ok(FetchRequest { source, range, priority: Priority::Prefetch })
    };
    let requests = succeed(clause, ranges.iter().map(request).collect::<Result<Vec<_>>>())?;
    let all = futures::future::join_all(scheduler.fetch_all(requests));
    let answers = tokio::time::timeout(PATIENCE, all).await;
    let answers = answers.map_err(|_| Broken::new(clause, "a request waits for ever"))?;
    hold(clause, answers.len() == ranges.len(), "there is one answer for each request")?;
    for (range, answer) in ranges.into_iter().zip(answers) {
        let right = *succeed(clause, answer)?.bytes() == blob.truth(range.clone());
        hold(clause, right, format!("other bytes for {range:?}"))?;
    }
    let asked = blob.source.asked();
    hold(clause, asked.len() == 1, format!("{} requests for bytes without a gap", asked.len()))
}

/// The most urgent first, equal ones in the order of arrival.
pub async fn urgent_requests_go_first(make: Make<'_>) -> Verdict {
    let clause = "ordered";
    let expected = [3, 5, 2, 4, 1];
    let asked = order_of(clause, make, |blob, scheduler| {
        let priorities = [
            Priority::Background,
            Priority::Prefetch,
            Priority::OnDemand,
            Priority::Prefetch,
            Priority::OnDemand,
        ];
        let ranks = (1..).zip(priorities);
        ranks.map(|(place, priority)| blob.fetch(scheduler, at(place), priority)).collect()
    });
    let asked = asked.await?;
    hold(clause, asked == expected, format!("{asked:?} instead of {expected:?}"))
}

/// A request joined by a more urgent one is as urgent as that.
pub async fn joined_requests_take_over_urgency(make: Make<'_>) -> Verdict {
    let clause = "takes over urgency";
    let asked = order_of(clause, make, |blob, scheduler| {
        vec![
            blob.fetch(scheduler, at(1), Priority::Prefetch),
            blob.fetch(scheduler, at(2), Priority::Background),
            blob.fetch(scheduler, at(2), Priority::OnDemand),
        ]
    });
    let asked = asked.await?;
    hold(clause, asked == [2, 1], format!("{asked:?} instead of [2, 1]"))
}

/// An urgent request does not wait for the end of a background one; that loses nothing by it.
pub async fn pre_empted_work_goes_on_where_it_was(make: Make<'_>) -> Verdict {
    let clause = "pre-empted work resumes";
    let (slow, urgent, scheduler) = (Blob::closed(7), Blob::open(8), make(SINGLE));
    let background = slow.fetch(&scheduler, 0..60 * KIB, Priority::Background);
    settle().await;
    slow.source.open_to(10_000);
    settle().await;
    let read = urgent.fetch(&scheduler, 0..5000, Priority::OnDemand);
    settle().await;
    hold(clause, read.is_answered(), "a blocked reader waits for background work")?;
    drop(read);
    slow.source.open();
    let answer = succeed(clause, background.answer(clause).await?)?;
    hold(clause, *answer.bytes() == slow.truth(0..60 * KIB), "other bytes")?;
    let delivered = slow.source.delivered();
    let once = !slow.source.repeated();
    hold(clause, once, format!("{delivered} bytes for {}", 60 * KIB))
}

/// No more requests are in flight than the bound.
pub async fn requests_in_flight_are_bounded(make: Make<'_>) -> Verdict {
    let clause = "bounded in flight";
    let limits = Limits { in_flight: 2, ..ROOMY };
    let (blob, scheduler) = (Blob::closed(9), make(limits));
    let fetches: Vec<_> =
        (0..6).map(|place| blob.fetch(&scheduler, at(place), Priority::OnDemand)).collect();
    settle().await;
    let pending = scheduler.load().pending;
    hold(clause, pending == [6, 0, 0], format!("{pending:?} pending instead of 6"))?;
    blob.source.open();
    for fetch in fetches {
        succeed(clause, fetch.answer(clause).await?)?;
    }
    let most = blob.source.most_in_flight();
    hold(clause, most <= 2, format!("{most} in flight, 2 allowed"))
}

/// No more bytes are fetched than the budget until answers are dropped; then the others come.
pub async fn bytes_held_are_bounded(make: Make<'_>) -> Verdict {
    let clause = "bounded bytes";
    let limits = Limits { in_flight: 8, budget_bytes: 128 * KIB };
    let (blob, scheduler) = (Blob::open(10), make(limits));
    let wish = |place: u64| place * 64 * KIB..place * 64 * KIB + 30 * KIB;
    let mut fetches: Vec<_> =
        (0..8).map(|place| blob.fetch(&scheduler, wish(place), Priority::OnDemand)).collect();
    settle().await;
    let (held, arrived) = (scheduler.load().held_bytes, blob.source.delivered());
    let within = arrived <= limits.budget_bytes && held == arrived;
    hold(clause, within, format!("{arrived} fetched, {held} held, 131072 allowed"))?;
    while !fetches.is_empty() {
        settle().await;
        let before = fetches.len();
        fetches.retain(|fetch| !fetch.is_answered());
        hold(clause, fetches.len() < before, "nothing is answered though answers were dropped")?;
    }
    settle().await;
    let held = scheduler.load().held_bytes;
    hold(clause, held == 0, format!("{held} bytes held by nobody"))
}

/// The order in which a scheduler with one slot asks for places of a blob.
async fn order_of(
    clause: &'static str,
    make: Make<'_>,
    ask: impl FnOnce(&Blob, &Arc<dyn Scheduler>) -> Vec<Waiting>,
) -> Result<Vec<u64>, Broken> {
    let (blocker, blob, scheduler) = (Blob::closed(11), Blob::open(12), make(SINGLE));
    let busy = blocker.fetch(&scheduler, 0..10, Priority::OnDemand);
    settle().await;
    let fetches = ask(&blob, &scheduler);
    settle().await;
    blocker.source.open();
    succeed(clause, busy.answer(clause).await?)?;
    for fetch in fetches {
        succeed(clause, fetch.answer(clause).await?)?;
    }
    Ok(blob.source.asked().iter().map(|range| range.start() / (64 * KIB)).collect())
}

/// A range that is far from those of other places.
fn at(place: u64) -> std::ops::Range<u64> {
    place * 64 * KIB..place * 64 * KIB + 5000
}
