//! One error type for every boundary in the workspace.
use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

/// Result whose error defaults to [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The blob, chunk, node or snapshot does not exist.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// The registry refused the credentials it was given, or wants some.
    Unauthorized,
    /// Bytes did not match the digest that names them. Never retried from the same replica.
    Corrupt,
    /// The peer asked us to slow down; see [`Error::retry_after`].
    Throttled,
    /// The peer did not answer in time, or the connection broke.
    Unavailable,
    /// The range lies outside the blob or file.
    OutOfRange,
    /// The input is not a well-formed layer, TOC, image or request.
    Malformed,
    /// The state of the named object does not allow the operation.
    FailedPrecondition,
    /// This backend or this host cannot perform the operation.
    Unsupported,
    /// A bound (memory, disk, entries) was reached.
    Exhausted,
    /// Configuration is invalid.
    Config,
    /// The local operating system refused an operation.
    Io,
    /// A bug or an unclassified failure.
    Unexpected,
}

/// The error returned by every trait in this crate.
///
/// It clones cheaply, because everyone who waits for one fetch gets the same failure.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error raised by `operation`, for example `"registry::read_at"`.
    ///
    /// `message` names the rule that was broken and, where there is one, the remedy.
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            message: message.into(),
            context: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// Wraps an operating-system error, keeping the kinds a caller can act on.
    #[must_use]
    pub fn io(operation: &'static str, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                ErrorKind::Exhausted
            }
            _ => ErrorKind::Io,
        };
        Self::new(kind, operation, source.to_string()).with_source(source)
    }

    /// Adds one fact worth logging: a digest, a range, a host.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Keeps the lower-level error this one explains.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Says how long the peer asked us to wait before the next try.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that raised it.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The rule that was broken, without context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The value recorded under `key`, if any.
    #[must_use]
    pub fn context(&self, key: &str) -> Option<&str> {
        let found = self.0.context.iter().find(|(name, _)| *name == key)?;
        Some(&found.1)
    }

    /// How long the peer asked us to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same request may succeed if sent again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Throttled | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)?;
        for (key, value) in &self.0.context {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, "; caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
