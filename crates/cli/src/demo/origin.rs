//! Where the image of a demonstration comes from, and what went over the link to it.
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use bolide_fetch::{ImageReference, PlainHttp};
use bolide_image::{LinkShape, ServerHandle, ShapedLink};

/// A registry, behind a link where one can be put in front of it.
#[derive(Debug)]
pub(super) enum Origin {
    /// A registry of our own.
    Served { server: ServerHandle, shape: LinkShape },
    /// A registry that speaks plain HTTP.
    Plain { server: SocketAddr, reference: ImageReference, shape: LinkShape },
    /// A registry that speaks TLS, which lets nobody between itself and its clients.
    Direct { reference: ImageReference },
}

/// An origin, as one way reaches it: with connections and counters of its own.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) reference: ImageReference,
    link: Option<ShapedLink>,
}

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) bytes: u64,
    /// Requests made; `None` where nobody counts them.
    pub(super) requests: Option<u64>,
}

impl Origin {
    /// The registry of an image; it speaks TLS unless it is this machine or one of `plain_http`.
    pub(super) async fn of(
        reference: ImageReference,
        plain_http: &[String],
        shape: LinkShape,
    ) -> Result<Self> {
        let host = reference.api_host();
        let plain = plain_http.iter().fold(PlainHttp::loopback(), PlainHttp::with_host);
        if !plain.allows(host) {
            return Ok(Self::Direct { reference });
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let address = if has_port { host.to_owned() } else { format!("{host}:80") };
        let failed = || format!("cannot find the registry {host}");
        let mut found = tokio::net::lookup_host(address).await.with_context(failed)?;
        let server = found.next().with_context(failed)?;
        Ok(Self::Plain { server, reference, shape })
    }

    /// What lies between registry and machine; `None` when nothing of ours does.
    pub(super) fn link(&self) -> Option<LinkShape> {
        match self {
            Self::Served { shape, .. } | Self::Plain { shape, .. } => Some(*shape),
            Self::Direct { .. } => None,
        }
    }

    /// A way to the image. `name` is what follows the repository in a registry of our own.
    pub(super) async fn access(&self, name: &str) -> Result<Access> {
        let (server, shape, path) = match self {
            Self::Served { server, shape } => (server.address(), shape, format!("demo{name}")),
            Self::Plain { server, reference, shape } => (*server, shape, path(reference)),
            Self::Direct { reference } => {
                return Ok(Access { reference: reference.clone(), link: None });
            }
        };
        let link = ShapedLink::start(server, *shape).await?;
        let reference = format!("{}/{path}", link.address()).parse()?;
        Ok(Access { reference, link: Some(link) })
    }
}

/// A name without its host.
fn path(reference: &ImageReference) -> String {
    let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = reference.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
    format!("{}{tag}{digest}", reference.repository())
}

impl Access {
    /// Whether the registry is spoken to without TLS: then it is behind a link.
    pub(super) fn is_plain(&self) -> bool {
        self.link.is_some()
    }

    /// What went over the link; `None` when there is none.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        let counters = self.link.as_ref()?.counters();
        Some(Traffic { bytes: counters.received, requests: Some(counters.requests) })
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_link_is_put_before_plain_http_alone() {
        let shape = LinkShape { bits_per_second: NonZeroU64::MAX, rtt: Duration::ZERO };
        let digest = bolide_core::Digest::of(b"x");
        for (name, plain, expected) in [
            ("127.0.0.1:1/a/b:c".to_owned(), &[][..], Some("/a/b:c".to_owned())),
            (format!("127.0.0.1/a@{digest}"), &[], Some(format!("/a@{digest}"))),
            ("10.0.0.1:5000/a:b".to_owned(), &["10.0.0.1:5000".to_owned()], Some("/a:b".into())),
            ("10.0.0.1:5000/a:b".to_owned(), &[], None),
            ("docker.io/library/python:3".to_owned(), &[], None),
        ] {
            let reference: ImageReference = name.parse().expect("a name");
            let origin = Origin::of(reference.clone(), plain, shape).await.expect("found");
            let access = origin.access("").await.expect("linked");
            assert_eq!(access.is_plain(), expected.is_some(), "{name}");
            match expected {
                Some(path) => assert!(access.reference.to_string().ends_with(&path), "{name}"),
                None => assert_eq!(access.reference, reference),
            }
        }
    }
}
