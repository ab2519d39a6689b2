//! Where bytes come from: registries, object stores, local files, and the scheduler.
#![forbid(unsafe_code)]

pub mod scheduler;
