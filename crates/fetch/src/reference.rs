//! Image names, normalised as Docker does.
use std::{fmt, str::FromStr};

use bolide_core::{Digest, Error, ErrorKind, Result};

const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised image name: `host[:port]/repository[:tag][@digest]`.
///
/// `alpine` becomes `docker.io/library/alpine:latest`. A name with a digest gets no default tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageReference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// The registry as users write it, with its port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host that serves the registry's API; it differs from [`host`](Self::host) for
    /// `docker.io` alone.
    #[must_use]
    pub fn api_host(&self) -> &str {
        if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host }
    }

    /// The repository: `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if the name has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name has one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask the registry for: the digest, else the tag.
    #[must_use]
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The same repository under another digest, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        let (host, path) = split_host(name);
        let repository = if host == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if !is_host(host) {
            return Err(malformed(text, "a registry is host[:port]"));
        }
        if host.len() + repository.len() > MAX_NAME || !repository.split('/').all(is_component) {
            return Err(malformed(
                text,
                "a repository is lowercase letters, digits and single separators, at most 255 bytes",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(malformed(text, "a tag is 1 to 128 of letters, digits, '_', '.' and '-'"));
        }
        let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
        Ok(Self { host: host.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a host only if it cannot be a repository on Docker Hub.
fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io" | "registry-1.docker.io", path)) => ("docker.io", path),
        Some((first, path))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => ("docker.io", name),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name_is_valid = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    name_is_valid && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok())
}

/// Letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes
            .split(|b| alphanumeric(*b))
            .all(|gap| matches!(gap, [] | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    (1..=MAX_TAG).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn malformed(text: &str, rule: &'static str) -> Error {
    let shown: String = text.chars().take(300).collect();
    Error::new(ErrorKind::Malformed, "reference::parse", rule)
        .with_context("reference", format!("{shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let cases = [
            ("alpine", "docker.io/library/alpine:latest"),
            ("me/app:1", "docker.io/me/app:1"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("ghcr.io/a/b__c/d--e.f", "ghcr.io/a/b__c/d--e.f:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ];
        for (text, expected) in cases {
            let parsed: ImageReference = text.parse().expect(text);
            assert_eq!(parsed.to_string(), expected);
            assert_eq!(expected.parse::<ImageReference>().expect(expected), parsed);
        }
    }

    #[test]
    fn a_digest_replaces_the_default_tag() {
        let parsed: ImageReference = format!("alpine@{DIGEST}").parse().expect("valid");
        assert_eq!((parsed.tag(), parsed.target().as_str()), (None, DIGEST));
        let both: ImageReference = format!("alpine:3@{DIGEST}").parse().expect("valid");
        assert_eq!((both.tag(), both.target().as_str()), (Some("3"), DIGEST));
        assert_eq!(both.api_host(), "registry-1.docker.io");
    }

    #[test]
    fn other_spellings_are_malformed() {
        let long = "a".repeat(300);
        for text in [
            "",
            ":",
            "/",
            "a//b",
            "Alpine",
            "a:",
            "a:.t",
            "a@sha256:00",
            "h.io/",
            "h.io/A",
            "-a",
            "a/../b",
            "h.io:x/a",
            "h.io:99999/a",
            "a b",
            "a___b",
            "a..b",
            "u@h.io/a",
            &long,
        ] {
            let error = text.parse::<ImageReference>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Malformed, "{text}");
        }
    }
}
