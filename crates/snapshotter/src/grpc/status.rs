//! Errors as gRPC status codes, the same that containerd's `errdefs` become on the wire.
use bolide_core::{Error, ErrorKind};
use tonic::{Code, Status};

/// Messages travel in a header, where Go's clients take some 16 KiB in all, escapes included.
const MAX_MESSAGE: usize = 2048;

/// The status a client sees.
pub(super) fn status(error: &Error) -> Status {
    let mut message = error.to_string();
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    Status::new(code(error.kind()), message)
}

const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Malformed => Code::InvalidArgument,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Unavailable | ErrorKind::Throttled => Code::Unavailable,
        ErrorKind::Unauthorized => Code::Unauthenticated,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Corrupt => Code::DataLoss,
        // Errors without a class of their own reach containerd's clients as unknown, too.
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut() {
        let error = Error::new(ErrorKind::NotFound, "x", "ü".repeat(MAX_MESSAGE));
        let status = status(&error);
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().len() <= MAX_MESSAGE && status.message().ends_with('ü'));
    }
}
