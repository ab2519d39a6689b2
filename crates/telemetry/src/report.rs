//! Says when a collector goes away and when it is back, once each.
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

/// An exporter whose failures are logged, which the SDK would not, or would with every batch.
#[derive(Debug)]
pub(crate) struct ReportingExporter<E> {
    inner: E,
    endpoint: String,
    failing: AtomicBool,
}

impl<E> ReportingExporter<E> {
    pub(crate) fn new(inner: E, endpoint: String) -> Self {
        Self { inner, endpoint, failing: AtomicBool::new(false) }
    }
}

impl<E: SpanExporter> SpanExporter for ReportingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.inner.export(batch).await;
        let endpoint = &self.endpoint;
        match (&exported, self.failing.swap(exported.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, endpoint, "traces cannot be sent; they are dropped until the collector is back");
            }
            (Ok(()), true) => tracing::info!(endpoint, "traces are sent again"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.inner.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    /// Fails while it holds `true`.
    #[derive(Debug, Default)]
    struct Broken(Arc<AtomicBool>);

    impl SpanExporter for Broken {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let broken = self.0.load(Ordering::Relaxed);
            if broken { Err(OTelSdkError::InternalFailure("gone".to_owned())) } else { Ok(()) }
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn going_away_and_coming_back_are_said_once_each() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let broken = Arc::new(AtomicBool::new(false));
        let exporter = ReportingExporter::new(Broken(Arc::clone(&broken)), "http://c".to_owned());
        for gone in [false, true, true, true, false, false] {
            broken.store(gone, Ordering::Relaxed);
            assert_eq!(exporter.export(Vec::new()).await.is_err(), gone);
        }
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(text.matches("cannot be sent").count(), 1, "{text}");
        assert_eq!(text.matches("sent again").count(), 1, "{text}");
    }
}
