//! Each clause of the scheduler's suite fails a scheduler that breaks it.
use std::sync::Arc;

use async_trait::async_trait;
use bolide_core::{
    ByteRange, ErrorKind, FetchRequest, Fetched, Priority, ReadOptions, Result, Scheduler,
    SchedulerLoad, memory::DirectScheduler,
};
use bolide_testkit::conformance::{
    Verdict,
    scheduler::{self, Limits},
};
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Answers with the bytes before those that were asked for.
    Shifted,
    /// Knows no longest range.
    Unlimited,
    /// Goes on when its caller has gone.
    Detached,
    /// Asks again after a failure.
    Retrying,
    /// Starts background work over when something urgent comes.
    Restarting,
}

/// Passes everything on, and breaks one clause more than that does.
#[derive(Debug)]
struct BrokenScheduler {
    fault: Fault,
    urgent: Notify,
}

#[async_trait]
impl Scheduler for BrokenScheduler {
    async fn fetch(&self, mut request: FetchRequest) -> Result<Fetched> {
        match self.fault {
            Fault::Shifted if request.range.start() > 0 => {
                request.range = ByteRange::at(request.range.start() - 1, request.range.len())?;
                DirectScheduler.fetch(request).await
            }
            Fault::Unlimited => {
                let read = request.source.read_at(request.range, ReadOptions::default()).await;
                read.map(Fetched::new)
            }
            Fault::Detached => tokio::spawn(async move { DirectScheduler.fetch(request).await })
                .await
                .expect("does not panic"),
            Fault::Retrying => match DirectScheduler.fetch(request.clone()).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    DirectScheduler.fetch(request).await
                }
                other => other,
            },
            Fault::Restarting if request.priority == Priority::OnDemand => {
                self.urgent.notify_waiters();
                DirectScheduler.fetch(request).await
            }
            Fault::Restarting => loop {
                tokio::select! {
                    fetched = DirectScheduler.fetch(request.clone()) => return fetched,
                    () = self.urgent.notified() => {}
                }
            },
            Fault::Shifted => DirectScheduler.fetch(request).await,
        }
    }

    fn max_len(&self) -> u64 {
        DirectScheduler.max_len()
    }

    fn load(&self) -> SchedulerLoad {
        DirectScheduler.load()
    }
}

fn direct(_: Limits) -> Arc<dyn Scheduler> {
    Arc::new(DirectScheduler)
}

fn broken(fault: Fault) -> impl Fn(Limits) -> Arc<dyn Scheduler> {
    move |_| Arc::new(BrokenScheduler { fault, urgent: Notify::new() })
}

fn clause_of(verdict: &Verdict) -> Option<&'static str> {
    verdict.as_ref().err().map(bolide_testkit::conformance::Broken::clause)
}

#[tokio::test(start_paused = true)]
async fn direct_scheduler_keeps_the_clauses_it_does_not_except() {
    scheduler::basic(&direct).await.expect("conforms");
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_passes_everything_on_is_found_out() {
    let found = [
        scheduler::asks_once(&direct).await,
        scheduler::near_requests_are_merged(&direct).await,
        scheduler::what_is_asked_together_is_sent_together(&direct).await,
        scheduler::urgent_requests_go_first(&direct).await,
        scheduler::joined_requests_take_over_urgency(&direct).await,
        scheduler::requests_in_flight_are_bounded(&direct).await,
        scheduler::bytes_held_are_bounded(&direct).await,
    ];
    let expected = [
        "once",
        "merged",
        "together",
        "ordered",
        "takes over urgency",
        "bounded in flight",
        "bounded bytes",
    ];
    assert_eq!(found.each_ref().map(clause_of), expected.map(Some));
}

#[tokio::test(start_paused = true)]
async fn every_other_clause_can_fail() {
    let verdict = scheduler::answers_are_exact(&broken(Fault::Shifted)).await;
    assert_eq!(clause_of(&verdict), Some("exact"));
    let verdict = scheduler::long_ranges_are_refused(&broken(Fault::Unlimited)).await;
    assert_eq!(clause_of(&verdict), Some("range limit"));
    let verdict = scheduler::dropped_futures_withdraw(&broken(Fault::Detached)).await;
    assert_eq!(clause_of(&verdict), Some("cancel-safe"));
    let verdict = scheduler::failures_are_passed_on(&broken(Fault::Retrying)).await;
    assert_eq!(clause_of(&verdict), Some("no policy of sources"));
    let restarting = broken(Fault::Restarting);
    let verdict = scheduler::pre_empted_work_goes_on_where_it_was(&restarting).await;
    assert_eq!(clause_of(&verdict), Some("pre-empted work resumes"));
}
