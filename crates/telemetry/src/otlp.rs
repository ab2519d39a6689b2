//! Where traces go, by the standard variables.
use std::time::Duration;

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithTonicConfig as _,
    tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SdkTracerProvider},
};

use crate::report::ReportingExporter;

/// Where traces are sent, over OTLP/gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpOptions {
    /// URL of the collector.
    pub endpoint: String,
    /// What this service is called; `None` for what `OTEL_RESOURCE_ATTRIBUTES` says, or `bolide`.
    pub service_name: Option<String>,
    /// Longest time one batch may take; `None` for 10 seconds.
    pub timeout: Option<Duration>,
    /// What the collector is to be spoken to with; anything but `grpc` cannot be done.
    pub protocol: Option<String>,
}

impl OtlpOptions {
    /// Reads the `OTEL_*` variables that `get` knows. `None` unless they name an endpoint, or if
    /// they switch the SDK or the exporter off. An empty value counts as none, as the standard has
    /// it.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let is = |name, value: &str| get(name).is_some_and(|got| got.eq_ignore_ascii_case(value));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return None;
        }
        let either = |name: &str| {
            get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
                .or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let timeout = either("TIMEOUT").and_then(|millis| millis.parse().ok());
        Some(Self {
            endpoint: either("ENDPOINT")?,
            service_name: get("OTEL_SERVICE_NAME"),
            timeout: timeout.map(Duration::from_millis),
            protocol: either("PROTOCOL"),
        })
    }
}

/// A provider whose spans wait in a bounded queue, are dropped when it is full, and are sent by a
/// thread of their own. Why there is none, otherwise.
pub(crate) fn provider(options: &OtlpOptions) -> Result<SdkTracerProvider, String> {
    if let Some(other) = options.protocol.as_ref().filter(|protocol| *protocol != "grpc") {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL must be grpc, which bolide speaks alone, not {other}"
        ));
    }
    // The channel, which connects when it is first used, runs on it.
    tokio::runtime::Handle::try_current()
        .map_err(|_| "traces are sent through a tokio runtime, and there is none".to_owned())?;
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(&options.endpoint);
    if !options.endpoint.starts_with("http://") {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    if let Some(timeout) = options.timeout {
        exporter = exporter.with_timeout(timeout);
    }
    let exporter = exporter.build().map_err(|error| error.to_string())?;
    let exporter = ReportingExporter::new(exporter, options.endpoint.clone());
    Ok(SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).build())
        .with_resource(resource(options))
        .build())
}

fn resource(options: &OtlpOptions) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let found = Resource::builder().with_attribute(version.clone()).build();
    // The SDK has a name for services that nobody named.
    let named = found
        .get(&Key::from_static_str("service.name"))
        .filter(|name| !name.as_str().starts_with("unknown_service"));
    let name = match (&options.service_name, named) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.as_str().into_owned(),
        (None, None) => "bolide".to_owned(),
    };
    Resource::builder().with_attribute(version).with_service_name(name).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Option<OtlpOptions> {
        OtlpOptions::from_vars(|name| {
            vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_an_endpoint_switches_traces_on() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "x")]), None);
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317");
        assert_eq!(read(&[endpoint]).expect("on").endpoint, "http://a:4317");
        assert_eq!(read(&[endpoint, ("OTEL_SDK_DISABLED", "True")]), None);
        assert_eq!(read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert!(read(&[endpoint, ("OTEL_SDK_DISABLED", "false")]).is_some());
    }

    #[test]
    fn what_is_said_of_traces_wins() {
        let read = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:4317"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_SERVICE_NAME", "node-7"),
        ]);
        let read = read.expect("on");
        assert_eq!(read.endpoint, "http://b:4317");
        assert_eq!(read.timeout, Some(Duration::from_millis(250)));
        assert_eq!(read.service_name.as_deref(), Some("node-7"));
    }
}
