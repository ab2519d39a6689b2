//! Decodes every member of a blob, and digests every chunk where the TOC says that it lies.
use std::{
    io::{self, BufReader, Read, Seek, SeekFrom},
    ops::ControlFlow,
};

use bolide_core::{ByteRange, ChunkSpan, Codec, Digester, Error, Result, TocIndex};

/// Faults that are spelled out.
const MAX_SHOWN: usize = 100;
/// How much is decoded at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// Compares every chunk of a blob with its digest; returns what differs, chunk by chunk in the order
/// of the blob: at most 100, and a line that counts the others.
///
/// It reads and computes for as long as the blob is large: use it off the runtime's workers. `Io`
/// when the blob cannot be read.
pub fn check_chunks(blob: &mut (impl Read + Seek), toc: &dyn TocIndex) -> Result<Vec<String>> {
    let mut checked = Checked { shown: Vec::new(), more: 0 };
    let Ok(all) = ByteRange::new(0..u64::MAX) else { return Ok(checked.shown) };
    let mut member: Vec<ChunkSpan> = Vec::new();
    let mut done = Ok(());
    toc.for_each_chunk_in_blob(all, &mut |span| {
        if member.first().is_some_and(|first| first.member != span.member) {
            done = checked.member(blob, toc, &std::mem::take(&mut member));
        }
        member.push(span);
        if done.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    done?;
    checked.member(blob, toc, &member)?;
    if checked.more > 0 {
        checked.shown.push(format!("and {} more chunks", checked.more));
    }
    Ok(checked.shown)
}

struct Checked {
    shown: Vec<String>,
    more: u64,
}

impl Checked {
    fn member(
        &mut self,
        blob: &mut (impl Read + Seek),
        toc: &dyn TocIndex,
        spans: &[ChunkSpan],
    ) -> Result<()> {
        let mut spans: Vec<&ChunkSpan> = spans.iter().collect();
        spans.sort_by_key(|span| span.inner_offset);
        // A TOC may name one place many times; to decode up to it once is enough.
        spans.dedup_by_key(|span| (span.inner_offset, span.key));
        let mut rest = &spans[..];
        while !rest.is_empty() {
            let taken = self.run(blob, toc, rest)?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Decodes a member once, for all chunks that follow each other in it; tells how many.
    fn run(
        &mut self,
        blob: &mut (impl Read + Seek),
        toc: &dyn TocIndex,
        spans: &[&ChunkSpan],
    ) -> Result<usize> {
        let Some(first) = spans.first() else { return Ok(0) };
        blob.seek(SeekFrom::Start(first.member.start())).map_err(unread)?;
        let raw = BufReader::with_capacity(PIECE, blob.take(first.member.len()));
        let mut decoded = decoder(first.codec, raw).map_err(unread)?;
        // One that lies inside of another needs a decoder of its own.
        let follows = |pair: &&[&ChunkSpan]| pair[1].inner_offset >= end_of(pair[0]);
        let taken = 1 + spans.windows(2).take_while(follows).count();
        let mut at = 0;
        for (number, span) in spans[..taken].iter().enumerate() {
            let found = fault(&mut *decoded, span.inner_offset - at, span);
            at = end_of(span);
            let Some(fault) = found else { continue };
            // What cannot be decoded up to here cannot be decoded after it.
            let rest = if fault.is_fatal { &spans[number..] } else { &spans[number..=number] };
            for span in rest {
                self.report(toc, span, &fault.text);
            }
            if fault.is_fatal {
                return Ok(spans.len());
            }
        }
        Ok(taken)
    }

    fn report(&mut self, toc: &dyn TocIndex, span: &ChunkSpan, text: &str) {
        if self.shown.len() == MAX_SHOWN {
            self.more += 1;
            return;
        }
        let path = toc.path(span.file).unwrap_or_default();
        self.shown.push(format!("{}: the chunk at {} {text}", path.display(), span.file_offset));
    }
}

/// What is wrong with a chunk.
struct Fault {
    text: String,
    is_fatal: bool,
}

fn end_of(span: &ChunkSpan) -> u64 {
    span.inner_offset + span.key.len
}

fn decoder<'a>(codec: Codec, raw: impl io::BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match codec {
        Codec::Stored => Box::new(raw),
        Codec::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
        Codec::Zstd => Box::new(zstd::Decoder::with_buffer(raw)?),
    })
}

/// Skips to a chunk and digests it.
fn fault(decoded: &mut dyn Read, skipped: u64, span: &ChunkSpan) -> Option<Fault> {
    let fatal = |text: String| Some(Fault { text, is_fatal: true });
    let mut digester = Digester::new();
    let read = io::copy(&mut decoded.take(skipped), &mut io::sink()).and_then(|before| {
        let mut left = span.key.len;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            match decoded.read(&mut piece[..wanted])? {
                0 => break,
                read => {
                    digester.update(&piece[..read]);
                    left -= read as u64;
                }
            }
        }
        Ok(before == skipped && left == 0)
    });
    match read {
        Err(error) => fatal(format!("cannot be decompressed: {error}")),
        Ok(false) => fatal("lies past the end of its member".to_owned()),
        Ok(true) => {
            let found = digester.finish();
            (found != span.key.digest).then(|| Fault {
                text: format!("has the digest {found} and not {}", span.key.digest),
                is_fatal: false,
            })
        }
    }
}

fn unread(error: io::Error) -> Error {
    Error::io("check_chunks::read", error)
}
