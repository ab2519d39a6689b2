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
    /// `oci-archive:FILE[:TAG]`: a tar of an OCI image layout.
    OciArchive {
        /// The tar.
        file: PathBuf,
        /// Name of the image in it; without one the archive must hold a single image.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:REF]`: a tar as `docker save` writes it.
    DockerArchive {
        /// The tar.
        file: PathBuf,
        /// Name of the image in it; without one the archive must hold a single image.
        name: Option<ImageReference>,
    },
    /// `containerd:REF`: an image of a containerd, in whose stores it has this name.
    Containerd(ImageReference),
    /// An image in a registry.
    Registry(ImageReference),
}

impl Location {
    /// The name or tag that the image has, or gets, there.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Layout { tag, .. } | Self::OciArchive { tag, .. } => tag.as_deref(),
            Self::DockerArchive { name, .. } => name.as_ref().and_then(ImageReference::tag),
            Self::Containerd(name) | Self::Registry(name) => name.tag(),
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return reference(text, text).map(Self::Registry);
        };
        match scheme {
            "oci" => {
                let (dir, tag) = path_and_tag(rest, text)?;
                Ok(Self::Layout { dir, tag })
            }
            "oci-archive" => {
                let (file, tag) = path_and_tag(rest, text)?;
                Ok(Self::OciArchive { file, tag })
            }
            "docker-archive" => {
                let (file, name) = rest.split_once(':').map_or((rest, None), |(f, n)| (f, Some(n)));
                if file.is_empty() {
                    return Err(refuse(text, PATH_RULE));
                }
                let name = name.map(|name| reference(name, text)).transpose()?;
                Ok(Self::DockerArchive { file: file.into(), name })
            }
            "containerd" => reference(rest, text).map(Self::Containerd),
            _ => reference(text, text).map(Self::Registry),
        }
    }
}

const PATH_RULE: &str = "a place in files is written oci:DIR, oci-archive:FILE or docker-archive:FILE, alone or with \
     :TAG, none of them empty";

/// The tag starts at the last colon that no slash follows, so a path may hold colons.
fn path_and_tag(rest: &str, text: &str) -> Result<(PathBuf, Option<String>)> {
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    if path.is_empty() || tag.is_some_and(str::is_empty) {
        return Err(refuse(text, PATH_RULE));
    }
    Ok((path.into(), tag.map(str::to_owned)))
}

fn reference(name: &str, text: &str) -> Result<ImageReference> {
    name.parse().map_err(|error: Error| {
        // What names the whole location needs no more; a wrong digest names itself alone.
        if name == text && error.context("reference").is_some() {
            error
        } else {
            in_location(error, text)
        }
    })
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
        let (scheme, path, tag) = match self {
            Self::Registry(name) => return name.fmt(f),
            Self::Containerd(name) => return write!(f, "containerd:{name}"),
            Self::Layout { dir, tag } => ("oci", dir, tag.clone()),
            Self::OciArchive { file, tag } => ("oci-archive", file, tag.clone()),
            Self::DockerArchive { file, name } => {
                ("docker-archive", file, name.as_ref().map(ToString::to_string))
            }
        };
        write!(f, "{scheme}:{}", path.display())?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
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
                "oci-archive:/a.tar:v1",
                Location::OciArchive { file: "/a.tar".into(), tag: Some("v1".into()) },
            ),
            ("docker-archive:a.tar", Location::DockerArchive { file: "a.tar".into(), name: None }),
            (
                "docker-archive:/a.tar:lan:5000/b:1",
                Location::DockerArchive {
                    file: "/a.tar".into(),
                    name: Some("lan:5000/b:1".parse().expect("reference")),
                },
            ),
            (
                "containerd:localhost/a:b",
                Location::Containerd("localhost/a:b".parse().expect("reference")),
            ),
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
            ("oci-archive:", ErrorKind::Malformed),
            ("docker-archive:", ErrorKind::Malformed),
            ("docker-archive:a.tar:B", ErrorKind::Malformed),
            ("containerd:", ErrorKind::Malformed),
        ] {
            let error = text.parse::<Location>().expect_err(text);
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
