//! The only map from error kinds to errno.
use bolide_core::ErrorKind;

/// The errno of a read that failed, whatever for. That a registry lost a blob is no `ENOENT`: a program
/// would go on as if its file did not exist.
pub(crate) const READ: i32 = libc::EIO;

/// The errno of an operation on the tree.
pub(crate) const fn of(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::OutOfRange | ErrorKind::FailedPrecondition => libc::EINVAL,
        // Never ENOSYS: the kernel would not ask for that operation again as long as it is mounted.
        ErrorKind::Unsupported => libc::EOPNOTSUPP,
        // What a process can do about a corrupt chunk or a registry that is gone is the same.
        _ => libc::EIO,
    }
}
