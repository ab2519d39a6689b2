//! Conformance suites, faults and fixtures; never shipped
