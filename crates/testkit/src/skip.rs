//! Tests that a machine cannot run.
use std::{io::Write as _, thread};

/// Says that the test of this thread is skipped, and why, where `cargo xtask test` counts it. To say
/// it several times counts once.
pub fn skip(reason: &str) {
    // Not `println!`, whose words are shown for failed tests alone.
    let test = thread::current();
    let line = format!("SKIPPED {}: {reason}\n", test.name().unwrap_or("unnamed"));
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}
