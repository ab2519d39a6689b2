//! `Content-Range` and `Content-Length` of answers.
use http::{HeaderMap, header};

/// What `Content-Range: bytes first-last/total` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Absent when the server does not know.
    pub(super) total: Option<u64>,
}

/// Reads `Content-Range` of a 206; `None` if it is absent or contradicts itself.
pub(super) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let (span, total) = bytes_unit(headers)?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    let consistent = first <= last && last < u64::MAX && total.is_none_or(|total| last < total);
    consistent.then_some(ContentRange { first, last, total })
}

/// The size in `Content-Range: bytes */size` of a 416.
pub(super) fn unsatisfied_size(headers: &HeaderMap) -> Option<u64> {
    number(bytes_unit(headers)?.strip_prefix("*/")?)
}

/// `Content-Length` as the server wrote it.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(header::CONTENT_LENGTH)?.to_str().ok()?)
}

fn bytes_unit(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (unit, rest) = value.trim().split_once(' ')?;
    unit.eq_ignore_ascii_case("bytes").then(|| rest.trim())
}

/// Digits alone: the standard library's parser would take a sign as well.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).expect("printable");
        HeaderMap::from_iter([(header::CONTENT_RANGE, value)])
    }

    #[test]
    fn ranges_that_make_sense() {
        let parsed = content_range(&headers("bytes 2-5/10"));
        assert_eq!(parsed, Some(ContentRange { first: 2, last: 5, total: Some(10) }));
        let parsed = content_range(&headers("Bytes 0-0/*"));
        assert_eq!(parsed, Some(ContentRange { first: 0, last: 0, total: None }));
        assert_eq!(unsatisfied_size(&headers("bytes */0")), Some(0));
    }

    #[test]
    fn ranges_that_do_not() {
        for text in [
            "",
            "bytes",
            "bytes 5-2/10",
            "bytes 0-10/10",
            "bytes +0-1/10",
            "bytes 0-/5",
            "items 0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes 0-1/18446744073709551616",
        ] {
            assert_eq!(content_range(&headers(text)), None, "{text}");
        }
    }
}
