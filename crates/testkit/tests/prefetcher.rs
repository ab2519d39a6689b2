//! Each clause of the suite of prefetch policies fails a double that breaks it.
use std::sync::atomic::{AtomicU64, Ordering};

use bolide_core::{
    AccessEvent, Digest, FetchHint, FetchTarget, HintSink, Prefetcher, Priority, TocIndex,
};
use bolide_testkit::conformance::{Broken, prefetcher::all};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    PastTheEnd,
    Empty,
    OtherLayer,
    OnDemand,
    IgnoresSink,
    Moody,
}

/// Hints at the file that was opened, three times over.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    mood: u64,
}

static MADE: AtomicU64 = AtomicU64::new(0);

impl Faulty {
    fn make(fault: Fault) -> Box<dyn Prefetcher> {
        Box::new(Self { fault, mood: MADE.fetch_add(1, Ordering::SeqCst) })
    }
}

impl Prefetcher for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn start(&mut self, _: &dyn TocIndex, _: &mut dyn HintSink) {}

    fn observe(&mut self, layer: &dyn TocIndex, event: &AccessEvent, out: &mut dyn HintSink) {
        let AccessEvent::Opened { file } = *event else { return };
        let size = layer.attr(file).map_or(0, |attr| attr.size);
        if size == 0 {
            return;
        }
        let range = match self.fault {
            Fault::PastTheEnd => 0..size + 1,
            Fault::Empty => size..size,
            Fault::Moody => 0..1 + self.mood % size.min(2),
            _ => 0..size,
        };
        let other = self.fault == Fault::OtherLayer;
        let urgent = self.fault == Fault::OnDemand;
        let hint = FetchHint {
            layer: if other { Digest::of(b"other") } else { layer.digest() },
            target: FetchTarget::File { file, range },
            priority: if urgent { Priority::OnDemand } else { Priority::Prefetch },
        };
        for _ in 0..3 {
            if !out.push(hint.clone()) && self.fault != Fault::IgnoresSink {
                return;
            }
        }
    }
}

#[test]
fn every_clause_can_fail() {
    let cases = [
        (Fault::None, None),
        (Fault::PastTheEnd, Some("in bounds")),
        (Fault::Empty, Some("in bounds")),
        (Fault::OtherLayer, Some("names its layer")),
        (Fault::OnDemand, Some("never on demand")),
        (Fault::IgnoresSink, Some("heeds the sink")),
        (Fault::Moody, Some("pure")),
    ];
    for (fault, clause) in cases {
        let verdict = all(&|| Faulty::make(fault));
        assert_eq!(verdict.as_ref().err().map(Broken::clause), clause, "{fault:?}");
    }
}
