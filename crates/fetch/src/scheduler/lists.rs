//! Which bytes wait, and which a request in flight will deliver.
use std::collections::{BTreeMap, BTreeSet};

use bolide_core::{ByteRange, Digest, Priority};

use super::segment::{FlightId, Rank, Segment};

/// A request in flight: the rest of a range of one blob.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) blob: Digest,
    /// The next byte to arrive.
    pub(super) at: u64,
    pub(super) end: u64,
    /// Segments it has yet to complete, by priority.
    wanted: [usize; 3],
    /// Whether it was told to stop, and has not yet.
    pub(super) stopping: bool,
    /// Wishes it serves or has served.
    pub(super) joined: usize,
}

impl Flight {
    pub(super) fn new(blob: Digest, range: ByteRange, joined: usize) -> Self {
        let (at, end) = (range.start(), range.end());
        Self { blob, at, end, wanted: [0; 3], stopping: false, joined }
    }

    /// Priority of the most urgent bytes it has yet to deliver; `None` when nobody wants any.
    pub(super) fn urgency(&self) -> Option<Priority> {
        Priority::ALL.into_iter().find(|priority| self.wanted[*priority as usize] > 0)
    }

    /// Whether it will deliver bytes of different priorities.
    pub(super) fn is_mixed(&self) -> bool {
        self.wanted.iter().filter(|wanted| **wanted > 0).count() > 1
    }
}

/// The queue of waiting segments, the first to be served first, and the requests in flight. Every
/// segment that is not whole is listed in one of the two.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) queue: BTreeSet<(Rank, Digest, u64)>,
    pub(super) flights: BTreeMap<FlightId, Flight>,
}

impl Lists {
    /// Lists a segment.
    pub(super) fn enter(&mut self, blob: Digest, segment: &Segment) {
        if segment.is_whole() {
            return;
        }
        let Some(flight) = segment.flight else {
            self.queue.insert((segment.rank, blob, segment.start));
            return;
        };
        if let Some(flight) = self.flights.get_mut(&flight) {
            flight.wanted[segment.rank.priority as usize] += 1;
        }
    }

    /// Takes a segment off, as it was when it was listed.
    pub(super) fn leave(&mut self, blob: Digest, segment: &Segment) {
        if segment.is_whole() {
            return;
        }
        let Some(flight) = segment.flight else {
            self.queue.remove(&(segment.rank, blob, segment.start));
            return;
        };
        if let Some(flight) = self.flights.get_mut(&flight) {
            let wanted = &mut flight.wanted[segment.rank.priority as usize];
            *wanted = wanted.saturating_sub(1);
        }
    }

    /// Cuts `hole` where requests in flight begin and end; each piece with the one that will
    /// deliver it.
    pub(super) fn cut(&self, blob: Digest, hole: ByteRange) -> Vec<(ByteRange, Option<FlightId>)> {
        let flights = || self.flights.iter().filter(|(_, flight)| flight.blob == blob);
        let edges = flights().flat_map(|(_, flight)| [flight.at, flight.end]);
        let mut cuts: Vec<u64> =
            edges.filter(|edge| hole.start() < *edge && *edge < hole.end()).collect();
        cuts.extend([hole.start(), hole.end()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).filter_map(|ends| ByteRange::new(ends[0]..ends[1]).ok());
        let delivers = |piece: ByteRange| {
            flights()
                .find(|(_, flight)| flight.at <= piece.start() && piece.end() <= flight.end)
                .map(|(id, _)| *id)
        };
        pieces.map(|piece| (piece, delivers(piece))).collect()
    }
}
