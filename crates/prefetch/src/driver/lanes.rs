//! Hints that wait, in bounded queues.
use std::collections::VecDeque;

use bolide_core::{Digest, FetchHint, FetchTarget, HintSink, Priority};

/// Hints of one kind that may wait before the sink wants no more. One more from each policy is
/// taken; what comes from policies that do not heed the sink is dropped at twice this number.
const ROOM: usize = 64;

/// Hints of one layer that wait.
#[derive(Debug)]
pub(super) struct Lanes {
    layer: Digest,
    /// Hinted at when the layer was added.
    pub(super) start: VecDeque<FetchTarget>,
    /// Hinted at since.
    pub(super) ahead: VecDeque<FetchTarget>,
    pub(super) background: VecDeque<FetchTarget>,
    started: bool,
}

impl Lanes {
    pub(super) fn new(layer: Digest) -> Self {
        Self {
            layer,
            start: VecDeque::new(),
            ahead: VecDeque::new(),
            background: VecDeque::new(),
            started: false,
        }
    }

    /// From now on hints come from events.
    pub(super) fn end_start(&mut self) {
        self.started = true;
    }
}

impl HintSink for Lanes {
    fn push(&mut self, hint: FetchHint) -> bool {
        if hint.layer != self.layer {
            tracing::debug!(layer = %self.layer, other = %hint.layer, "a policy hinted at a layer it was not given");
            return true;
        }
        let lane = match (hint.priority, self.started) {
            (Priority::OnDemand, _) => {
                tracing::debug!(layer = %self.layer, "a policy hinted on demand, which is for readers");
                return true;
            }
            (Priority::Prefetch, false) => &mut self.start,
            (Priority::Prefetch, true) => &mut self.ahead,
            (Priority::Background, _) => &mut self.background,
        };
        if lane.len() < 2 * ROOM {
            lane.push_back(hint.target);
        }
        lane.len() < ROOM
    }
}

#[cfg(test)]
mod tests {
    use bolide_core::ByteRange;

    use super::*;

    #[test]
    fn lanes_are_bounded_and_take_only_what_is_theirs() {
        let layer = Digest::of(b"layer");
        let mut lanes = Lanes::new(layer);
        let hint = |layer, priority| FetchHint {
            layer,
            target: FetchTarget::Blob(ByteRange::new(0..1).expect("not empty")),
            priority,
        };
        lanes.push(hint(layer, Priority::OnDemand));
        lanes.push(hint(Digest::of(b"other"), Priority::Prefetch));
        assert!(lanes.start.is_empty());
        let wanted = (0..1000).filter(|_| lanes.push(hint(layer, Priority::Background))).count();
        assert_eq!(wanted, ROOM - 1);
        assert_eq!(lanes.background.len(), 2 * ROOM);
        assert!(lanes.push(hint(layer, Priority::Prefetch)), "each lane has its own room");
    }
}
