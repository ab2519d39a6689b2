//! The admin socket: how the other commands ask a running daemon.
//!
//! One JSON document and a newline go each way, then the connection ends. The socket belongs to
//! the daemon's user alone.
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bolide_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::remote::LayerReport;

/// Longest request or answer, in bytes: a report of 10,000 layers has 8 MiB.
const MAX_MESSAGE: u64 = 64 << 20;
/// A peer that says nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait after a connection could not be accepted, before the next try.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections served at once.
const MAX_CONNECTIONS: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    Status,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Status(StatusReport),
    Error(String),
}

/// What a daemon does at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the daemon.
    pub version: String,
    /// Its root directory.
    pub root: PathBuf,
    /// Layers that are lazy, in the order of snapshot ids.
    pub layers: Vec<LayerReport>,
    /// Layers that were asked for lazily and are not lazy, the latest last.
    pub not_lazy: Vec<NotLazy>,
}

/// A layer that was asked for lazily and is not lazy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLazy {
    /// Key of the snapshot.
    pub key: String,
    /// Chain id the layer was asked for under.
    pub chain_id: String,
    /// Image reference; empty when the client named none.
    pub reference: String,
    /// Digest of the blob; empty when the client named none.
    pub blob: String,
    /// Why.
    pub reason: String,
}

/// Tells a daemon's status.
pub trait StatusProvider: Send + Sync + 'static {
    /// The status at this moment.
    fn report(&self) -> StatusReport;
}

/// Asks the daemon behind `socket` for its status. `Unavailable` when none answers there.
pub async fn status(socket: &Path) -> Result<StatusReport> {
    let asked = timeout(PATIENCE, ask(socket, &Request::Status)).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the daemon does not answer"))
    });
    let answer = asked.map_err(|error| {
        let rule = "no daemon answers on its admin socket: is `bolide serve` running?";
        Error::new(ErrorKind::Unavailable, "admin::status", rule)
            .with_context("socket", socket.display())
            .with_context("cause", &error)
            .with_source(error)
    })?;
    match answer {
        Answer::Status(report) => Ok(report),
        Answer::Error(message) => Err(Error::new(ErrorKind::Unexpected, "admin::status", message)
            .with_context("socket", socket.display())),
    }
}

async fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&line(request)?).await?;
    read(&mut stream).await
}

fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

async fn read<T: serde::de::DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_MESSAGE)).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "a message must be one line and not longer than 64 MiB",
        ));
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Serves a bound admin socket until `stop`, and ends when the last connection has.
pub async fn serve(
    listener: UnixListener,
    provider: Arc<dyn StatusProvider>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (Ok((stream, _)), Ok(permit)) = (accepted, Arc::clone(&permits).acquire_owned().await)
        else {
            // Out of descriptors: others will end and give some back.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let provider = Arc::clone(&provider);
        connections.spawn(async move {
            let _permit = permit;
            if !matches!(timeout(PATIENCE, answer(stream, &*provider)).await, Ok(Ok(()))) {
                tracing::debug!("an admin connection ended early");
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(mut stream: UnixStream, provider: &dyn StatusProvider) -> io::Result<()> {
    let answer = match read(&mut stream).await {
        Ok(Request::Status) => Answer::Status(provider.report()),
        Err(error) => Answer::Error(error.to_string()),
    };
    stream.write_all(&line(&answer)?).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(StatusReport);

    impl StatusProvider for Fixed {
        fn report(&self) -> StatusReport {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn status_goes_through_the_socket() {
        let dir = tempfile::tempdir().expect("dir");
        let socket = dir.path().join("admin.sock");
        let absent = status(&socket).await.expect_err("nobody there");
        assert_eq!(absent.kind(), ErrorKind::Unavailable);
        let not_lazy = NotLazy { reason: "no TOC".into(), ..NotLazy::default() };
        let report = StatusReport { not_lazy: vec![not_lazy], ..StatusReport::default() };
        let listener = UnixListener::bind(&socket).expect("bound");
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Arc::new(Fixed(report.clone())), stop.clone()));
        assert_eq!(status(&socket).await.expect("answer"), report);
        // What is no request is answered with an error.
        let mut stream = UnixStream::connect(&socket).await.expect("connects");
        stream.write_all(b"{\"request\":\"reboot\"}\n").await.expect("sent");
        let answer: Answer = read(&mut stream).await.expect("answered");
        assert!(matches!(answer, Answer::Error(message) if message.contains("reboot")));
        stop.cancel();
        served.await.expect("ends");
    }
}
