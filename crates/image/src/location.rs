//! Where an image lies, as a person writes it.
use std::{fmt, path::PathBuf, str::FromStr};

use bolide_core::{Error, ErrorKind, Result};
use bolide_fetch::ImageReference;

/// Where an image lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `oci:DIR[:TAG]`: an OCI image layout.
    Layout {
        /// Directory of the layout.
        dir: PathBuf,
        /// Name of the image in it; without one the layout must hold a single image.
        tag: Option<String>,
    },
    /// An image in a registry.
    Registry(ImageReference),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("oci:") {
            return parse_layout(rest).ok_or_else(|| refuse(text, LAYOUT_RULE));
        }
        for scheme in ["oci-archive:", "docker-archive:", "containerd:"] {
            if text.starts_with(scheme) {
                return Err(in_location(
                    Error::new(
                        ErrorKind::Unsupported,
                        "location::parse",
                        "this kind of location cannot be opened yet; use a registry or oci:DIR[:TAG]",
                    ),
                    text,
                ));
            }
        }
        text.parse().map(Self::Registry).map_err(|error: Error| {
            // A wrong digest names itself alone.
            if error.context("reference").is_some() { error } else { in_location(error, text) }
        })
    }
}

const LAYOUT_RULE: &str = "a layout is written oci:DIR or oci:DIR:TAG, neither of them empty";

/// The tag starts at the last colon that no slash follows, so a directory may hold colons.
fn parse_layout(rest: &str) -> Option<Location> {
    let (dir, tag) = match rest.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag)),
        _ => (rest, None),
    };
    if dir.is_empty() || tag.is_some_and(str::is_empty) {
        return None;
    }
    Some(Location::Layout { dir: dir.into(), tag: tag.map(str::to_owned) })
}

fn refuse(text: &str, rule: &'static str) -> Error {
    in_location(Error::new(ErrorKind::Malformed, "location::parse", rule), text)
}

fn in_location(error: Error, text: &str) -> Error {
    let shown: String = text.chars().take(300).collect();
    error.with_context("location", format!("{shown:?}"))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { dir, tag: Some(tag) } => write!(f, "oci:{}:{tag}", dir.display()),
            Self::Layout { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Self::Registry(reference) => reference.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &str, tag: Option<&str>) -> Location {
        Location::Layout { dir: dir.into(), tag: tag.map(str::to_owned) }
    }

    #[test]
    fn each_form_is_read() {
        for (text, expected) in [
            ("oci:/a/b", layout("/a/b", None)),
            ("oci:/a/b:v1", layout("/a/b", Some("v1"))),
            ("oci:/a:1/b", layout("/a:1/b", None)),
            ("oci:x:1:2", layout("x:1", Some("2"))),
            (
                "localhost:5000/a:b",
                Location::Registry("localhost:5000/a:b".parse().expect("reference")),
            ),
        ] {
            let location: Location = text.parse().expect(text);
            assert_eq!(location, expected);
            assert_eq!(location.to_string(), text);
        }
    }

    #[test]
    fn other_forms_are_refused_with_input_and_reason() {
        for (text, kind) in [
            ("oci:", ErrorKind::Malformed),
            ("oci::tag", ErrorKind::Malformed),
            ("oci:dir:", ErrorKind::Malformed),
            ("", ErrorKind::Malformed),
            ("a b", ErrorKind::Malformed),
            ("./dir", ErrorKind::Malformed),
            ("localhost:5000/Upper", ErrorKind::Malformed),
            ("localhost:5000/a:b:c", ErrorKind::Malformed),
            ("localhost:5000/a@sha256:12", ErrorKind::Malformed),
            ("https://localhost/a", ErrorKind::Malformed),
            ("containerd:x", ErrorKind::Unsupported),
            ("docker-archive:x.tar", ErrorKind::Unsupported),
        ] {
            let error = text.parse::<Location>().expect_err(text);
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
