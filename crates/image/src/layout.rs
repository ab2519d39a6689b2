//! An OCI image layout: a directory of blobs and an `index.json` that names images in it.
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use bolide_core::{Digest, Error, ErrorKind, Result};
use serde_json::Map;
use tempfile::NamedTempFile;

use crate::manifest::{self, Descriptor, Index, MAX_DOCUMENT_BYTES, media_type};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Content of the file that marks a layout.
pub(crate) const VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An OCI image layout.
///
/// Blobs and index are written beside their place and renamed into it, so a reader sees a whole
/// file or none. Every method blocks on the disk: call them where blocking is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Opens a layout; `NotFound` or `Malformed` when the directory is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let layout = Self { dir: dir.into() };
        let marker = layout.dir.join("oci-layout");
        fs::metadata(&marker).map_err(|error| {
            failed("layout::open", &marker, error)
                .with_context("rule", "a layout holds a file named oci-layout")
        })?;
        Ok(layout)
    }

    /// Opens a layout, or makes an empty one.
    pub fn create(dir: impl Into<PathBuf>) -> Result<Self> {
        let layout = Self { dir: dir.into() };
        let blobs = layout.blob_dir();
        fs::create_dir_all(&blobs).map_err(|error| failed("layout::create", &blobs, error))?;
        let _lock = layout.lock()?;
        let marker = layout.dir.join("oci-layout");
        if !found(&marker)? {
            if !found(&layout.index_path())? {
                layout.write_index(&empty_index())?;
            }
            layout.replace(&marker, VERSION)?;
        }
        Ok(layout)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where blobs lie; temporary files made here can be renamed into place.
    #[must_use]
    pub fn blob_dir(&self) -> PathBuf {
        self.dir.join("blobs").join("sha256")
    }

    /// Where the blob of a digest lies, or would lie.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blob_dir().join(digest.hex())
    }

    /// Reads `index.json`.
    pub fn index(&self) -> Result<Index> {
        let path = self.index_path();
        let bytes = read_bounded(&path, MAX_DOCUMENT_BYTES)?;
        manifest::parse(&Descriptor::of(media_type::OCI_INDEX, &bytes), &bytes)
            .map_err(|error| error.with_context("path", path.display()))
    }

    /// Finds the image of a tag, or the only image when there is no tag; `NotFound` with the tags
    /// that exist when there is none, `Malformed` when a tag is needed to choose.
    pub fn resolve(&self, tag: Option<&str>) -> Result<Descriptor> {
        let found = named(self.index()?, tag);
        found.map_err(|error| error.with_context("layout", self.dir.display()))
    }

    /// Reads a document and checks it against its descriptor.
    pub fn document(&self, name: &Descriptor) -> Result<Vec<u8>> {
        if name.size > MAX_DOCUMENT_BYTES {
            return Err(too_large(&self.blob_path(name.digest), name.size));
        }
        let bytes = read_bounded(&self.blob_path(name.digest), MAX_DOCUMENT_BYTES)?;
        manifest::verify(name, &bytes)?;
        Ok(bytes)
    }

    /// Reads the document of a digest whose size and media type nobody told.
    pub fn document_by_digest(&self, digest: Digest) -> Result<Vec<u8>> {
        let bytes = read_bounded(&self.blob_path(digest), MAX_DOCUMENT_BYTES)?;
        manifest::verify(&Descriptor::new("", digest, bytes.len() as u64), &bytes)?;
        Ok(bytes)
    }

    /// Stores a document.
    pub fn put_document(&self, bytes: &[u8]) -> Result<()> {
        self.replace(&self.blob_path(Digest::of(bytes)), bytes)
    }

    /// Moves a file that was written in [`blob_dir`](Self::blob_dir) to its place. The caller
    /// vouches for the digest.
    pub fn put_blob(&self, file: NamedTempFile, digest: Digest) -> Result<()> {
        persist(file, &self.blob_path(digest))
    }

    /// Gives an image a tag, taking it from the image that had it, or adds it without one.
    pub fn tag(&self, image: &Descriptor, tag: Option<&str>) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        set(&mut index, image.clone(), tag);
        self.write_index(&index)
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        self.replace(&self.index_path(), &manifest::to_bytes(index)?)
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    /// Keeps other processes from changing the index meanwhile; released when dropped.
    fn lock(&self) -> Result<File> {
        let taken = File::open(&self.dir).and_then(|dir| dir.lock().map(|()| dir));
        taken.map_err(|error| failed("layout::lock", &self.dir, error))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let write = || {
            let mut file = NamedTempFile::new_in(&self.dir)?;
            file.write_all(bytes).map(|()| file)
        };
        persist(write().map_err(|error| failed("layout::write", path, error))?, path)
    }
}

