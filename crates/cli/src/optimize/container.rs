//! A container that runc runs, from its start until nothing is left of it.
use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    process::{Child, Command},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

use crate::sandbox::finish;

/// How long a workload may take to end once it is asked to: what it writes is thrown away.
const GRACE: Duration = Duration::from_secs(3);
/// How much of its output is looked at in one piece, in bytes.
const PIECE: usize = 64 * 1024;

/// How a container reaches this process's streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams<'a> {
    pub(super) terminal: bool,
    pub(super) stdin: bool,
    /// What its standard output is searched for.
    pub(super) line: Option<&'a str>,
    /// Whether this process's standard output is for something else, and standard error is to take
    /// the container's.
    pub(super) aside: bool,
}

/// A container, alive or not.
#[derive(Debug)]
pub(super) struct Container {
    id: String,
    bundle: PathBuf,
    child: Child,
    output: Option<Output>,
}

/// The container's standard output, on its way to this process's.
#[derive(Debug)]
struct Output {
    found: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Container {
    /// Runs what `config.json` in `bundle` says. To be [removed](Self::remove) whatever happens.
    pub(super) fn start(bundle: &Path, id: &str, streams: Streams<'_>) -> Result<Self> {
        let mut command = runc(bundle);
        command.args(["run", "--pid-file"]).arg(pid_file(bundle));
        command.arg("--bundle").arg(bundle).arg(id);
        command.stdin(if streams.stdin { Stdio::inherit() } else { Stdio::null() });
        // The container's standard output goes there.
        let out = if streams.aside {
            std::io::stderr().as_fd().try_clone_to_owned()
        } else {
            std::io::stdout().as_fd().try_clone_to_owned()
        };
        let out = out.context("cannot use the standard streams")?;
        let searched = match streams.line {
            Some(line) => {
                let out = out.try_clone().context("cannot use the standard streams")?;
                Some((line.to_owned(), tokio::fs::File::from_std(out.into())))
            }
            None => None,
        };
        command.stdout(if searched.is_some() { Stdio::piped() } else { out.into() });
        if !streams.terminal {
            // An interrupt from the keyboard is for this process, which decides what it means.
            command.process_group(0);
        }
        let mut child = command.spawn().context("cannot run runc, which runs the workload")?;
        let output = match (child.stdout.take(), searched) {
            (Some(stdout), Some((line, out))) => {
                let found = Arc::new(Notify::new());
                let tell = Arc::clone(&found);
                let task = tokio::spawn(async move { pass_on(stdout, out, &line, &tell).await });
                Some(Output { found, task })
            }
            _ => None,
        };
        Ok(Self { id: id.to_owned(), bundle: bundle.to_owned(), child, output })
    }

    /// Waits until it ends by itself. Fails when it never began.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().await.context("cannot wait for runc")?;
        if !status.success() && !pid_file(&self.bundle).is_file() {
            bail!("runc cannot start the workload: {}", last_error(&self.bundle));
        }
        Ok(status)
    }

    /// Waits for the line to appear in its output; forever if there is none to wait for.
    pub(super) fn line(&self) -> impl Future<Output = ()> + use<> {
        let found = self.output.as_ref().map(|output| Arc::clone(&output.found));
        async move {
            match found {
                Some(found) => found.notified().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Ends it and removes every trace, whatever state it is in.
    pub(super) async fn remove(mut self) -> Result<()> {
        if self.child.id().is_some() {
            // Where it cannot be told it is killed below.
            let _ = finish(runc(&self.bundle).args(["kill", &self.id, "TERM"])).await;
            let _ = timeout(GRACE, self.child.wait()).await;
        }
        let mut deleted = self.delete().await;
        // With its container gone runc ends, unless it had only begun to make one.
        if timeout(GRACE, self.child.wait()).await.is_err() {
            self.child.kill().await.context("cannot end runc")?;
            deleted = self.delete().await;
        }
        if let Some(output) = self.output.take() {
            output.task.await.context("the workload's output was not read to its end")?;
        }
        deleted
    }

    async fn delete(&self) -> Result<()> {
        let done = finish(runc(&self.bundle).args(["delete", "--force", &self.id])).await?;
        let complaint = String::from_utf8_lossy(&done.stderr.start).trim_end().to_owned();
        ensure!(done.status.success(), "cannot remove the container {}: {complaint}", self.id);
        Ok(())
    }
}

/// Its state and its log lie beside the bundle's configuration.
fn runc(bundle: &Path) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(bundle.join("state"));
    command.arg("--log").arg(log_file(bundle)).args(["--log-format", "json"]);
    command
}

fn pid_file(bundle: &Path) -> PathBuf {
    bundle.join("pid")
}

fn log_file(bundle: &Path) -> PathBuf {
    bundle.join("log")
}

/// What runc complained of last.
fn last_error(bundle: &Path) -> String {
    let log = fs::read_to_string(log_file(bundle)).unwrap_or_default();
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = lines.filter(|line| line["level"] == "error");
    let last = errors.next().and_then(|line| line["msg"].as_str().map(str::to_owned));
    last.unwrap_or_else(|| "it does not say why".to_owned())
}

/// Passes output on, and tells when the text has appeared in it.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    text: &str,
    found: &Notify,
) {
    let text = text.as_bytes();
    // No text has an end of line in it, so that lines need not be told apart.
    let (mut seen, mut piece) = (Vec::new(), vec![0; PIECE]);
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        // A reader that went away does not end the workload.
        let _ = to.write_all(&piece[..count]).await;
        let _ = to.flush().await;
        seen.extend_from_slice(&piece[..count]);
        if seen.windows(text.len()).any(|part| part == text) {
            found.notify_one();
        }
        seen.drain(..seen.len().saturating_sub(text.len() - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_text_is_found_across_pieces_and_all_is_passed_on() {
        for (text, expected) in [("ready to", true), ("y t", true), ("not", false)] {
            let input = tokio_test_pieces(&["it is rea", "dy", " to serve\n", "and so on"]);
            let (mut output, found) = (Vec::new(), Notify::new());
            pass_on(input, &mut output, text, &found).await;
            assert_eq!(output, b"it is ready to serve\nand so on");
            let told = timeout(Duration::ZERO, found.notified()).await.is_ok();
            assert_eq!(told, expected, "{text}");
        }
    }

    /// Reads one piece after the other.
    fn tokio_test_pieces(pieces: &'static [&'static str]) -> impl AsyncRead + Unpin {
        let pieces = pieces.iter().map(|piece| std::io::Result::Ok(piece.as_bytes()));
        tokio_util::io::StreamReader::new(futures::stream::iter(pieces))
    }
}
