//! Logs on stderr and traces over OTLP, for the binary.
//!
//! Libraries only use the `tracing` macros; what becomes of their spans and events is decided here,
//! once a process.
//!
//! Nothing here reads the environment: the binary hands over its `OTEL_*` variables. The
//! OpenTelemetry crates do read some themselves, where they offer no other way or the way would be
//! the same: `OTEL_EXPORTER_OTLP_HEADERS`, `_COMPRESSION` and `_INSECURE` (and their `TRACES`
//! forms), `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and its argument, `OTEL_BSP_*` and
//! `OTEL_SPAN_*_LIMIT`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use bolide_telemetry::{LogFormat, OtlpOptions, Telemetry, TelemetryOptions};
//!
//! # async fn serve() -> Result<(), bolide_telemetry::TelemetryError> {
//! let guard = Telemetry::init(&TelemetryOptions {
//!     filter: "info".to_owned(),
//!     format: LogFormat::Json,
//!     otlp: OtlpOptions::from_vars(|name| std::env::var(name).ok()),
//! })?;
//! // ... and when everything has ended:
//! guard.shutdown(Duration::from_secs(2)).await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod json;
mod otlp;
mod report;

use std::{io::IsTerminal as _, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Dispatch, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::Targets, fmt, fmt::MakeWriter, layer::SubscriberExt as _,
};

pub use otlp::OtlpOptions;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line: `time`, `level` and `msg` as containerd and its snapshotters write them,
    /// then the fields of the event and of the spans around it.
    Json,
}

/// What to log and where to send traces.
#[derive(Clone, Debug)]
pub struct TelemetryOptions {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`), which is bolide's, others are
    /// heard from `warn`; or directives such as `bolide_fetch=trace,h2=info`.
    pub filter: String,
    /// How log lines look.
    pub format: LogFormat,
    /// Where traces go; `None` sends none.
    pub otlp: Option<OtlpOptions>,
}

/// Why telemetry could not be set up. A collector is never a reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error(
        "the log level {filter:?} is not understood; use error, warn, info, debug, trace, off, or directives such as bolide_fetch=trace"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a subscriber already.
    #[error("telemetry is set up once a process, and it was set up before")]
    Installed,
}

/// Logs and traces that are set up, and not yet the process's own.
#[derive(Debug)]
pub struct Telemetry {
    dispatch: Dispatch,
    guard: TelemetryGuard,
}

impl Telemetry {
    /// Makes logs on stderr, and traces as `options` say, those of this process.
    ///
    /// Call it on a tokio runtime if there are traces to be sent; they go out through it.
    pub fn init(options: &TelemetryOptions) -> Result<TelemetryGuard, TelemetryError> {
        let ansi = std::io::stderr().is_terminal();
        let Self { dispatch, guard } = Self::new(options, std::io::stderr, ansi)?;
        let installed = tracing::dispatcher::set_global_default(dispatch);
        installed.map_err(|_| TelemetryError::Installed)?;
        guard.report_problem();
        Ok(guard)
    }

    /// Sets logs to `writer` and traces up without making them the process's own.
    pub fn new<W>(options: &TelemetryOptions, writer: W, ansi: bool) -> Result<Self, TelemetryError>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let filter = parse_filter(&options.filter)?;
        let logs = match options.format {
            LogFormat::Text => fmt::layer().with_ansi(ansi).with_writer(writer).boxed(),
            LogFormat::Json => json::layer(writer).boxed(),
        };
        let (provider, problem) = match options.otlp.as_ref().map(otlp::provider) {
            None => (None, None),
            Some(Ok(provider)) => (Some(provider), None),
            Some(Err(problem)) => (None, Some(problem)),
        };
        // Only our own spans: those of the exporter's connection would make it export for ever.
        // The level of the logs does not matter to them.
        let ours = Targets::new().with_target("bolide", LevelFilter::DEBUG);
        let traces = provider.as_ref().map(|provider| {
            let tracer = provider.tracer("bolide");
            tracing_opentelemetry::layer().with_tracer(tracer).with_threads(false).with_filter(ours)
        });
        let registry = tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces);
        Ok(Self { dispatch: Dispatch::new(registry), guard: TelemetryGuard { provider, problem } })
    }

    /// Where events and spans are to be sent, and what ends it.
    #[must_use]
    pub fn into_parts(self) -> (Dispatch, TelemetryGuard) {
        (self.dispatch, self.guard)
    }
}

/// A bare level is bolide's own: the chatter of HTTP libraries helps nobody.
fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let directives = match filter.trim().to_ascii_lowercase().as_str() {
        level @ ("info" | "debug" | "trace") => format!("warn,bolide={level}"),
        _ => filter.to_owned(),
    };
    EnvFilter::builder()
        .parse(&directives)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}

/// Keeps traces flowing. Without a [`shutdown`](Self::shutdown) the last ones are lost.
#[derive(Debug)]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
    problem: Option<String>,
}

impl TelemetryGuard {
    /// Whether traces are sent.
    #[must_use]
    pub fn sends_traces(&self) -> bool {
        self.provider.is_some()
    }

    /// Why no traces are sent although they were asked for.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn report_problem(&self) {
        if let Some(problem) = &self.problem {
            tracing::warn!(problem, "no traces are sent");
        }
    }

    /// Sends what is waiting, for at most `patience`; the rest is dropped.
    pub async fn shutdown(self, patience: Duration) {
        let Some(provider) = self.provider else { return };
        // It blocks until the exporter's thread answers, and bounds that itself.
        let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(patience));
        match flush.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the last traces were not sent"),
            Err(error) => tracing::debug!(%error, "the last traces were not sent"),
        }
    }
}
