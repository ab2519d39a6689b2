//! The answer of one clause.
use std::fmt;

use bolide_core::Error;

/// A clause that does not hold, and what was seen instead.
#[derive(Debug)]
pub struct Broken {
    clause: &'static str,
    seen: String,
}

impl Broken {
    /// Says that `clause` does not hold because of what was `seen`.
    pub fn new(clause: &'static str, seen: impl fmt::Display) -> Self {
        Self { clause, seen: seen.to_string() }
    }

    /// The clause.
    #[must_use]
    pub fn clause(&self) -> &'static str {
        self.clause
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clause {:?} is broken: {}", self.clause, self.seen)
    }
}

impl std::error::Error for Broken {}

/// The answer of one clause.
pub type Verdict = Result<(), Broken>;

pub(crate) fn hold(clause: &'static str, condition: bool, seen: impl fmt::Display) -> Verdict {
    if condition { Ok(()) } else { Err(Broken::new(clause, seen)) }
}

pub(crate) fn succeed<T>(clause: &'static str, result: Result<T, Error>) -> Result<T, Broken> {
    result.map_err(|error| Broken::new(clause, format!("{error:?}")))
}
