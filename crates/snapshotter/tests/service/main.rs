//! The snapshotter as containerd sees it: through its socket, with what it says mounted for real.
//!
//! `protocol`, `trees` and `labels` are containerd's own snapshotter suite, case by case; the
//! others are what that suite does not know: lazy layers, restarts, and what goes wrong.
mod cleanup;
mod fakes;
mod labels;
mod mounted;
mod protocol;
mod remote;
mod restart;
mod support;
mod trees;
