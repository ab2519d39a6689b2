//! Policies around any blob source: each is written and tested once.
mod fallback;
mod lazy;
mod limit;
mod metered;
mod opener;
mod ranges;
mod retry;
mod spool;
mod timeout;

pub use fallback::FallbackSource;
pub use lazy::LazySource;
pub use limit::LimitSource;
pub use metered::{Meter, MeteredSource};
pub use opener::WrapOpener;
pub use retry::{RetryPolicy, RetrySource};
pub use spool::{SpoolReader, SpoolSource};
pub use timeout::TimeoutSource;

#[cfg(test)]
mod tests;
