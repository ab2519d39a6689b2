//! Bytes of a blob that the same requests want, and what has arrived of them.
use std::sync::Arc;

use bolide_core::{ByteRange, Fetched, Priority};
use bytes::{Bytes, BytesMut};

use super::budget::{Budget, Hold, Outstanding};

/// Names a wish. Later ones have greater numbers, so it gives the order of arrival as well.
pub(super) type WishId = u64;
/// Names a request that is in flight.
pub(super) type FlightId = u64;

/// The place of waiting bytes in the queue: that of the wish that comes first of those they serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) priority: Priority,
    pub(super) wish: WishId,
}

/// A run of bytes whose wishes are the same from end to end. Bytes arrive in order.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    data: Data,
    /// Room in the budget; taken when the bytes are asked for.
    pub(super) hold: Option<Arc<Hold>>,
    /// The wishes, never none.
    pub(super) wishes: Vec<WishId>,
    pub(super) rank: Rank,
    /// The request that will deliver the rest; none while it waits, or when all is there.
    pub(super) flight: Option<FlightId>,
}

#[derive(Debug)]
enum Data {
    Growing(BytesMut),
    Whole(Bytes),
}

impl Segment {
    pub(super) fn new(range: ByteRange, rank: Rank, flight: Option<FlightId>) -> Self {
        Self {
            start: range.start(),
            end: range.end(),
            data: Data::Growing(BytesMut::new()),
            hold: None,
            wishes: vec![rank.wish],
            rank,
            flight,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// The first byte that has not arrived.
    pub(super) fn reached(&self) -> u64 {
        self.start
            + match &self.data {
                Data::Growing(bytes) => bytes.len() as u64,
                Data::Whole(bytes) => bytes.len() as u64,
            }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self.data, Data::Whole(_))
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.flight.is_none() && !self.is_whole()
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.reached() == self.start
    }

    /// Room that asking for it would take.
    pub(super) fn room(&self) -> u64 {
        if self.hold.is_some() { 0 } else { self.len() }
    }

    /// Adds the next bytes, at most as many as are missing.
    pub(super) fn push(&mut self, piece: &Bytes) {
        let len = self.len();
        let Data::Growing(bytes) = &mut self.data else { return };
        if let Some(hold) = &self.hold {
            hold.arrive(piece.len() as u64);
        }
        if piece.len() as u64 == len {
            self.data = Data::Whole(piece.clone());
            return;
        }
        if bytes.is_empty() {
            // `max_len` bounds it; the system gives the memory when it is written.
            bytes.reserve(usize::try_from(len).unwrap_or(0));
        }
        bytes.extend_from_slice(piece);
        self.freeze_when_whole();
    }

    fn freeze_when_whole(&mut self) {
        let len = self.len();
        if let Data::Growing(bytes) = &mut self.data
            && bytes.len() as u64 == len
        {
            self.data = Data::Whole(std::mem::take(bytes).freeze());
        }
    }

    /// Cuts what lies at `at` and after it off; `at` lies inside.
    pub(super) fn split_off(&mut self, at: u64) -> Self {
        let head = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        let data = match &mut self.data {
            Data::Whole(bytes) => Data::Whole(bytes.split_off(head.min(bytes.len()))),
            Data::Growing(bytes) => Data::Growing(bytes.split_off(head.min(bytes.len()))),
        };
        let tail = Self {
            start: at,
            end: self.end,
            data,
            hold: self.hold.clone(),
            wishes: self.wishes.clone(),
            rank: self.rank,
            flight: self.flight,
        };
        self.end = at;
        self.freeze_when_whole();
        if self.is_whole() {
            self.flight = None;
        }
        tail
    }

    /// The bytes and their share of the budget; `None` before all are there.
    pub(super) fn part(&self) -> Option<Part> {
        let Data::Whole(bytes) = &self.data else { return None };
        Some(Part { bytes: bytes.clone(), hold: self.hold.clone() })
    }
}

/// Some bytes of an answer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) bytes: Bytes,
    hold: Option<Arc<Hold>>,
}

/// The bytes of a wish, in order.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) parts: Vec<Part>,
    pub(super) outstanding: Outstanding,
}

impl Answer {
    /// Puts the parts together.
    pub(super) fn into_fetched(mut self, budget: &Budget) -> Fetched {
        if self.parts.len() == 1
            && let Some(part) = self.parts.pop()
        {
            return Fetched::with_budget(part.bytes, (part.hold, self.outstanding));
        }
        let len = self.parts.iter().map(|part| part.bytes.len()).sum();
        // A copy; others may hold the parts for longer.
        let hold = budget.take(len as u64);
        hold.arrive(len as u64);
        let mut whole = BytesMut::with_capacity(len);
        for part in self.parts.drain(..) {
            whole.extend_from_slice(&part.bytes);
        }
        Fetched::with_budget(whole.freeze(), (hold, self.outstanding))
    }
}
