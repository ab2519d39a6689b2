//! Several policies as one.
use std::collections::VecDeque;

use bolide_core::{AccessEvent, FetchHint, HintSink, Prefetcher, TocIndex};

/// Asks policies one after the other, the first first.
///
/// What a policy hints at after the sink wanted no more is kept, at most one hint for each policy,
/// and comes first with the next event.
#[derive(Debug, Default)]
pub struct ChainPolicy {
    policies: Vec<Box<dyn Prefetcher>>,
    kept: VecDeque<FetchHint>,
}

impl ChainPolicy {
    /// Chains `policies` in this order.
    #[must_use]
    pub fn new(policies: Vec<Box<dyn Prefetcher>>) -> Self {
        Self { policies, kept: VecDeque::new() }
    }

    /// Gives the sink what it did not want before; `false` when it still wants no more.
    fn flush(&mut self, out: &mut dyn HintSink) -> bool {
        while let Some(hint) = self.kept.pop_front() {
            if !out.push(hint) {
                return false;
            }
        }
        true
    }
}

/// Passes hints on until the sink wants no more, and keeps what comes after.
struct Overflow<'a> {
    inner: &'a mut dyn HintSink,
    kept: &'a mut VecDeque<FetchHint>,
    open: bool,
}

impl HintSink for Overflow<'_> {
    fn push(&mut self, hint: FetchHint) -> bool {
        if self.open {
            self.open = self.inner.push(hint);
        } else {
            self.kept.push_back(hint);
        }
        self.open
    }
}

impl Prefetcher for ChainPolicy {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn start(&mut self, layer: &dyn TocIndex, out: &mut dyn HintSink) {
        let open = self.flush(out);
        let mut out = Overflow { inner: out, kept: &mut self.kept, open };
        for policy in &mut self.policies {
            policy.start(layer, &mut out);
        }
    }

    fn observe(&mut self, layer: &dyn TocIndex, event: &AccessEvent, out: &mut dyn HintSink) {
        if !self.flush(out) {
            // Asked now, each policy could leave one more hint to keep, without end.
            return;
        }
        let mut out = Overflow { inner: out, kept: &mut self.kept, open: true };
        for policy in &mut self.policies {
            policy.observe(layer, event, &mut out);
        }
    }
}

#[cfg(test)]
mod tests {
    use bolide_core::{Digest, FetchTarget, NodeId, Priority, memory::MemoryLayerBuilder};

    use super::*;

    /// Hints once at each call, at a file with its own number.
    #[derive(Debug)]
    struct Numbered(u32);

    impl Numbered {
        fn hint(&self, layer: Digest) -> FetchHint {
            let target = FetchTarget::File { file: NodeId(self.0), range: 0..1 };
            FetchHint { layer, target, priority: Priority::Prefetch }
        }
    }

    impl Prefetcher for Numbered {
        fn name(&self) -> &'static str {
            "numbered"
        }

        fn start(&mut self, layer: &dyn TocIndex, out: &mut dyn HintSink) {
            out.push(self.hint(layer.digest()));
        }

        fn observe(&mut self, layer: &dyn TocIndex, _: &AccessEvent, out: &mut dyn HintSink) {
            out.push(self.hint(layer.digest()));
        }
    }

    /// Wants one hint at a time.
    #[derive(Default)]
    struct One(Vec<FetchHint>);

    impl HintSink for One {
        fn push(&mut self, hint: FetchHint) -> bool {
            self.0.push(hint);
            false
        }
    }

    fn numbers(hints: &[FetchHint]) -> Vec<u32> {
        let number = |hint: &FetchHint| match hint.target {
            FetchTarget::File { file, .. } => file.0,
            FetchTarget::Blob(_) => panic!("only files are hinted at"),
        };
        hints.iter().map(number).collect()
    }

    #[test]
    fn policies_are_asked_in_order_and_nothing_is_lost_to_a_full_sink() {
        let layer = MemoryLayerBuilder::default().build();
        let policies = (1..=3).map(|n| Box::new(Numbered(n)) as Box<dyn Prefetcher>);
        let mut chain = ChainPolicy::new(policies.collect());
        let mut all = Vec::new();
        chain.start(&*layer.toc, &mut all);
        assert_eq!(numbers(&all), [1, 2, 3]);

        let event = AccessEvent::Opened { file: NodeId(0) };
        let mut one = One::default();
        chain.start(&*layer.toc, &mut one);
        assert_eq!(numbers(&one.0), [1], "the sink wanted no more");
        for _ in 0..2 {
            chain.observe(&*layer.toc, &event, &mut one);
        }
        assert_eq!(numbers(&one.0), [1, 2, 3], "kept hints come first, one at a time");
    }
}