/// Renames a file into place once its data is on disk, so that a name never outlives its data.
fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let publish = || {
        // Temporary files are private; a layout is for everyone.
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|refused| refused.error)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    publish().map_err(|error| failed("layout::write", path, error))
}

/// The image of a tag in the index of a layout, or the only one without a tag.
pub(crate) fn named(index: Index, tag: Option<&str>) -> Result<Descriptor> {
    let mut manifests = index.manifests;
    let Some(tag) = tag else {
        return match manifests.len() {
            1 => Ok(manifests.swap_remove(0)),
            count => Err(Error::new(
                ErrorKind::Malformed,
                "layout::resolve",
                "a layout with several images, or none, needs a tag after its path",
            )
            .with_context("images", count)),
        };
    };
    let at = manifests.iter().rposition(|manifest| is_named(manifest, tag));
    at.map(|at| manifests.swap_remove(at)).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "layout::resolve", "the layout has no image of this tag")
            .with_context("tag", format!("{tag:?}"))
    })
}

/// Gives an image a tag, taking it from the image that had it, or adds it without one.
pub(crate) fn set(index: &mut Index, mut entry: Descriptor, tag: Option<&str>) {
    if let Some(tag) = tag {
        index.manifests.retain(|manifest| !is_named(manifest, tag));
        entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    } else {
        entry.annotations.remove(REF_NAME);
        index.manifests.retain(|manifest| *manifest != entry);
    }
    index.manifests.push(entry);
}

fn is_named(manifest: &Descriptor, tag: &str) -> bool {
    manifest.annotations.get(REF_NAME).is_some_and(|name| name == tag)
}

/// An index of nothing.
pub(crate) fn empty_index() -> Index {
    Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        manifests: Vec::new(),
        other: Map::new(),
    }
}

fn found(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|error| failed("layout::open", path, error))
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| failed("layout::read", path, error))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(path, bytes.len() as u64));
    }
    Ok(bytes)
}

fn too_large(path: &Path, size: u64) -> Error {
    Error::new(ErrorKind::Exhausted, "layout::read", "a document may have 4 MiB")
        .with_context("path", path.display())
        .with_context("size", size)
}

fn failed(operation: &'static str, path: &Path, error: io::Error) -> Error {
    Error::io(operation, error).with_context("path", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(layout: &Layout, text: &str) -> Descriptor {
        layout.put_document(text.as_bytes()).expect("stored");
        Descriptor::of(media_type::OCI_MANIFEST, text.as_bytes())
    }

    #[test]
    fn a_tag_moves_and_others_stay() {
        let dir = tempfile::tempdir().expect("dir");
        let layout = Layout::create(dir.path()).expect("layout");
        let (one, two) = (stored(&layout, "1"), stored(&layout, "2"));
        layout.tag(&one, Some("a")).expect("tag");
        layout.tag(&one, Some("b")).expect("tag");
        layout.tag(&two, Some("a")).expect("tag");
        let reopened = Layout::create(dir.path()).expect("layout");
        assert_eq!(reopened.resolve(Some("a")).expect("a").digest, two.digest);
        assert_eq!(reopened.resolve(Some("b")).expect("b").digest, one.digest);
        assert_eq!(reopened.index().expect("index").manifests.len(), 2);
        assert_eq!(reopened.resolve(Some("c")).expect_err("none").kind(), ErrorKind::NotFound);
        assert_eq!(reopened.resolve(None).expect_err("two").kind(), ErrorKind::Malformed);
    }

    #[test]
    fn changed_and_oversized_documents_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let layout = Layout::create(dir.path()).expect("layout");
        let mut name = stored(&layout, "document");
        assert_eq!(layout.document(&name).expect("intact"), b"document");
        fs::write(layout.blob_path(name.digest), "Document").expect("write");
        assert_eq!(layout.document(&name).expect_err("changed").kind(), ErrorKind::Corrupt);
        name.size = MAX_DOCUMENT_BYTES + 1;
        assert_eq!(layout.document(&name).expect_err("large").kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn another_directory_is_no_layout() {
        let dir = tempfile::tempdir().expect("dir");
        let error = Layout::open(dir.path()).expect_err("no layout");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.context("path").is_some_and(|path| path.ends_with("oci-layout")));
    }
}
