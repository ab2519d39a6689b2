//! The contract of [`BlobSource`], clause by clause.
use std::sync::Arc;

use bolide_core::{BlobSource, ByteRange, Digester, ErrorKind, ReadOptions};
use bytes::Bytes;
use futures::{StreamExt as _, future};

use super::verdict::{Broken, Verdict, hold, succeed};

/// Runs every clause against a source whose blob is `truth` (at least 3 bytes).
pub async fn all(source: Arc<dyn BlobSource>, truth: Bytes) -> Verdict {
    size_is_exact(&*source, &truth)?;
    reads_are_exact(&*source, &truth).await?;
    reads_repeat(&*source, &truth).await?;
    past_the_end_is_out_of_range(&*source).await?;
    stream_equals_read(&*source, &truth).await?;
    whole_stream_matches_digest(&*source).await?;
    dropped_reads_leak_nothing(&*source, &truth).await?;
    concurrent_reads_do_not_mix(&*source, &truth).await
}

/// The size is the blob's.
pub fn size_is_exact(source: &dyn BlobSource, truth: &Bytes) -> Verdict {
    let (size, expected) = (source.size(), truth.len());
    hold("exact size", size == expected as u64, format!("{size} instead of {expected}"))
}

/// Reads at every kind of boundary return exactly the bytes asked for.
pub async fn reads_are_exact(source: &dyn BlobSource, truth: &Bytes) -> Verdict {
    for range in boundaries(truth.len() as u64)? {
        let bytes = succeed("exact", source.read_at(range, ReadOptions::default()).await)?;
        hold("exact", bytes == slice(truth, range), format!("other bytes for {range}"))?;
    }
    Ok(())
}

/// The same range yields the same bytes.
pub async fn reads_repeat(source: &dyn BlobSource, truth: &Bytes) -> Verdict {
    let range = succeed("immutable", ByteRange::new(0..truth.len() as u64))?;
    let first = succeed("immutable", source.read_at(range, ReadOptions::default()).await)?;
    let second = succeed("immutable", source.read_at(range, ReadOptions::default()).await)?;
    hold("immutable", first == second, "two reads differ")
}

/// A range past the end is refused as such.
pub async fn past_the_end_is_out_of_range(source: &dyn BlobSource) -> Verdict {
    let clause = "in bounds";
    for start in [source.size(), source.size() - 1] {
        let range = succeed(clause, ByteRange::at(start, 2))?;
        let read = source.read_at(range, ReadOptions::default()).await;
        let kind = read.as_ref().err().map(bolide_core::Error::kind);
        hold(clause, kind == Some(ErrorKind::OutOfRange), format!("{read:?} for {range}"))?;
        let streamed = source.stream(range, ReadOptions::default()).next().await;
        let kind = streamed.and_then(Result::err).map(|error| error.kind());
        hold(clause, kind == Some(ErrorKind::OutOfRange), format!("stream of {range}: {kind:?}"))?;
    }
    Ok(())
}

/// A stream yields the bytes of the range, in order, in non-empty pieces.
pub async fn stream_equals_read(source: &dyn BlobSource, truth: &Bytes) -> Verdict {
    for range in boundaries(truth.len() as u64)? {
        let mut collected = Vec::new();
        let mut pieces = source.stream(range, ReadOptions::default());
        while let Some(piece) = pieces.next().await {
            let piece = succeed("ordered stream", piece)?;
            hold("ordered stream", !piece.is_empty(), "an empty piece")?;
            collected.extend_from_slice(&piece);
        }
        hold(
            "ordered stream",
            slice(truth, range) == collected,
            format!("other bytes for {range}"),
        )?;
    }
    Ok(())
}

/// The bytes of the whole blob have the digest that names it.
pub async fn whole_stream_matches_digest(source: &dyn BlobSource) -> Verdict {
    let range = succeed("digest", ByteRange::new(0..source.size()))?;
    let mut digester = Digester::new();
    let mut pieces = source.stream(range, ReadOptions::default());
    while let Some(piece) = pieces.next().await {
        digester.update(&succeed("digest", piece)?);
    }
    let actual = digester.finish();
    hold("digest", actual == source.digest(), format!("{actual} instead of {}", source.digest()))
}

/// Reads dropped before their end hold nothing back: as many later reads succeed.
pub async fn dropped_reads_leak_nothing(source: &dyn BlobSource, truth: &Bytes) -> Verdict {
    let range = succeed("cancel-safe", ByteRange::new(0..truth.len() as u64))?;
    for _ in 0..100 {
        let mut read = source.read_at(range, ReadOptions::default());
        let _ = futures::poll!(&mut read);
        let mut pieces = source.stream(range, ReadOptions::default());
        let _ = futures::poll!(pieces.next());
    }
    let read = source.read_at(range, ReadOptions::default());
    let bytes = tokio::time::timeout(PATIENCE, read).await;
    let bytes = bytes.map_err(|_| Broken::new("cancel-safe", "a read waits for ever"))?;
    let bytes = succeed("cancel-safe", bytes)?;
    hold("cancel-safe", bytes == *truth, "other bytes after dropped reads")
}

/// Two hundred reads at once each get their own bytes.
pub async fn concurrent_reads_do_not_mix(source: &dyn BlobSource, truth: &Bytes) -> Verdict {
    let len = truth.len() as u64;
    let reads = (0..200_u64).map(|number| async move {
        let range = succeed("concurrent", ByteRange::new(number % len..len))?;
        let bytes = succeed("concurrent", source.read_at(range, ReadOptions::default()).await)?;
        hold("concurrent", bytes == slice(truth, range), format!("other bytes for {range}"))
    });
    future::try_join_all(reads).await.map(|_| ())
}

/// How long a read that should succeed may take before it counts as hung.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

fn slice(truth: &Bytes, range: ByteRange) -> Bytes {
    // The ranges were made from this blob's length, which is a usize.
    let bounds = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    truth.slice(bounds(range.start())..bounds(range.end()))
}

fn boundaries(len: u64) -> Result<Vec<ByteRange>, Broken> {
    let ends =
        [(0, 1), (0, len), (len - 1, len), (len / 2, len), (len / 3, len / 3 + 1), (1, len - 1)];
    ends.into_iter()
        .map(|(start, end)| succeed("sample of at least 3 bytes", ByteRange::new(start..end)))
        .collect()
}
