//! What is wanted, what has arrived, and who gets it: the scheduler without its tasks.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use bolide_core::{ByteRange, Digest, Error, Priority, Result};
use bytes::Bytes;

use super::{
    SchedulerConfig,
    budget::Budget,
    lists::Lists,
    segment::{Answer, FlightId, Rank, Segment, WishId},
};

/// What somebody wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) blob: Digest,
    pub(super) range: ByteRange,
    pub(super) priority: Priority,
    /// Of the source that was named.
    pub(super) merge_gap: u64,
}

#[derive(Debug)]
pub(super) struct Wish {
    pub(super) wanted: Wanted,
    /// Segments that are not whole.
    missing: usize,
}

/// What the tasks around the state have to do.
#[derive(Debug)]
pub(super) enum Effect {
    /// Answer a wish.
    Answer(WishId, Result<Answer>),
    /// Drop the stream of a request in flight, then call [`State::ended`].
    Stop(FlightId),
}

/// Whether a request in flight goes on after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It does, and nothing else changed.
    More,
    /// It does, and something is complete.
    Settled,
    /// It was told to stop: its stream is to be dropped, then [`State::ended`] called.
    Stop,
    /// It does not: all that was wanted has arrived, for so many wishes.
    Done(usize),
}

/// The state machine. Each blob is cut into segments whose bytes the same wishes want, so that a
/// byte is known by one segment, whoever wants it, and is asked for once.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: SchedulerConfig,
    pub(super) budget: Budget,
    pub(super) wishes: HashMap<WishId, Wish>,
    pub(super) blobs: HashMap<Digest, BTreeMap<u64, Segment>>,
    pub(super) lists: Lists,
    pub(super) pending: [usize; 3],
    pub(super) effects: Vec<Effect>,
    last_id: u64,
}

