//! What a person or a program reads: results on standard output, everything else on standard
//! error.
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Prints one JSON document.
pub(crate) fn json(document: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(document).context("cannot write JSON")?;
    text.push(b'\n');
    write(&text)
}

/// Prints a document as it is, and an end of line.
pub(crate) fn document(bytes: &[u8]) -> Result<()> {
    write(bytes)?;
    write(b"\n")
}

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Prints text that ends its own lines.
pub(crate) fn text(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// A reader that went away, such as `head`, has what it wanted.
fn write(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Tells why the command failed.
pub(crate) fn complain(error: &anyhow::Error) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "bolide: {error:#}");
}
