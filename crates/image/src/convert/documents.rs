//! The documents of a converted image: configuration, manifest and index.
use bolide_core::{Error, ErrorKind, Result};
use bolide_estargz::format::{ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE};
use prost_types::Timestamp;
use serde_json::{Map, Value};

use super::{Conversion, ConvertedLayer, Index, Listed};
use crate::{
    ImageSource,
    manifest::{self, Descriptor, media_type},
};

impl<P> Conversion<'_, P> {
    /// Configuration, the manifest's name and the manifest of an image with these layers.
    pub(super) fn documents(
        &self,
        image: &ImageSource,
        layers: &[&ConvertedLayer],
    ) -> Result<(Vec<u8>, Descriptor, Vec<u8>)> {
        let mut config = image.config().clone();
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        if let Some(epoch) = self.options.layer.latest_mtime {
            set_times(&mut config.other, epoch)?;
        }
        let config = manifest::to_bytes(&config)?;

        let mut manifest = image.manifest().clone();
        let docker = self.options.docker && manifest.config.media_type == media_type::DOCKER_CONFIG;
        let config_type = if docker { media_type::DOCKER_CONFIG } else { media_type::OCI_CONFIG };
        let named = Descriptor::of(config_type, &config);
        manifest.config = Descriptor {
            media_type: named.media_type,
            digest: named.digest,
            size: named.size,
            ..manifest.config
        };
        // A configuration that lies in its descriptor is the source's.
        manifest.config.other.remove("data");
        let layer_type = match (self.options.layer.format.is_zstd(), docker) {
            (true, _) => media_type::OCI_LAYER_ZSTD,
            (false, false) => media_type::OCI_LAYER_GZIP,
            (false, true) => media_type::DOCKER_LAYER_GZIP,
        };
        for (name, layer) in manifest.layers.iter_mut().zip(layers) {
            rewrite(name, layer, layer_type);
        }
        let media_type =
            if docker { media_type::DOCKER_MANIFEST } else { media_type::OCI_MANIFEST };
        manifest.media_type = Some(media_type.to_owned());
        let document = manifest::to_bytes(&manifest)?;
        Ok((config, Descriptor::of(media_type, &document), document))
    }

    /// The index of these manifests, in the place of `root`.
    pub(super) fn index(
        &self,
        (name, root): &(Descriptor, Index),
        manifests: Vec<Descriptor>,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let docker = self.options.docker && name.media_type == media_type::DOCKER_LIST;
        let media_type = if docker { media_type::DOCKER_LIST } else { media_type::OCI_INDEX };
        let index = Index { manifests, media_type: Some(media_type.to_owned()), ..root.clone() };
        let document = manifest::to_bytes(&index)?;
        Ok((Descriptor::of(media_type, &document), document))
    }
}

/// How an index lists a new manifest: as the source's, but for what names the bytes.
pub(super) fn entry(listed: &Listed, name: &Descriptor) -> Descriptor {
    let mut entry = listed.entry.clone();
    if entry.digest != name.digest {
        entry.other.remove("urls");
        entry.other.remove("data");
    }
    entry.media_type.clone_from(&name.media_type);
    (entry.digest, entry.size) = (name.digest, name.size);
    entry
}

/// Makes the source's descriptor describe the new blob.
fn rewrite(name: &mut Descriptor, layer: &ConvertedLayer, media_type: &str) {
    media_type.clone_into(&mut name.media_type);
    name.digest = layer.digest;
    name.size = layer.size;
    let Some(annotations) = &layer.annotations else { return };
    // These speak of the bytes of the source: where to get them, and where its table lies.
    name.other.remove("urls");
    name.other.remove("data");
    let of_source = [ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE];
    name.annotations
        .retain(|key, _| !key.contains(".zstd-chunked.") && !of_source.contains(&key.as_str()));
    name.annotations.extend(annotations.clone());
}

/// As builders do with `SOURCE_DATE_EPOCH`: the image was created then, and no step of its history
/// later, or at a time that is not told.
fn set_times(config: &mut Map<String, Value>, epoch: i64) -> Result<()> {
    let latest = Timestamp { seconds: epoch, nanos: 0 };
    let text = Value::String(latest.to_string());
    let after = |time: Option<&Value>| -> Result<bool> {
        let Some(time) = time.filter(|time| !time.is_null()) else { return Ok(true) };
        let time: Option<Timestamp> = time.as_str().and_then(|time| time.parse().ok());
        let time = time.ok_or_else(|| {
            let rule = "a time in a configuration is written as in RFC 3339";
            Error::new(ErrorKind::Malformed, "convert::config", rule)
        })?;
        Ok((time.seconds, time.nanos) > (epoch, 0))
    };
    if let Some(Value::Array(steps)) = config.get_mut("history") {
        for step in steps.iter_mut().filter_map(Value::as_object_mut) {
            if after(step.get("created"))? {
                step.insert("created".to_owned(), text.clone());
            }
        }
    }
    config.insert("created".to_owned(), text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_time_of_a_configuration_is_later_than_the_epoch() {
        let config = json!({"created": "1971-01-01T00:00:00Z", "history": [
            {"created": "1970-01-01T00:01:00.5Z"},
            {"created": "2024-05-01T12:00:00.123456789+02:00"},
            {"created_by": "RUN"}, {"created": null},
        ]});
        let Value::Object(mut config) = config else { unreachable!() };
        set_times(&mut config, 100).expect("times");
        let then = "1970-01-01T00:01:40Z";
        assert_eq!(
            Value::Object(config),
            json!({"created": then, "history": [
                {"created": "1970-01-01T00:01:00.5Z"}, {"created": then},
                {"created_by": "RUN", "created": then}, {"created": then},
            ]})
        );
        let mut broken = Map::from_iter([("history".to_owned(), json!([{"created": "now"}]))]);
        assert_eq!(set_times(&mut broken, 0).expect_err("now").kind(), ErrorKind::Malformed);
    }
}
