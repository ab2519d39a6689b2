//! Bombs cost little memory; alone in its binary, since it measures the process.
use std::{
    fmt,
    io::{Read, Write},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, OpenedBlob, ReadOptions, Result,
    SourceCapability, TocIndex as _,
};
use bolide_estargz::{
    BuildOptions, Footer, TocTrust, ZstdDocument, ZstdFooter, convert_layer, open_layer,
};
use bolide_testkit::peak::PeakMemory;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};

/// What any refusal may take: far less than what the input pretends to be.
const BOUND: u64 = 64 << 20;

/// A blob of which only the tail exists; reads of the rest are counted as failures.
#[derive(Debug)]
struct TailOnly(u64);

impl fmt::Display for TailOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TailOnly")
    }
}

#[async_trait]
impl BlobSource for TailOnly {
    fn digest(&self) -> Digest {
        Digest::of(b"")
    }

    fn size(&self) -> u64 {
        self.0
    }

    fn capability(&self) -> SourceCapability {
        SourceCapability::default()
    }

    fn stream(&self, range: ByteRange, _: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        let error = Error::new(ErrorKind::Unexpected, "tail_only::read", "it asked for more");
        stream::iter([Err(error.with_context("range", range))]).boxed()
    }
}

/// A blob that is `size` bytes long and ends with `tail`.
fn opened(size: u64, tail: Vec<u8>) -> OpenedBlob {
    OpenedBlob { source: Arc::new(TailOnly(size)), tail: tail.into() }
}

/// A whole blob: a TOC's tar entry that claims `claimed` bytes, begins with `document` and goes on
/// with `zeros` zeros, and the footer.
fn toc_only(document: &str, claimed: u64, zeros: u64) -> OpenedBlob {
    let mut header = tar::Header::new_gnu();
    header.set_path("stargz.index.json").expect("short");
    header.set_size(claimed);
    header.set_cksum();
    let mut member = GzEncoder::new(Vec::new(), Compression::new(1));
    member.write_all(header.as_bytes()).expect("memory");
    member.write_all(document.as_bytes()).expect("memory");
    std::io::copy(&mut std::io::repeat(0).take(zeros), &mut member).expect("memory");
    // A payload of one byte stands before it: offset 0 is no offset for some readers.
    let mut blob = vec![0];
    blob.extend(member.finish().expect("memory"));
    blob.extend(Footer::write(1));
    opened(blob.len() as u64, blob)
}

async fn kind_of(blob: &OpenedBlob) -> Option<ErrorKind> {
    open_layer(blob, TocTrust::Unverified).await.err().map(|error| error.kind())
}

/// A zstd:chunked blob whose TOC is said to have `raw_size` bytes.
fn zstd_only(frames: &[u8], raw_size: u64) -> OpenedBlob {
    let range = ByteRange::at(8, frames.len() as u64).expect("range");
    let footer =
        ZstdFooter { toc: ZstdDocument { range, raw_size }, tar_split: None, podman: true };
    let blob = [&[0; 8][..], frames, &footer.write()].concat();
    opened(blob.len() as u64, blob)
}

/// A frame that asks for a window of 2 GiB.
const WIDE: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 1, 0, 0];

/// A tar whose extension header claims a name of a gigabyte, and has it.
fn long_name() -> impl Read {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_path("././@LongLink").expect("short");
    header.set_size(1 << 30);
    header.set_cksum();
    let head = std::io::Cursor::new(header.as_bytes().to_vec());
    head.chain(std::io::repeat(b'n').take((1 << 30) + 1024))
}

#[tokio::test]
async fn bombs_cost_little_memory() {
    let document = r#"{"version":1,"entries":[{"name":"d","type":"dir"}]}"#;
    let claims_more = toc_only(document, 2 << 30, 256 << 20);
    let goes_on = toc_only(document, document.len() as u64, 256 << 20);
    let far = opened(3 << 30, [vec![0; 4096], Footer::write(1).to_vec()].concat());
    let deep = toc_only(&nested(4 << 20), nested(4 << 20).len() as u64, 0);
    let zeros = zstd::encode_all(std::io::repeat(0).take(1 << 30), 1).expect("memory");
    let bomb = zstd_only(&zeros, 1 << 20);
    let wide = zstd_only(&WIDE, 10);
    let Some(memory) = PeakMemory::start() else {
        bolide_testkit::skip("this kernel does not tell peaks of memory");
        return;
    };
    assert_eq!(kind_of(&claims_more).await, Some(ErrorKind::Exhausted), "a TOC of 2 GiB");
    assert_eq!(kind_of(&far).await, Some(ErrorKind::Exhausted), "a member of 3 GiB");
    assert_eq!(kind_of(&deep).await, None, "what is not ours may be as deep as it likes");
    assert_eq!(kind_of(&bomb).await, Some(ErrorKind::Malformed), "a GiB in place of a MiB");
    assert_eq!(kind_of(&wide).await, Some(ErrorKind::Malformed), "a window of 2 GiB");
    let read = open_layer(&goes_on, TocTrust::Unverified).await.expect("ends where it says");
    assert_eq!(read.index.len(), 2);
    assert_eq!(read.toc.len(), document.len());
    let refused =
        convert_layer(&mut long_name(), &mut std::io::sink(), &BuildOptions::default(), None);
    assert_eq!(refused.expect_err("no name").kind(), ErrorKind::Malformed);
    let grown = memory.grown().expect("told before");
    assert!(grown < BOUND, "{} MiB", grown >> 20);
}

/// A TOC with a field that nobody knows, nested `depth` deep.
fn nested(depth: usize) -> String {
    format!(r#"{{"version":1,"unknown":{}{},"entries":[]}}"#, "[".repeat(depth), "]".repeat(depth))
}
