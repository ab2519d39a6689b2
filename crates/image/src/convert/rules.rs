//! What goes together in a conversion, and what does not.
use bolide_core::{Error, ErrorKind, Result};
use bolide_estargz::BlobFormat;

use super::{ConvertOptions, Platforms, TOC_IMAGE_SUFFIX};
use crate::Location;

/// Longest tag of a registry, in bytes.
const MAX_TAG: usize = 128;

impl ConvertOptions {
    /// `Config`, with the rule, when these options do not go together, or not with `dst`.
    pub fn check(&self, dst: &Location) -> Result<()> {
        let format = self.layer.format;
        if self.docker && format.is_zstd() {
            return Err(rule("Docker's media types know no zstd; write OCI's"));
        }
        let highest = if format.is_zstd() { 22 } else { 9 };
        let lowest = u32::from(format.is_zstd());
        if self.layer.level.is_some_and(|level| !(lowest..=highest).contains(&level)) {
            return Err(rule("a level of gzip is 0 to 9, of zstd 1 to 22"));
        }
        if self.layer.chunk_size == 0 {
            return Err(rule("a chunk has at least one byte"));
        }
        if self.layer.min_chunk_size > 0 && !format.is_lazy() {
            return Err(rule("only a lazy format has chunks to pack"));
        }
        if self.layer.keep_diff_id {
            if format == BlobFormat::Estargz {
                return Err(rule(
                    "the TOC of eStargz is part of its tar, so the diffID cannot stay; choose \
                     estargz-external-toc or zstd-chunked",
                ));
            }
            if self.layer.latest_mtime.is_some() {
                return Err(rule("a diffID cannot stay when times in the tar are changed"));
            }
        }
        if self.reuse && format == BlobFormat::EstargzExternalToc {
            return Err(rule("a layer whose TOC is elsewhere cannot be reused"));
        }
        if !self.prioritized.is_empty() {
            self.check_prioritizing()?;
        }
        self.check_destination(dst)
    }

    /// `Config`, with the rule, when no file can come first with these options.
    pub fn check_prioritizing(&self) -> Result<()> {
        if !self.layer.format.is_lazy() {
            return Err(rule("only in a lazy format can files come first"));
        }
        if self.layer.keep_diff_id {
            return Err(rule("a diffID cannot stay when files change their places"));
        }
        Ok(())
    }

    fn check_destination(&self, dst: &Location) -> Result<()> {
        let rule = |text| Err(rule(text).with_context("destination", dst));
        let format = self.layer.format;
        if let Location::DockerArchive { .. } = dst {
            if format.is_lazy() {
                return rule(
                    "an archive of Docker has no room for the annotations that a lazy layer needs; \
                     choose tar-gzip, or write an oci-archive",
                );
            }
            if !matches!(self.platforms, Platforms::One(_)) {
                return rule("an archive of Docker holds images of one platform; choose one");
            }
        }
        let has_room = |tag: &str| tag.len() + TOC_IMAGE_SUFFIX.len() <= MAX_TAG;
        if format == BlobFormat::EstargzExternalToc && !dst.tag().is_some_and(has_room) {
            return rule(
                "the image of the TOCs is named TAG-esgztoc, so the destination needs a tag with \
                 room for that",
            );
        }
        Ok(())
    }
}

fn rule(text: &'static str) -> Error {
    Error::new(ErrorKind::Config, "convert::options", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PathList, Prioritized};

    fn options(format: BlobFormat) -> ConvertOptions {
        let mut options = ConvertOptions::default();
        options.layer.format = format;
        options
    }

    #[test]
    fn what_does_not_go_together_says_why() {
        let first: PathList = ["a".to_owned()].into_iter().collect();
        let first = Prioritized::everywhere(first);
        let of = |format, change: &dyn Fn(&mut ConvertOptions)| {
            let mut options = options(format);
            change(&mut options);
            options
        };
        let layout = "oci:dir:tag";
        for (options, dst, word) in [
            (of(BlobFormat::ZstdChunked, &|o| o.docker = true), layout, "OCI"),
            (of(BlobFormat::Estargz, &|o| o.layer.level = Some(10)), layout, "0 to 9"),
            (of(BlobFormat::TarZstd, &|o| o.layer.level = Some(0)), layout, "1 to 22"),
            (of(BlobFormat::Estargz, &|o| o.layer.keep_diff_id = true), layout, "external"),
            (of(BlobFormat::EstargzExternalToc, &|o| o.reuse = true), layout, "reused"),
            (of(BlobFormat::TarGzip, &|o| o.layer.min_chunk_size = 1), layout, "lazy"),
            (of(BlobFormat::TarGzip, &|o| o.prioritized = first.clone()), layout, "come first"),
            (
                of(BlobFormat::ZstdChunked, &|o| {
                    o.layer.keep_diff_id = true;
                    o.prioritized = first.clone();
                }),
                layout,
                "places",
            ),
            (options(BlobFormat::EstargzExternalToc), "oci:dir", "tag"),
            (options(BlobFormat::Estargz), "docker-archive:x.tar", "annotations"),
            (
                of(BlobFormat::TarGzip, &|o| o.platforms = Platforms::All),
                "docker-archive:x.tar",
                "one platform",
            ),
        ] {
            let error = options.check(&dst.parse().expect(dst)).expect_err(word);
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        for (format, dst) in [
            (BlobFormat::Estargz, "oci-archive:x.tar"),
            (BlobFormat::TarZstd, "docker-archive:x.tar"),
            (BlobFormat::EstargzExternalToc, "lan/a"),
        ] {
            options(format).check(&dst.parse().expect(dst)).expect(dst);
        }
    }
}
