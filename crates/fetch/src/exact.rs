//! Holds a body to the range that was asked for.
use bolide_core::{Error, Result};
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};

/// Drops the first `skip` bytes of `body`, yields the next `len`, and lets go of the rest unread.
///
/// `broken` makes the error of a body that ends early; it is told how many bytes were delivered.
pub(crate) fn exact(
    body: BoxStream<'static, Result<Bytes>>,
    skip: u64,
    len: u64,
    broken: impl Fn(u64) -> Error + Send + 'static,
) -> BoxStream<'static, Result<Bytes>> {
    let cursor = Cursor { body: Some(body), skip, left: len, len, broken };
    stream::unfold(cursor, next).boxed()
}

struct Cursor<F> {
    body: Option<BoxStream<'static, Result<Bytes>>>,
    skip: u64,
    left: u64,
    len: u64,
    broken: F,
}

async fn next<F: Fn(u64) -> Error>(mut at: Cursor<F>) -> Option<(Result<Bytes>, Cursor<F>)> {
    while at.left > 0 {
        let piece = at.body.as_mut()?.next().await;
        let mut piece = match piece {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                at.body = None;
                return Some((Err(error), at));
            }
            None => {
                at.body = None;
                let error = (at.broken)(at.len - at.left);
                return Some((Err(error), at));
            }
        };
        let dropped = at.skip.min(piece.len() as u64);
        at.skip -= dropped;
        // Both casts keep the value: each is at most the piece's length.
        piece = piece.slice(usize::try_from(dropped).unwrap_or(piece.len())..);
        piece.truncate(usize::try_from(at.left).unwrap_or(usize::MAX));
        at.left -= piece.len() as u64;
        if at.left == 0 {
            // The connection is let go of now, not when the caller drops the stream.
            at.body = None;
        }
        if !piece.is_empty() {
            return Some((Ok(piece), at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bolide_core::ErrorKind;
    use futures::TryStreamExt as _;

    use super::*;

    fn body(pieces: &'static [&'static str]) -> BoxStream<'static, Result<Bytes>> {
        stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes())))).boxed()
    }

    fn broken(got: u64) -> Error {
        Error::new(ErrorKind::Unavailable, "test", "ended early").with_context("got", got)
    }

    #[tokio::test]
    async fn skips_and_cuts_inside_pieces() {
        let read = exact(body(&["abc", "", "def", "ghi"]), 2, 3, broken);
        let pieces: Vec<Bytes> = read.try_collect().await.expect("long enough");
        assert_eq!(pieces, ["c", "de"]);
    }

    #[tokio::test]
    async fn an_early_end_is_an_error_once() {
        let read: Vec<_> = exact(body(&["abc"]), 1, 3, broken).collect().await;
        assert_eq!(read.len(), 2);
        let error = read[1].as_ref().expect_err("ended early");
        assert_eq!(error.context("got"), Some("2"));
    }
}
