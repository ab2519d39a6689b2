//! What a large layer takes to convert; alone in its binary, since it measures the process.
use std::{
    io::{self, Read},
    num::NonZeroUsize,
    sync::LazyLock,
};

use bolide_estargz::{BlobFormat, BuildOptions, convert_layer};
use bolide_testkit::peak::PeakMemory;

/// Size of each layer, in bytes: more than may be held.
const LAYER: u64 = 400 << 20;
/// What converting may take at most, whatever the size of the layer.
const BOUND: u64 = 300 << 20;

/// Bytes that do not compress: a megabyte of them, again and again, which is further back than
/// compressors look at these levels.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..1 << 20).map(|_| next()).collect()
});

struct Noise(usize);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&NOISE[self.0..]).read(buffer)?;
        self.0 = (self.0 + read) % NOISE.len();
        Ok(read)
    }
}

/// A tar of files of `size` bytes each, which is never held as a whole.
fn tar(size: u64) -> impl Read + Send {
    let padding = size.next_multiple_of(512) - size;
    let files = (0..LAYER / size).map(move |number| {
        let mut header = tar::Header::new_gnu();
        header.set_path(format!("file{number}")).expect("short");
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        let head = io::Cursor::new(header.as_bytes().to_vec());
        let content = Noise(0).take(size);
        Box::new(head.chain(content).chain(io::repeat(0).take(padding))) as Box<dyn Read + Send>
    });
    Chained(files.peekable())
}

struct Chained<I: Iterator<Item = Box<dyn Read + Send>>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = Box<dyn Read + Send>>> Read for Chained<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(file) = self.0.peek_mut() {
            let read = file.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.0.next();
        }
        Ok(0)
    }
}

#[test]
fn memory_does_not_grow_with_the_layer() {
    let plain = BuildOptions {
        level: Some(1),
        parallelism: NonZeroUsize::new(16).expect("not 0"),
        ..BuildOptions::default()
    };
    let huge = BuildOptions { chunk_size: 1 << 30, ..plain.clone() };
    let packed =
        BuildOptions { format: BlobFormat::ZstdChunked, min_chunk_size: 100_000, ..plain.clone() };
    for (options, size) in [(&plain, LAYER), (&plain, 100_000), (&huge, LAYER), (&packed, 100_000)]
    {
        let Some(memory) = PeakMemory::start() else {
            bolide_testkit::skip("this kernel does not tell peaks of memory");
            return;
        };
        convert_layer(&mut tar(size), &mut io::sink(), options, None).expect("converts");
        let grown = memory.grown().expect("told before");
        eprintln!("{} with chunks of {}: {} MiB", options.format, options.chunk_size, grown >> 20);
        assert!(grown < BOUND, "{} MiB", grown >> 20);
    }
}
