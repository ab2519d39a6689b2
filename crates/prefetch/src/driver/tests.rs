//! Driver over a reader that records.
