//! Log lines are what tools around containerd expect.
use std::{
    io,
    sync::{Arc, Mutex},
};

use bolide_telemetry::{LogFormat, Telemetry, TelemetryError, TelemetryOptions};
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

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

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What is written at this filter and format.
fn logged(filter: &str, format: LogFormat, log: impl FnOnce()) -> String {
    let options = TelemetryOptions { filter: filter.to_owned(), format, otlp: None };
    let lines = Lines::default();
    let telemetry = Telemetry::new(&options, lines.clone(), false).expect("sets up");
    tracing::dispatcher::with_default(&telemetry.into_parts().0, log);
    String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text")
}

#[test]
fn json_lines_have_the_keys_that_tools_ask_for() {
    let text = logged("debug", LogFormat::Json, || {
        let span = tracing::info_span!(target: "bolide_test", "prepare", key = "default/7/x");
        let _span = span.enter();
        tracing::debug!(target: "bolide_test", { "remote-snapshot-prepared" = "true", parent = "" }, "prepared remote snapshot");
        tracing::warn!(target: "bolide_test", error = %"two\nlines", level = 3, retried = false, "odd");
    });
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(lines.len(), 2);
    let time = lines[0]["time"].as_str().expect("a time");
    assert!(time.contains('T') && time.ends_with('Z'), "{time}");
    for (key, value) in [
        ("level", json!("debug")),
        ("msg", json!("prepared remote snapshot")),
        ("remote-snapshot-prepared", json!("true")),
        ("key", json!("default/7/x")),
    ] {
        assert_eq!(lines[0][key], value, "{key}");
    }
    for (key, value) in [
        ("level", json!("warning")),
        ("error", json!("two\nlines")),
        ("fields.level", json!(3)),
        ("retried", json!(false)),
    ] {
        assert_eq!(lines[1][key], value, "{key}");
    }
}

#[test]
fn a_bare_level_is_bolides_own() {
    let text = logged("debug", LogFormat::Text, || {
        tracing::debug!(target: "bolide_test", "ours");
        tracing::debug!(target: "h2", "theirs");
        tracing::warn!(target: "h2", "their warning");
    });
    assert!(text.contains("ours") && text.contains("their warning"), "{text}");
    assert!(!text.contains("theirs"), "{text}");
    let text = logged("bolide_test=off,h2=debug", LogFormat::Text, || {
        tracing::error!(target: "bolide_test", "ours");
        tracing::debug!(target: "h2", "theirs");
    });
    assert!(text.contains("theirs") && !text.contains("ours"), "{text}");
}

#[test]
fn a_level_that_is_none_is_refused_by_name() {
    let options =
        TelemetryOptions { filter: "bolide=loud".to_owned(), format: LogFormat::Text, otlp: None };
    let refused = Telemetry::new(&options, io::sink, false).expect_err("no level");
    assert!(matches!(refused, TelemetryError::Filter { .. }));
    assert!(refused.to_string().contains("bolide=loud"), "{refused}");
}
