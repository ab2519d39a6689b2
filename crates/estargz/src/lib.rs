//! Layer formats that can be read file by file, eStargz above all: footer, TOC, verified index and
//! writer.
//!
//! A blob is a row of gzip members that together are a gzip-compressed tar. Every non-empty file
//! starts a member, so does every further chunk of a large one; the last members hold the table of
//! contents (TOC) and the footer, which says where the TOC starts:
//!
//! ```text
//! | headers | file a, headers | file b, chunk 1 | file b, chunk 2, headers | .. | TOC | footer |
//! ```
//!
//! Whoever knows nothing of this unpacks a tar.gz; whoever does reads footer and TOC, and then any
//! file alone. In zstd:chunked members are zstd frames, and TOC and footer lie in frames that
//! decompressors skip; an external TOC lies in an image of its own.
#![forbid(unsafe_code)]

mod build;
mod check;
mod document;
mod facts;
mod footer;
pub mod format;
mod index;
mod listing;
mod open;
mod time;
mod toc;

pub use build::{
    BlobFormat, BuildOptions, BuildReport, Spool, TarEntries, TarEntry, convert_layer,
};
pub use check::{BlobVerdict, check_blob, check_chunks, diff_id};
pub use facts::{BlobFacts, LayerFormat, OpenedLayer, TocTrust};
pub use footer::{Footer, ZstdDocument, ZstdFooter};
pub use index::EstargzIndex;
pub use listing::ListedFile;
pub use open::{FoundToc, RawToc, TAIL_HINT, find_toc, open_layer, read_external_toc, read_toc};
pub use toc::TocEntry;
