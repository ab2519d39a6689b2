//! Sizes and durations as people write them: `8MiB`, `30s`.
use std::time::Duration;

use serde::{Deserialize as _, Deserializer, de::Error as _};

const SIZES: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("TB", 1000 * 1000 * 1000 * 1000),
    ("B", 1),
];

/// Longer units come first, so that `ms` is not read as `s`.
const DURATIONS: [(&str, u64); 4] =
    [("ms", 1), ("s", 1000), ("m", 60 * 1000), ("h", 60 * 60 * 1000)];

/// Bytes of `"8MiB"`; a bare `0` needs no unit.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// The duration of `"30s"`; a bare `0` needs no unit.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS).map(Duration::from_millis)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (number, scale) =
        units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    let number = number.trim_end_matches(' ');
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// The shortest exact spelling of a size.
pub(super) fn show_size(bytes: u64) -> String {
    let exact =
        SIZES[..4].iter().rev().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    exact.map_or_else(|| format!("{bytes}B"), |(unit, scale)| format!("{}{unit}", bytes / scale))
}

/// The shortest exact spelling of a duration, to the millisecond.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exact = DURATIONS.iter().rev().find(|(_, scale)| millis > 0 && millis % scale == 0);
    exact.map_or_else(|| format!("{millis}ms"), |(unit, scale)| format!("{}{unit}", millis / scale))
}

pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_size(&text).ok_or_else(|| {
        D::Error::custom(format!("{text:?} is no size: write a whole number and a unit, \"8MiB\""))
    })
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is no duration: write a whole number and a unit, \"30s\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("7B", 7), ("8MiB", 8 << 20), ("2 kB", 2000), ("3GB", 3_000_000_000)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes), "{text}");
        }
        for text in ["", "8", "MiB", "-1B", "+1B", "1.5MiB", "8mib", "99999999999TiB", "8 M iB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("0", 0), ("250ms", 250), ("30s", 30_000), ("5m", 300_000)] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Some(duration), "{text}");
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1d", "1s30"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
