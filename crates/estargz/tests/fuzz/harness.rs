//! What is fuzzed. Whatever the bytes are, each function returns, without a panic and in bounded
//! memory; what it takes for sound keeps the promises that are asserted.
//!
//! `cargo xtask fuzz` runs them with libFuzzer, the tests beside this file with mutated examples.
use std::{
    io::{self, Read},
    ops::ControlFlow,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{
    BlobOpener as _, BlobRef, BlobSource as _, Digest, TocIndex, memory::MemoryBlob,
};
use bolide_estargz::{
    BlobFacts, BlobFormat, BuildOptions, EstargzIndex, Footer, LayerFormat, TAIL_HINT, TarEntries,
    TocTrust, ZstdFooter, convert_layer, open_layer,
};
use futures::executor::block_on;
use serde_json::Value;

/// Content that is read of one entry, in bytes: a tar may promise more than there is.
const MAX_CONTENT: u64 = 1 << 20;

/// The end of a blob: gzip footers, and those of zstd:chunked behind their magic.
pub(crate) fn footer(data: &[u8]) {
    for size in [data.len() as u64, 1 << 40] {
        for magic in [&b""[..], b"GnUlInUx", b"GNUlInUx"] {
            let tail = [data, magic].concat();
            let Ok(footer) = Footer::parse(&tail, size) else { continue };
            assert!(footer.payload_end(size) <= size, "payloads lie inside");
            if let Footer::ZstdChunked(ZstdFooter { toc, .. }) = footer {
                assert!(toc.range.end() <= size, "the TOC lies inside");
            }
        }
    }
}

/// A TOC document, of each format.
pub(crate) fn toc(data: &[u8]) {
    for format in [LayerFormat::Estargz, LayerFormat::ZstdChunkedPodman] {
        let facts =
            BlobFacts { blob: Digest::of(b""), blob_size: 1 << 40, toc_offset: 1 << 39, format };
        if let Ok(index) = EstargzIndex::from_toc(data, TocTrust::Unverified, &facts) {
            walk(&index);
        }
    }
}

/// A whole blob.
pub(crate) fn blob(data: &[u8]) {
    let blob = MemoryBlob::new(data.to_vec());
    let wanted = BlobRef { digest: blob.digest(), size: None };
    let Ok(opened) = block_on(blob.open(wanted, TAIL_HINT)) else { return };
    if let Ok(layer) = block_on(open_layer(&opened, TocTrust::Unverified)) {
        walk(&*layer.index);
    }
}

/// A tar, read and converted.
pub(crate) fn tar(data: &[u8]) {
    let mut entries = TarEntries::new(data);
    while let Ok(Some(_)) = entries.next_entry() {
        let read = io::copy(&mut (&mut entries).take(MAX_CONTENT), &mut io::sink());
        if read.is_err() {
            break;
        }
    }
    for format in [BlobFormat::Estargz, BlobFormat::ZstdChunked] {
        let options = BuildOptions { format, level: Some(1), ..BuildOptions::default() };
        let mut blob = Vec::new();
        if convert_layer(&mut &*data, &mut blob, &options, None).is_ok() {
            let blob = MemoryBlob::new(blob);
            let wanted = BlobRef { digest: blob.digest(), size: None };
            let opened = block_on(blob.open(wanted, TAIL_HINT)).expect("our own blob");
            let layer = block_on(open_layer(&opened, TocTrust::Unverified));
            walk(&*layer.expect("what is written can be read").index);
        }
    }
}

/// A tar that is kept to the byte: tar-split and the content of its files give it back.
pub(crate) fn tar_split(data: &[u8]) {
    let compressed = [&[0x1f, 0x8b][..], &[0x28, 0xb5, 0x2f, 0xfd]];
    let skippable = matches!(data, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if skippable || compressed.iter().any(|magic| data.starts_with(magic)) {
        return;
    }
    let options = BuildOptions {
        format: BlobFormat::ZstdChunkedPodman,
        level: Some(1),
        keep_diff_id: true,
        ..BuildOptions::default()
    };
    let mut blob = Vec::new();
    if convert_layer(&mut &*data, &mut blob, &options, None).is_err() {
        return;
    }
    let footer = Footer::parse(&blob, blob.len() as u64).expect("our own footer");
    let Footer::ZstdChunked(ZstdFooter { tar_split: Some(split), .. }) = footer else {
        panic!("the blob has no tar-split: {footer:?}");
    };
    let at = |offset: u64| usize::try_from(offset).expect("in memory");
    let document = zstd::decode_all(&blob[at(split.range.start())..at(split.range.end())]);
    assert_eq!(rebuild(&document.expect("zstd"), data), data, "the tar to the byte");
}

/// Puts a tar together from tar-split and the content of its own files, in their order.
fn rebuild(document: &[u8], tar: &[u8]) -> Vec<u8> {
    let mut entries = TarEntries::new(tar);
    let mut content = move || {
        loop {
            let entry = entries.next_entry().expect("was read before").expect("as many as before");
            if entry.size > 0 {
                let mut bytes = Vec::new();
                entries.read_to_end(&mut bytes).expect("was read before");
                return bytes;
            }
        }
    };
    let mut rebuilt = Vec::new();
    for line in document.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line).expect("JSON");
        if line["type"] == 2 {
            let payload = line["payload"].as_str().unwrap_or_default();
            rebuilt.extend(STANDARD.decode(payload).expect("base64"));
        } else if line["size"].as_u64().unwrap_or(0) > 0 {
            rebuilt.extend(content());
        }
    }
    rebuilt
}

/// Asks an index for all that it has.
fn walk(index: &dyn TocIndex) {
    let mut todo = vec![index.root()];
    let mut seen = 0;
    while let Some(dir) = todo.pop() {
        seen += 1;
        assert!(seen <= index.len(), "a tree has no cycles");
        index
            .for_each_child(dir, 0, &mut |_, child| {
                let attr = index.attr(child).expect("a child has attributes");
                index.path(child).expect("a child has a path");
                let visit = &mut |_: &std::ffi::OsStr, _: &[u8]| ControlFlow::Continue(());
                index.for_each_xattr(child, visit).expect("attributes can be listed");
                if attr.kind == bolide_core::NodeKind::Directory {
                    todo.push(child);
                }
                ControlFlow::Continue(())
            })
            .expect("a directory can be listed");
    }
    for number in 0..index.chunk_count() {
        let span = index.chunk(bolide_core::ChunkIndex(number)).expect("below the count");
        let size = index.attr(span.file).expect("a chunk has a file").size;
        assert!(span.file_offset + span.key.len <= size, "a chunk lies in its file");
        assert!(span.image_offset + span.key.len <= index.image_size(), "and in the layer image");
    }
}
