//! The state machine beside a model that knows nothing but bytes.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bolide_core::{ByteRange, Digest, Error, ErrorKind, Priority, memory::MemoryBlob};
use bolide_testkit::sample::noise;
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use tokio::sync::Notify;

use super::{
    budget::Budget,
    config::SchedulerConfig,
    plan::Start,
    segment::{Answer, FlightId, WishId},
    state::{Effect, State, Step, Wanted},
};

const SIZE: u64 = 96;
const GAP: u64 = 4;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_in_flight: 3,
        reserved_on_demand: 1,
        budget_bytes: 120,
        max_len: 40,
        max_merged: 48,
        max_prefetch: 56,
        max_wait: 16,
    }
}

fn blob(number: u8) -> Digest {
    Digest::of(&[number])
}

fn truth(number: u8) -> Bytes {
    Bytes::from(noise(96, u64::from(number) + 7))
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Add { blob: u8, start: u64, len: u64, priority: usize },
    Withdraw(usize),
    Arrive { flight: usize, len: u64 },
    Stop,
    Fail(usize),
    Drop(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..2u8, 0..SIZE, 1..40u64, 0..3usize).prop_map(|(blob, start, len, priority)| {
            Act::Add { blob, start, len: len.min(SIZE - start), priority }
        }),
        1 => any::<usize>().prop_map(Act::Withdraw),
        9 => (any::<usize>(), 1..30u64).prop_map(|(flight, len)| Act::Arrive { flight, len }),
        3 => Just(Act::Stop),
        1 => any::<usize>().prop_map(Act::Fail),
        4 => any::<usize>().prop_map(Act::Drop),
    ]
}

/// A byte of a blob.
type Byte = (u8, u64);

struct Flying {
    blob: u8,
    at: u64,
    end: u64,
    stopping: bool,
}

struct Model {
    state: State,
    wishes: BTreeMap<WishId, (u8, ByteRange, Priority)>,
    /// What those who wait have; a byte leaves with the last of them.
    held: BTreeSet<Byte>,
    flights: BTreeMap<FlightId, Flying>,
    answers: Vec<Answer>,
    answered: usize,
}

impl Model {
    fn new() -> Self {
        let budget = Budget::new(&config(), Arc::new(Notify::new()));
        Self {
            state: State::new(config(), budget),
            wishes: BTreeMap::new(),
            held: BTreeSet::new(),
            flights: BTreeMap::new(),
            answers: Vec::new(),
            answered: 0,
        }
    }

