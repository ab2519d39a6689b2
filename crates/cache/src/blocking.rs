//! Runs what blocks where it may block.
use bolide_core::{Error, ErrorKind, Result};

/// Runs file I/O on the runtime's pool for it. A panic there is an error here.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Unexpected, "cache::blocking", error.to_string()))
    })
}
