//! What the database complains of, in the kinds a caller can act on.
use std::path::Path;

use bolide_core::{Error, ErrorKind};
use redb::DatabaseError;

/// Why the database could not be opened.
pub(super) fn opening(error: DatabaseError, path: &Path) -> Error {
    let (kind, rule) = match &error {
        DatabaseError::DatabaseAlreadyOpen => (
            ErrorKind::FailedPrecondition,
            "another process has the metadata open: one daemon may own a root".to_owned(),
        ),
        other => (ErrorKind::Io, other.to_string()),
    };
    Error::new(kind, "store::open", rule).with_context("path", path.display()).with_source(error)
}

/// What the errors of the database itself are raised by.
pub(super) const TRANSACTION: &str = "store::transaction";

/// Why a transaction failed.
pub(super) fn failed(error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    let kind = match &error {
        redb::Error::Corrupted(_) => ErrorKind::Corrupt,
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
        _ => ErrorKind::Io,
    };
    Error::new(kind, TRANSACTION, error.to_string()).with_source(error)
}
