//! Tries again what may succeed: the requests that are not reads of blobs.
use bolide_core::Result;
use bolide_fetch::RetryPolicy;

/// Runs `work` until it succeeds, fails for good, or was tried often enough.
pub(crate) async fn retrying<T, F>(policy: &RetryPolicy, mut work: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut failed = 0;
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        failed += 1;
        let Some(wait) = policy.delay(failed, &error, 0) else {
            return Err(error.with_context("tries", failed));
        };
        tracing::debug!(%error, ?wait, tries = failed, "trying again");
        tokio::time::sleep(wait).await;
    }
}
