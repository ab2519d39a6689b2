//! Conformance suites, faults and fixtures; never shipped.
//!
//! Each trait of `bolide-core` has a suite in [`conformance`]: one function per clause of the
//! trait's contract, and `all`, which runs every one. Backends and wrappers run the same suite.
//! A clause fails with a message that names it; the tests of this crate show each clause failing
//! against a double that breaks exactly that clause.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod fault;
pub mod peak;
mod reader;
pub mod sample;
mod skip;

pub use skip::skip;