    fn wanted_by(&self, (number, at): Byte) -> impl Iterator<Item = (Priority, WishId)> + '_ {
        self.wishes.iter().filter_map(move |(id, (blob, range, priority))| {
            let wanted = *blob == number && range.as_range().contains(&at);
            wanted.then_some((*priority, *id))
        })
    }

    fn rank(&self, byte: Byte) -> Option<(Priority, WishId)> {
        self.wanted_by(byte).min()
    }

    fn in_flight(&self, (number, at): Byte) -> bool {
        self.flights.values().any(|f| f.blob == number && (f.at..f.end).contains(&at))
    }

    /// The most urgent byte that nobody delivers.
    fn first_waiting(&self) -> Option<(Priority, WishId)> {
        let all = (0..2).flat_map(|blob| (0..SIZE).map(move |at| (blob, at)));
        all.filter(|byte| !self.held.contains(byte) && !self.in_flight(*byte))
            .filter_map(|byte| self.rank(byte))
            .min()
    }

    fn urgency(&self, flight: &Flying) -> Option<Priority> {
        (flight.at..flight.end).filter_map(|at| self.rank((flight.blob, at))).min().map(|r| r.0)
    }

    fn forget_unwanted(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.held = held.into_iter().filter(|byte| self.rank(*byte).is_some()).collect();
    }

    fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.state.effects) {
            match effect {
                Effect::Stop(flight) => {
                    self.flights.get_mut(&flight).expect("flies").stopping = true;
                }
                Effect::Answer(wish, answer) => {
                    let (number, range, _) = self.wishes.remove(&wish).expect("was waiting");
                    self.answered += 1;
                    let Ok(answer) = answer else { continue };
                    let bytes: Vec<u8> =
                        answer.parts.iter().flat_map(|part| part.bytes.to_vec()).collect();
                    let bounds = usize::try_from(range.start()).expect("small")
                        ..usize::try_from(range.end()).expect("small");
                    assert_eq!(bytes, truth(number).slice(bounds), "exact");
                    self.answers.push(answer);
                }
            }
        }
        self.forget_unwanted();
    }

    fn pump(&mut self) {
        loop {
            let (used, answers) = (self.state.budget.used(), self.state.budget.answers());
            let Some(start) = self.state.next() else { break };
            let alone = self.flights.is_empty() && answers == 0;
            self.check_start(start, used, alone);
            let number = u8::from(start.blob == blob(1));
            let (at, end) = (start.range.start(), start.range.end());
            self.flights.insert(start.flight, Flying { blob: number, at, end, stopping: false });
        }
        self.state.pre_empt();
        self.carry_out();
        if let Some((Priority::OnDemand, _)) = self.first_waiting() {
            let ready = self
                .flights
                .values()
                .all(|f| f.stopping || self.urgency(f) == Some(Priority::OnDemand));
            let full = self.flights.len() >= config().max_in_flight;
            let stopping = self.flights.values().any(|f| f.stopping);
            assert!(!full || stopping || ready, "somebody less urgent keeps a slot");
        }
    }

    fn check_start(&self, start: Start, used: u64, alone: bool) {
        let number = u8::from(start.blob == blob(1));
        let bytes = || start.range.as_range().map(|at| (number, at));
        for byte in bytes() {
            assert!(!self.in_flight(byte), "once: {byte:?} is in flight");
            assert!(!self.held.contains(&byte), "kept: {byte:?} has arrived");
        }
        for end in [start.range.start(), start.range.end() - 1] {
            assert!(self.rank((number, end)).is_some(), "nobody wants the ends");
        }
        let unwanted: Vec<_> = bytes().map(|byte| self.rank(byte).is_none()).collect();
        let gap = unwanted.split(|unwanted| !unwanted).map(<[bool]>::len).max().unwrap_or(0);
        assert!((gap as u64) < GAP, "a gap of {gap}");
        let first = self.first_waiting().expect("something waits");
        assert_eq!((start.priority, start.lead), first, "ordered");
        assert!(bytes().any(|byte| self.rank(byte) == Some(first)), "leads with another");
        assert!(self.flights.len() < config().max_in_flight, "bounded");
        let ahead =
            self.flights.values().filter(|f| self.urgency(f) != Some(Priority::OnDemand)).count();
        if start.priority != Priority::OnDemand {
            assert!(ahead < 2, "a reserved slot");
        }
        let blocked = self.wishes.values().any(|wish| wish.2 == Priority::OnDemand);
        assert!(start.priority != Priority::Background || !blocked, "background stands still");
        let now = self.state.budget.used();
        let limit = if start.priority == Priority::OnDemand { 120 } else { 80 };
        assert!(now == used || now <= limit || alone, "budget: {now} of {limit}");
    }

    fn arrive(&mut self, id: FlightId, len: u64) {
        let flight = self.flights.get_mut(&id).expect("flies");
        let (number, at) = (flight.blob, flight.at);
        let to = flight.end.min(at + len);
        let bounds = usize::try_from(at).expect("small")..usize::try_from(to).expect("small");
        flight.at = to;
        for at in at..to {
            let wanted = self.rank((number, at)).is_some();
            assert!(!wanted || self.held.insert((number, at)), "asked for twice: {at}");
        }
        let step = self.state.arrived(id, truth(number).slice(bounds));
        self.carry_out();
        match step {
            Step::Done(_) => {
                let flight = self.flights.remove(&id).expect("flies");
                assert_eq!(self.urgency(&flight), None, "somebody wants the rest");
            }
            Step::Stop => assert!(self.flights[&id].stopping),
            Step::More | Step::Settled => assert!(self.urgency(&self.flights[&id]).is_some()),
        }
    }

    fn pick<T: Copy>(items: impl Iterator<Item = T>, which: usize) -> Option<T> {
        let items: Vec<T> = items.collect();
        (!items.is_empty()).then(|| items[which % items.len()])
    }

    fn end(&mut self, id: FlightId, how: bolide_core::Result<()>) {
        self.flights.remove(&id);
        self.state.ended(id, how);
        self.carry_out();
    }

    fn run(&mut self, act: Act) {
        match act {
            Act::Add { blob: number, start, len, priority } => {
                let range = ByteRange::at(start, len).expect("not empty");
                let priority = Priority::ALL[priority];
                let wanted = Wanted { blob: blob(number), range, priority, merge_gap: GAP };
                let wish = self.state.add(wanted);
                self.wishes.insert(wish, (number, range, priority));
                self.carry_out();
            }
            Act::Withdraw(which) => {
                if let Some(wish) = Self::pick(self.wishes.keys().copied(), which) {
                    self.wishes.remove(&wish);
                    self.state.withdraw(wish);
                    self.carry_out();
                }
            }
            Act::Arrive { flight, len } => {
                if let Some(id) = Self::pick(self.flights.keys().copied(), flight) {
                    self.arrive(id, len);
                }
            }
            Act::Stop => {
                let stopping = self.flights.iter().find(|(_, flight)| flight.stopping);
                if let Some(id) = stopping.map(|(id, _)| *id) {
                    self.end(id, Ok(()));
                }
            }
            Act::Fail(which) => {
                if let Some(id) = Self::pick(self.flights.keys().copied(), which) {
                    self.end(id, Err(Error::new(ErrorKind::Unavailable, "test", "broke")));
                }
            }
            Act::Drop(which) if !self.answers.is_empty() => {
                self.answers.swap_remove(which % self.answers.len());
            }
            Act::Drop(_) => {}
        }
        self.pump();
    }

    /// Everything that waits is answered once bytes flow and answers are dropped.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            self.answers.clear();
            self.run(Act::Stop);
            let Some(id) = self.flights.keys().next().copied() else { break };
            self.run(Act::Arrive { flight: usize::try_from(id).unwrap_or(0), len: 7 });
        }
        self.answers.clear();
        assert_eq!(self.wishes.len(), 0, "progress");
        assert_eq!(self.state.pending, [0; 3]);
        assert_eq!((self.state.budget.used(), self.state.budget.arrived()), (0, 0));
        assert!(self.state.blobs.is_empty() && self.state.lists.queue.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_state_machine_agrees_with_the_model(acts in vec(act(), 1..80)) {
        let mut model = Model::new();
        for act in acts {
            model.run(act);
        }
        model.drain();
    }
}

#[test]
fn thousands_of_neighbours_become_few_requests() {
    let config = SchedulerConfig::default();
    for (priority, requests) in [(Priority::Prefetch, 1), (Priority::Background, 3)] {
        let mut state = State::new(config, Budget::new(&config, Arc::new(Notify::new())));
        let blob = MemoryBlob::new(Bytes::from_static(b"any"));
        let blob = bolide_core::BlobSource::digest(&blob);
        for number in (0..20_000).rev() {
            let range = ByteRange::at(number * 1000, 900).expect("not empty");
            state.add(Wanted { blob, range, priority, merge_gap: 4096 });
        }
        let starts: Vec<Start> = std::iter::from_fn(|| state.next()).collect();
        assert_eq!(starts.iter().map(|start| start.joined).sum::<usize>(), 20_000);
        assert_eq!(starts.len(), requests, "{starts:?}");
        assert!(starts.iter().all(|start| start.range.len() <= config.longest(priority)));
    }
}
