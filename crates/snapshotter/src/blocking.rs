//! Work that blocks, away from the threads that run futures.
use bolide_core::{Error, ErrorKind, Result};

/// Runs work on the pool for blocking calls. A panic of it becomes `Unexpected`.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Unexpected, operation, error.to_string()))
    })
}
