//! Sizes as a person writes them: `65536`, `64KiB`, `4MiB`.
use anyhow::{Context as _, Result, ensure};

const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

/// Parses a size of at least one byte.
pub(crate) fn parse(text: &str) -> Result<u64> {
    let unit = UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1));
    let size = digits
        .trim_end()
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(factor))
        .context("a size is a whole number, alone or with B, KiB, MiB or GiB")?;
    ensure!(size > 0, "a size must be at least one byte");
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        for (text, size) in [("1", 1), ("7B", 7), ("64KiB", 65_536), ("4 MiB", 4 << 20)] {
            assert_eq!(parse(text).expect(text), size);
        }
        for text in ["", "0", "0MiB", "-1", "4MB", "1.5MiB", "MiB", "18446744073709551615KiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
