//! The only map from error kinds to errno.
use bolide_core::ErrorKind;

/// The errno a process sees.
pub(crate) const fn of(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::OutOfRange | ErrorKind::FailedPrecondition => libc::EINVAL,
        ErrorKind::Unsupported => libc::ENOSYS,
        // What a process can do about a corrupt chunk or a registry that is gone is the same.
        _ => libc::EIO,
    }
}
