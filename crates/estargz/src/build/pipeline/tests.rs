//! Order, bounds and failures of the threads.
use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use bolide_core::{Error, ErrorKind, Result};

use super::{Give, Stages, run};

fn failure() -> Error {
    Error::new(ErrorKind::Io, "test", "it failed")
}

fn workers(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("not 0")
}

fn count_to(end: u32) -> impl FnOnce(Give<'_, u32, u32>) -> Result<u32> {
    move |give| {
        for number in 0..end {
            give(number, number)?;
        }
        Ok(end)
    }
}

#[test]
fn results_come_in_order_from_any_number_of_workers() {
    for count in [1, 2, 3, 8] {
        let (mut seen, mut collected) = (Vec::new(), Vec::new());
        let done = run(
            workers(count),
            Stages {
                produce: count_to(500),
                observe: |number: &u32| {
                    seen.push(*number);
                    Ok(())
                },
                worker: || Ok(|number: &u32| Ok(number * 2)),
                collect: |double: u32, aside| {
                    assert_eq!(double, aside * 2);
                    collected.push(aside);
                    Ok(())
                },
            },
        );
        assert_eq!(done.expect("runs"), 500);
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        assert_eq!(collected, seen);
    }
}

#[test]
fn little_is_under_way_at_once() {
    let made = AtomicUsize::new(0);
    let taken = AtomicUsize::new(0);
    let ahead = || made.load(Ordering::SeqCst) - taken.load(Ordering::SeqCst);
    let stages = Stages {
        produce: |give: Give<'_, (), ()>| {
            for _ in 0..200 {
                give((), ())?;
                made.fetch_add(1, Ordering::SeqCst);
                assert!(ahead() <= 3 + 4, "{} items", ahead());
            }
            Ok(())
        },
        observe: |(): &()| Ok(()),
        worker: || Ok(|(): &()| Ok(())),
        collect: |(), ()| {
            taken.fetch_add(1, Ordering::SeqCst);
            Ok(())
        },
    };
    run(workers(3), stages).expect("runs");
}

/// Whether a stage fails at the tenth item, or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Fails,
    Panics,
    Works,
}

impl Ends {
    fn at(self, number: u32) -> Result<()> {
        match self {
            _ if number != 10 => Ok(()),
            Self::Works => Ok(()),
            Self::Fails => Err(failure()),
            Self::Panics => panic!("asked for"),
        }
    }
}

#[test]
fn whatever_fails_or_panics_is_an_error_and_ends_all() {
    for ends in [Ends::Fails, Ends::Panics] {
        for stage in 0..4 {
            if (stage, ends) == (3, Ends::Panics) {
                // The caller's own thread.
                continue;
            }
            let of = |number| if number == stage { ends } else { Ends::Works };
            let result = run(
                workers(2),
                Stages {
                    produce: move |give: Give<'_, u32, u32>| {
                        for number in 0..1000 {
                            of(0).at(number)?;
                            give(number, number)?;
                        }
                        Ok(())
                    },
                    observe: |number: &u32| of(1).at(*number),
                    worker: || Ok(|number: &u32| of(2).at(*number)),
                    collect: |(), number| of(3).at(number),
                },
            );
            let kind = if ends == Ends::Fails { ErrorKind::Io } else { ErrorKind::Unexpected };
            assert_eq!(result.expect_err("ended").kind(), kind, "{ends:?} in stage {stage}");
        }
    }
}

#[test]
fn a_worker_that_cannot_begin_is_an_error() {
    let stages = Stages {
        produce: count_to(50),
        observe: |_: &u32| Ok(()),
        worker: || -> Result<fn(&u32) -> Result<()>> { Err(failure()) },
        collect: |(), _| Ok(()),
    };
    assert_eq!(run(workers(4), stages).expect_err("ended").kind(), ErrorKind::Io);
}
