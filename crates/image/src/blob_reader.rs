//! From a stream of bytes to a reader on a blocking thread, verified on the way.
use std::{
    io::{self, Read, Write},
    sync::Weak,
};

use bolide_core::{Digest, Digester, Error, ErrorKind, Result};
use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;

/// Pieces that wait between the network and the thread that consumes them.
const PIECES_AHEAD: usize = 8;

/// Runs work that blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::new(ErrorKind::Unexpected, "image::blocking", "a worker thread did not finish")
            .with_source(error)
    })?
}

/// Reads one blob on a blocking thread, counting and digesting what passes.
#[derive(Debug)]
pub(crate) struct BlobReader {
    pieces: mpsc::Receiver<Result<Bytes>>,
    piece: Bytes,
    expected: Digest,
    size: u64,
    seen: u64,
    digester: Digester,
    failure: Option<Error>,
}

impl BlobReader {
    /// A reader of the blob of this digest and size, in bytes, and the sender that feeds it.
    pub(crate) fn new(expected: Digest, size: u64) -> (mpsc::Sender<Result<Bytes>>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let reader = Self {
            pieces,
            piece: Bytes::new(),
            expected,
            size,
            seen: 0,
            digester: Digester::new(),
            failure: None,
        };
        (sender, reader)
    }

    /// Reads what is left and compares the digest. A failure of the source, or `Corrupt`, explains
    /// every failure of whoever consumed these bytes, so it is to be asked for first.
    pub(crate) fn finish(mut self) -> Result<()> {
        while self.failure.is_none() && self.advance()? {
            self.piece.clear();
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let actual = self.digester.clone().finish();
        if self.seen == self.size && actual == self.expected {
            return Ok(());
        }
        Err(self
            .corrupt("a blob must have the digest its descriptor says")
            .with_context("actual", actual))
    }

    /// Waits for the next piece; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        let Some(piece) = self.pieces.blocking_recv().transpose()? else {
            return Ok(false);
        };
        self.seen = self.seen.saturating_add(piece.len() as u64);
        if self.seen > self.size {
            return Err(self.corrupt("a blob must have the size its descriptor says"));
        }
        self.digester.update(&piece);
        self.piece = piece;
        Ok(true)
    }

    fn corrupt(&self, rule: &'static str) -> Error {
        Error::new(ErrorKind::Corrupt, "image::read_blob", rule)
            .with_context("expected", self.expected)
            .with_context("size", self.size)
            .with_context("seen", self.seen)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if let Some(failure) = &self.failure {
                return Err(io::Error::other(failure.clone()));
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => self.failure = Some(error),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// A file that fails once nobody waits for what is done with it, so that work on a blocking thread
/// ends soon after it was given up.
#[derive(Debug)]
pub(crate) struct WhileWanted<T> {
    inner: T,
    wanted: Weak<()>,
}

impl<T> WhileWanted<T> {
    /// Works as long as `wanted` is held.
    pub(crate) fn new(inner: T, wanted: Weak<()>) -> Self {
        Self { inner, wanted }
    }

    fn check(&self) -> io::Result<()> {
        if self.wanted.strong_count() > 0 {
            return Ok(());
        }
        Err(io::Error::other("nobody waits for this any more"))
    }
}

impl<T: Read> Read for WhileWanted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buffer)
    }
}

impl<T: Write> Write for WhileWanted<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Feeds a stream to a reader until either ends.
pub(crate) async fn feed(
    mut stream: BoxStream<'static, Result<Bytes>>,
    sender: mpsc::Sender<Result<Bytes>>,
    sent: impl Fn(u64),
) {
    while let Some(piece) = stream.next().await {
        let (failed, len) = (piece.is_err(), piece.as_ref().map_or(0, Bytes::len));
        // The reader is gone when its consumer failed; that failure is reported there.
        if sender.send(piece).await.is_err() || failed {
            return;
        }
        sent(len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(
        pieces: Vec<Result<Bytes>>,
        expected: &[u8],
    ) -> (io::Result<Vec<u8>>, Result<()>) {
        let (sender, mut reader) = BlobReader::new(Digest::of(expected), expected.len() as u64);
        let consumer = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let read = reader.read_to_end(&mut bytes).map(|_| bytes);
            (read, reader.finish())
        });
        feed(futures::stream::iter(pieces).boxed(), sender, |_| ()).await;
        consumer.await.expect("no panic")
    }

    #[allow(
        clippy::unnecessary_wraps,
        reason = "an item of the stream, like the failures beside it"
    )]
    fn piece(text: &'static str) -> Result<Bytes> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn pieces_become_the_blob() {
        let (bytes, verdict) = read(vec![piece("ab"), piece(""), piece("c")], b"abc").await;
        assert_eq!(bytes.expect("read"), b"abc");
        verdict.expect("intact");
    }

    #[tokio::test]
    async fn other_short_and_long_blobs_are_corrupt() {
        for wrong in ["abx", "ab", "abcd"] {
            let (_, verdict) = read(vec![piece(wrong)], b"abc").await;
            assert_eq!(verdict.expect_err(wrong).kind(), ErrorKind::Corrupt, "{wrong}");
        }
    }

    #[test]
    fn work_ends_when_nobody_waits_for_it() {
        let wanted = std::sync::Arc::new(());
        let mut file =
            WhileWanted::new(io::Cursor::new(vec![1; 4]), std::sync::Arc::downgrade(&wanted));
        let mut two = [0; 2];
        file.read_exact(&mut two).expect("read");
        file.write_all(&two).expect("written");
        drop(wanted);
        assert!(file.read_exact(&mut two).is_err());
        assert!(file.write_all(&two).is_err());
    }

    #[tokio::test]
    async fn a_failure_of_the_source_is_kept() {
        let failure = Error::new(ErrorKind::Unavailable, "test", "gone");
        let (bytes, verdict) = read(vec![piece("ab"), Err(failure)], b"abc").await;
        assert!(bytes.is_err());
        assert_eq!(verdict.expect_err("failed").kind(), ErrorKind::Unavailable);
    }
}
