//! Logs and traces of every command.
use std::time::Duration;

use anyhow::Result;
use bolide_telemetry::{LogFormat, OtlpOptions, Telemetry, TelemetryGuard, TelemetryOptions};
use clap::ValueEnum;

/// Longest time the last traces may take at the end of a command.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to log: error, warn, info, debug, trace, off, or directives
    #[arg(long, global = true, env = "BOLIDE_LOG", value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look
    #[arg(long, global = true, env = "BOLIDE_LOG_FORMAT", value_enum, default_value_t)]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl Args {
    /// Sets telemetry up; `level` counts where none was asked for.
    pub(crate) fn begin(self, level: &str) -> Result<TelemetryGuard> {
        let format = match self.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
        let filter = self.log_level.unwrap_or_else(|| level.to_owned());
        let otlp = OtlpOptions::from_vars(|name| std::env::var(name).ok());
        Ok(Telemetry::init(&TelemetryOptions { filter, format, otlp })?)
    }
}
