//! Which request goes out next, what it takes along, and who is paused for it.
use std::collections::BTreeSet;

use bolide_core::{ByteRange, Digest, Priority};

use super::{
    lists::Flight,
    segment::{FlightId, Rank, Segment, WishId},
    state::{Effect, State},
};

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) flight: FlightId,
    pub(super) blob: Digest,
    pub(super) range: ByteRange,
    pub(super) priority: Priority,
    /// The wish whose source is asked.
    pub(super) lead: WishId,
    /// Wishes it serves.
    pub(super) joined: usize,
}

/// The segments of one request to come.
struct Plan {
    starts: Vec<u64>,
    range: ByteRange,
    /// Bytes of the budget it takes.
    room: u64,
}

impl State {
    /// The next request to send, which is in flight from now on; `None` while the first of the
    /// queue must wait.
    pub(super) fn next(&mut self) -> Option<Start> {
        let (rank, blob, start) = *self.lists.queue.first()?;
        if !self.has_slot(rank.priority) {
            return None;
        }
        let plan = self.plan(rank, blob, start)?;
        // When nothing is under way and nobody holds an answer, what fills the budget are parts of
        // requests whose rest waits: one of them has to go on.
        let stuck = self.lists.flights.is_empty() && self.budget.answers() == 0;
        if !stuck && !self.budget.fits(plan.room, rank.priority) {
            return None;
        }
        let id = self.next_id();
        let segments = self.blobs.get_mut(&blob)?;
        let mut wishes: BTreeSet<WishId> = BTreeSet::new();
        self.lists.flights.insert(id, Flight::new(blob, plan.range, 0));
        for start in plan.starts {
            let Some(segment) = segments.get_mut(&start) else { continue };
            self.lists.leave(blob, segment);
            segment.flight = Some(id);
            if segment.hold.is_none() {
                segment.hold = Some(self.budget.take(segment.len()));
            }
            self.lists.enter(blob, segment);
            wishes.extend(&segment.wishes);
        }
        let (priority, joined) = (rank.priority, wishes.len());
        if let Some(flight) = self.lists.flights.get_mut(&id) {
            flight.joined = joined;
        }
        Some(Start { flight: id, blob, range: plan.range, priority, lead: rank.wish, joined })
    }

    /// Tells requests in flight to stop where others must go before them.
    pub(super) fn pre_empt(&mut self) {
        let blocked = self.pending[Priority::OnDemand as usize] > 0;
        let mut stop: Vec<FlightId> = self
            .lists
            .flights
            .iter()
            .filter(|(_, flight)| !flight.stopping)
            .filter(|(_, flight)| {
                (blocked && flight.urgency() == Some(Priority::Background))
                    || self.keeps_waiting(flight)
            })
            .map(|(id, _)| *id)
            .collect();
        if stop.is_empty() {
            stop.extend(self.victim());
        }
        for id in stop {
            if let Some(flight) = self.lists.flights.get_mut(&id) {
                flight.stopping = true;
                self.effects.push(Effect::Stop(id));
            }
        }
    }

    /// Whether much that is less urgent lies before the bytes a reader is blocked on.
    fn keeps_waiting(&self, flight: &Flight) -> bool {
        if flight.urgency() != Some(Priority::OnDemand) || !flight.is_mixed() {
            return false;
        }
        let segments = self.blobs.get(&flight.blob).into_iter();
        let first = segments
            .flat_map(|segments| segments.range(..flight.end).rev())
            .take_while(|(_, segment)| segment.end > flight.at)
            .filter(|(_, segment)| segment.rank.priority == Priority::OnDemand)
            .filter(|(_, segment)| !segment.is_whole())
            .last();
        first.is_some_and(|(start, _)| start.saturating_sub(flight.at) > self.config.max_wait)
    }

    /// The request to pause for the first of the queue: of the least urgent the latest, and only
    /// one less urgent than that. One at a time: what stops frees its slot.
    fn victim(&self) -> Option<FlightId> {
        let (rank, ..) = self.lists.queue.first()?;
        let stopping = self.lists.flights.values().any(|flight| flight.stopping);
        if stopping || self.has_slot(rank.priority) {
            return None;
        }
        let less_urgent = self.lists.flights.iter().filter_map(|(id, flight)| {
            let urgency = flight.urgency()?;
            (urgency > rank.priority).then_some((urgency, *id))
        });
        less_urgent.max().map(|(_, id)| id)
    }

    fn has_slot(&self, priority: Priority) -> bool {
        let flights = &self.lists.flights;
        let free = flights.len() < self.config.max_in_flight;
        let ahead = || {
            let others =
                flights.values().filter(|flight| flight.urgency() != Some(Priority::OnDemand));
            others.count() < self.config.max_in_flight - self.config.reserved_on_demand
        };
        match priority {
            Priority::OnDemand => free,
            Priority::Prefetch => free && ahead(),
            // The line is a blocked reader's own.
            Priority::Background => {
                free && ahead() && self.pending[Priority::OnDemand as usize] == 0
            }
        }
    }

    /// Takes along what waits near by and is as urgent, after the first segment and then before it.
    /// What is less urgent stays: it would delay the others, or be paused with their connection.
    fn plan(&self, rank: Rank, blob: Digest, start: u64) -> Option<Plan> {
        let segments = self.blobs.get(&blob)?;
        let seed = segments.get(&start)?;
        let merge_gap = self.wishes.get(&rank.wish)?.wanted.merge_gap;
        let (mut from, mut to) = (seed.reached(), seed.end);
        let mut plan =
            Plan { starts: vec![start], range: ByteRange::new(from..to).ok()?, room: seed.room() };
        let takes = |segment: &Segment, gap: u64, len: u64, room: u64| {
            segment.is_waiting()
                && segment.rank.priority == rank.priority
                && (gap == 0 || gap < merge_gap)
                && len <= self.config.longest(rank.priority)
                && self.budget.fits(room, rank.priority)
        };
        for (start, segment) in segments.range(seed.end..) {
            let room = plan.room + segment.room();
            // What was paused part way must come first, or its head would be asked for again.
            if !segment.is_untouched()
                || !takes(segment, segment.start - to, segment.end - from, room)
            {
                break;
            }
            (to, plan.room) = (segment.end, room);
            plan.starts.push(*start);
        }
        let mut before = segments.range(..start).rev();
        while seed.is_untouched()
            && let Some((start, segment)) = before.next()
        {
            let (reached, room) = (segment.reached(), plan.room + segment.room());
            if !takes(segment, from - segment.end, to - reached, room) {
                break;
            }
            (from, plan.room) = (reached, room);
            plan.starts.push(*start);
            if !segment.is_untouched() {
                break;
            }
        }
        plan.range = ByteRange::new(from..to).ok()?;
        Some(plan)
    }
}
