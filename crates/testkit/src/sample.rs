//! Sample layers whose truth is known.
use std::sync::Arc;

use bolide_core::{
    Device, ImageSpec, LayerView, NodeKind, Result, Timestamp, TocIndex as _,
    memory::{MemoryLayer, MemoryLayerBuilder, MemoryLayerImage, NodeMeta},
};

use crate::reader::BlobReader;

/// Bytes that differ everywhere and are the same on every run.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        // xorshift64: no statistics needed, only bytes that do not repeat.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(step).collect()
}

/// A small layer with every kind of node, chunked at 4096 bytes.
pub fn every_kind() -> Result<MemoryLayer> {
    let capability = NodeMeta {
        perm: 0o4755,
        uid: 1000,
        gid: 1001,
        mtime: Timestamp { seconds: 1_700_000_000, nanos: 0 },
        xattrs: vec![
            ("user.binary".to_owned(), vec![0, 255, 7]),
            ("user.text".to_owned(), b"x".to_vec()),
        ],
    };
    let layer = MemoryLayerBuilder::new(4096)
        .directory("etc", NodeMeta::with_perm(0o750))?
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n", NodeMeta::with_perm(0o644))?
        .file("bin/tool", &noise(20_000, 7), capability)?
        .file("bin/empty", b"", NodeMeta::with_perm(0o755))?
        .hard_link("bin/same", "bin/tool")?
        .symlink("bin/link", "../etc/passwd")?
        .special(
            "dev/null",
            NodeKind::CharDevice(Device { major: 1, minor: 3 }),
            NodeMeta::with_perm(0o666),
        )?
        .special(
            "dev/sda",
            NodeKind::BlockDevice(Device { major: 8, minor: 0 }),
            NodeMeta::with_perm(0o660),
        )?
        .special("run/pipe", NodeKind::Fifo, NodeMeta::with_perm(0o600))?
        .file("data/exact", &noise(8192, 9), NodeMeta::with_perm(0o600))?
        .sparse_file(
            "data/sparse",
            &[(3000, &noise(5000, 13)), (10_000, b"x"), (1 << 20, b"end"), (7, b"")],
            NodeMeta::with_perm(0o600),
        )?
        .build();
    Ok(layer)
}

/// A layer with one small file.
pub fn small() -> Result<MemoryLayer> {
    let builder = MemoryLayerBuilder::new(4096);
    Ok(builder.file("small", b"small\n", NodeMeta::with_perm(0o644))?.build())
}

/// The layer, ready to be shown. Nothing of it is present in its image: every read asks the blob.
#[must_use]
pub fn view(layer: &MemoryLayer) -> LayerView {
    let spec = layer.toc.image_spec().unwrap_or_else(|_| ImageSpec {
        toc: layer.toc.digest(),
        size: 0,
        slots: Vec::new(),
    });
    let reader = Arc::new(BlobReader(Arc::new(layer.clone())));
    LayerView {
        toc: Arc::<bolide_core::memory::MemoryToc>::clone(&layer.toc),
        reader: Arc::<BlobReader>::clone(&reader),
        image: Arc::new(MemoryLayerImage::new(spec)),
        status: reader,
    }
}