impl State {
    pub(super) fn new(config: SchedulerConfig, budget: Budget) -> Self {
        Self {
            config,
            budget,
            wishes: HashMap::new(),
            blobs: HashMap::new(),
            lists: Lists::default(),
            pending: [0; 3],
            effects: Vec::new(),
            last_id: 0,
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adds a wish. It joins what is there; what is not will wait in the queue.
    pub(super) fn add(&mut self, wanted: Wanted) -> WishId {
        let wish = self.next_id();
        let rank = Rank { priority: wanted.priority, wish };
        self.pending[wanted.priority as usize] += 1;
        self.wishes.insert(wish, Wish { wanted, missing: 0 });
        self.split(wanted.blob, wanted.range.start());
        self.split(wanted.blob, wanted.range.end());
        let (held, holes) = self.cover(wanted);
        let mut missing = 0;
        let mut joined = BTreeSet::new();
        let segments = self.blobs.entry(wanted.blob).or_default();
        for start in held {
            let Some(segment) = segments.get_mut(&start) else { continue };
            self.lists.leave(wanted.blob, segment);
            segment.wishes.push(wish);
            segment.rank = segment.rank.min(rank);
            self.lists.enter(wanted.blob, segment);
            missing += usize::from(!segment.is_whole());
            joined.extend(segment.flight);
        }
        let pieces = holes.into_iter().flat_map(|hole| self.lists.cut(wanted.blob, hole));
        for (piece, flight) in pieces.collect::<Vec<_>>() {
            let mut segment = Segment::new(piece, rank, flight);
            // Already asked for, as a gap between what others wanted.
            segment.hold = flight.map(|_| self.budget.take(piece.len()));
            self.lists.enter(wanted.blob, &segment);
            segments.insert(piece.start(), segment);
            missing += 1;
            joined.extend(flight);
        }
        for id in joined {
            if let Some(flight) = self.lists.flights.get_mut(&id) {
                flight.joined += 1;
            }
        }
        match self.wishes.get_mut(&wish) {
            Some(found) if missing > 0 => found.missing = missing,
            _ => self.answer(wish),
        }
        wish
    }

    /// Withdraws a wish; nothing happens when it was answered.
    pub(super) fn withdraw(&mut self, wish: WishId) {
        if let Some(wanted) = self.remove(wish) {
            self.stop_unwanted(wanted.blob);
        }
    }

    /// Takes the next bytes of a request in flight; what goes past its end is cut off.
    pub(super) fn arrived(&mut self, id: FlightId, mut piece: Bytes) -> Step {
        let Some(flight) = self.lists.flights.get_mut(&id) else { return Step::Done(0) };
        let (blob, at) = (flight.blob, flight.at);
        piece.truncate(usize::try_from(flight.end - at).unwrap_or(usize::MAX));
        flight.at += piece.len() as u64;
        let finished = self.deliver(id, blob, at, &piece);
        let settled = !finished.is_empty();
        for wish in finished {
            self.answer(wish);
        }
        match self.lists.flights.get(&id) {
            Some(flight) if flight.urgency().is_some() => match settled {
                _ if flight.stopping => Step::Stop,
                true => Step::Settled,
                false => Step::More,
            },
            _ => Step::Done(self.lists.flights.remove(&id).map_or(0, |flight| flight.joined)),
        }
    }

    /// Hands a piece to its segments; returns the wishes that lack nothing any more.
    fn deliver(&mut self, id: FlightId, blob: Digest, at: u64, piece: &Bytes) -> Vec<WishId> {
        let mut finished = Vec::new();
        let end = at + piece.len() as u64;
        let Some(segments) = self.blobs.get_mut(&blob) else { return finished };
        let first = segments.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for segment in segments.range_mut(first..end).map(|(_, segment)| segment) {
            if segment.flight != Some(id) {
                continue;
            }
            let from = segment.reached().max(at) - at;
            let to = segment.end.min(end) - at;
            let offset = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            self.lists.leave(blob, segment);
            segment.push(&piece.slice(offset(from)..offset(to)));
            self.lists.enter(blob, segment);
            if !segment.is_whole() {
                continue;
            }
            segment.flight = None;
            for wish in &segment.wishes {
                let Some(found) = self.wishes.get_mut(wish) else { continue };
                found.missing = found.missing.saturating_sub(1);
                if found.missing == 0 {
                    finished.push(*wish);
                }
            }
        }
        finished
    }

    /// Ends a request in flight: stopped, its rest waits again; failed, so do its wishes. Returns
    /// for how many wishes it flew.
    pub(super) fn ended(&mut self, id: FlightId, how: Result<()>) -> usize {
        let Some(flight) = self.lists.flights.get(&id) else { return 0 };
        let (blob, at, end, joined) = (flight.blob, flight.at, flight.end, flight.joined);
        let segments = self.blobs.entry(blob).or_default();
        let first = segments.range(..=at).next_back().map_or(at, |(start, _)| *start);
        let rest = segments.range_mut(first..end).map(|(_, segment)| segment);
        let rest = rest.filter(|segment| segment.flight == Some(id));
        let mut failed = BTreeSet::new();
        for segment in rest {
            failed.extend(&segment.wishes);
            self.lists.leave(blob, segment);
            segment.flight = None;
            if segment.is_untouched() {
                segment.hold = None;
            }
            self.lists.enter(blob, segment);
        }
        self.lists.flights.remove(&id);
        if let Err(error) = how {
            self.fail(failed, &error);
        }
        self.forget_if_empty(blob);
        joined
    }

    fn fail(&mut self, wishes: BTreeSet<WishId>, error: &Error) {
        for wish in wishes {
            if let Some(wanted) = self.remove(wish) {
                self.effects.push(Effect::Answer(wish, Err(error.clone())));
                self.stop_unwanted(wanted.blob);
            }
        }
    }

    /// Fails everything that waits or is under way.
    pub(super) fn fail_all(&mut self, error: &Error) {
        self.fail(self.wishes.keys().copied().collect(), error);
    }

    fn answer(&mut self, wish: WishId) {
        let Some(found) = self.wishes.get(&wish) else { return };
        let Wanted { blob, range, .. } = found.wanted;
        let segments = self.blobs.get(&blob).into_iter();
        let within = segments.flat_map(|segments| segments.range(range.as_range()));
        let parts = within.filter_map(|(_, segment)| segment.part()).collect();
        let answer = Answer { parts, outstanding: self.budget.answer() };
        self.effects.push(Effect::Answer(wish, Ok(answer)));
        self.remove(wish);
    }

    /// Takes a wish off its segments; drops those that nobody wants any more.
    fn remove(&mut self, wish: WishId) -> Option<Wanted> {
        let wanted = self.wishes.remove(&wish)?.wanted;
        let pending = &mut self.pending[wanted.priority as usize];
        *pending = pending.saturating_sub(1);
        let segments = self.blobs.get_mut(&wanted.blob)?;
        let mut unwanted = Vec::new();
        for (start, segment) in segments.range_mut(wanted.range.as_range()) {
            self.lists.leave(wanted.blob, segment);
            segment.wishes.retain(|other| *other != wish);
            let ranks = segment.wishes.iter().filter_map(|other| {
                let priority = self.wishes.get(other)?.wanted.priority;
                Some(Rank { priority, wish: *other })
            });
            match ranks.min() {
                Some(rank) => {
                    segment.rank = rank;
                    self.lists.enter(wanted.blob, segment);
                }
                None => unwanted.push(*start),
            }
        }
        for start in unwanted {
            segments.remove(&start);
        }
        self.forget_if_empty(wanted.blob);
        Some(wanted)
    }

    fn forget_if_empty(&mut self, blob: Digest) {
        if self.blobs.get(&blob).is_some_and(BTreeMap::is_empty) {
            self.blobs.remove(&blob);
        }
    }

    fn stop_unwanted(&mut self, blob: Digest) {
        let flights = self.lists.flights.iter_mut().filter(|(_, flight)| flight.blob == blob);
        for (id, flight) in flights {
            if flight.urgency().is_none() && !flight.stopping {
                flight.stopping = true;
                self.effects.push(Effect::Stop(*id));
            }
        }
    }

    /// Cuts the segment that has `at` inside in two.
    fn split(&mut self, blob: Digest, at: u64) {
        let Some(segments) = self.blobs.get_mut(&blob) else { return };
        let before = segments.range_mut(..at).next_back();
        let Some((_, segment)) = before.filter(|(_, segment)| segment.end > at) else { return };
        self.lists.leave(blob, segment);
        let tail = segment.split_off(at);
        self.lists.enter(blob, segment);
        self.lists.enter(blob, &tail);
        if !segment.is_whole() {
            for wish in &tail.wishes {
                if let Some(wish) = self.wishes.get_mut(wish) {
                    wish.missing += 1;
                }
            }
        }
        segments.insert(at, tail);
    }

    /// The starts of the segments inside a range whose ends were cut, and the holes between them.
    fn cover(&self, wanted: Wanted) -> (Vec<u64>, Vec<ByteRange>) {
        let (mut held, mut holes) = (Vec::new(), Vec::new());
        let mut at = wanted.range.start();
        let segments = self.blobs.get(&wanted.blob).into_iter();
        for (start, segment) in
            segments.flat_map(|segments| segments.range(wanted.range.as_range()))
        {
            holes.extend(ByteRange::new(at..*start));
            held.push(*start);
            at = segment.end;
        }
        holes.extend(ByteRange::new(at..wanted.range.end()));
        (held, holes)
    }
}
