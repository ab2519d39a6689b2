//! Links as a person writes them: `100Mbit`, `20ms`.
use std::{num::NonZeroU64, time::Duration};

use anyhow::{Context as _, Result, ensure};

const BANDWIDTHS: [(&str, u64); 4] =
    [("kbit", 1000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000), ("bit", 1)];
/// Longer units come first, so that `ms` is not read as `s`.
const TIMES: [(&str, u64); 2] = [("ms", 1), ("s", 1000)];
const LONGEST_RTT: Duration = Duration::from_secs(10);

/// Bits per second.
pub(super) fn bandwidth(text: &str) -> Result<NonZeroU64> {
    scaled(text, &BANDWIDTHS)
        .and_then(NonZeroU64::new)
        .context("a bandwidth is a whole number above 0 and bit, kbit, Mbit or Gbit: 100Mbit")
}

/// A round-trip time.
pub(super) fn rtt(text: &str) -> Result<Duration> {
    let millis = scaled(text, &TIMES).context("a time is a whole number and ms or s: 20ms")?;
    let rtt = Duration::from_millis(millis);
    ensure!(rtt <= LONGEST_RTT, "a round trip may take 10s at most");
    Ok(rtt)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, scale) =
        units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    let digits = digits.trim_end();
    // `parse` alone would take a sign.
    let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole.then(|| digits.parse::<u64>().ok()?.checked_mul(*scale)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read() {
        for (text, bits) in [("100Mbit", 100_000_000), ("1 Gbit", 1_000_000_000), ("7bit", 7)] {
            assert_eq!(bandwidth(text).expect(text).get(), bits);
        }
        for text in ["", "100", "0Mbit", "-1Mbit", "+1Mbit", "1.5Mbit", "99999999999999Gbit"] {
            assert!(bandwidth(text).is_err(), "{text}");
        }
        assert_eq!(rtt("20ms").expect("time"), Duration::from_millis(20));
        assert_eq!(rtt("0ms").expect("time"), Duration::ZERO);
        for text in ["20", "ms", "1m", "11s", "-1ms"] {
            assert!(rtt(text).is_err(), "{text}");
        }
    }
}
