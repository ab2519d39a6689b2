//! Options that make no sense are refused before anything is read.
use std::io;

use bolide_core::{Error, ErrorKind, Result};
use bolide_estargz::{BlobFormat, BuildOptions, convert_layer};

use super::support::{build, file, options, pax, try_build};

fn refused(options: &BuildOptions) -> Error {
    let error = try_build(&pax(&[file("a", "a")]), options).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Config);
    error
}

#[test]
fn levels_lie_in_the_range_of_their_format() {
    let with = |format, level| BuildOptions { level: Some(level), ..options(format) };
    for (format, out) in [
        (BlobFormat::Estargz, 10),
        (BlobFormat::TarGzip, 22),
        (BlobFormat::ZstdChunked, 0),
        (BlobFormat::TarZstd, 23),
    ] {
        assert_eq!(refused(&with(format, out)).context("level"), Some(&*out.to_string()));
    }
    for (format, fine) in [(BlobFormat::Estargz, 0), (BlobFormat::ZstdChunked, 22)] {
        build(&pax(&[file("a", "a")]), &with(format, fine));
    }
}

#[test]
fn chunks_and_spools_are_asked_for_soundly() {
    refused(&BuildOptions { chunk_size: 0, ..options(BlobFormat::Estargz) });
    refused(&BuildOptions { min_chunk_size: 1, ..options(BlobFormat::ZstdChunkedPodman) });
    let sorted = BuildOptions { prioritized: vec!["a".to_owned()], ..BuildOptions::default() };
    let error = convert_layer(&mut &pax(&[])[..], &mut Vec::new(), &sorted, None);
    assert_eq!(error.expect_err("no spool").kind(), ErrorKind::Config);
    build(
        &pax(&[file("a", "a")]),
        &BuildOptions { chunk_size: u64::MAX, ..options(BlobFormat::Estargz) },
    );
}

/// Fails after some bytes.
struct Full(usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for Full {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl io::Seek for Full {
    fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn a_spool_that_is_full_is_told() {
    for size in [10, 5 << 20] {
        let input = pax(&[file("a", super::support::noise(size, 1)), file("b", "b")]);
        let sorted =
            BuildOptions { prioritized: vec!["b".to_owned()], ..options(BlobFormat::Estargz) };
        let full = convert_layer(&mut &input[..], &mut Vec::new(), &sorted, Some(&mut Full(0)));
        assert_eq!(full.expect_err("full").kind(), ErrorKind::Exhausted);
    }
}

fn convert_into(mut output: Full) -> Result<()> {
    let input = pax(&[file("a", super::support::noise(30 << 20, 1))]);
    convert_layer(&mut &input[..], &mut output, &options(BlobFormat::Estargz), None).map(drop)
}

#[test]
fn a_full_disk_is_told_and_ends_all_threads() {
    for room in [0, 1000, 6 << 20] {
        assert_eq!(convert_into(Full(room)).expect_err("full").kind(), ErrorKind::Exhausted);
    }
}
