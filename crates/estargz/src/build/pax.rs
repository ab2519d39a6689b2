//! PAX extended headers (POSIX.1-2001 pax): records, and what those of a layer say.
use std::collections::BTreeMap;

use bolide_core::{Result, Timestamp};

use super::tar_reader::{TarEntry, refuse};

/// Extended attributes, as star and GNU tar name them.
const XATTR: &str = "SCHILY.xattr.";

/// Records by their keys.
pub(super) type Records = BTreeMap<String, Vec<u8>>;

/// Reads the records of one extended header into `records`; the later of two counts.
pub(super) fn read(mut payload: &[u8], records: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    while !payload.is_empty() {
        let (key, value);
        (key, value, payload) = record(payload)?;
        records.push((key.to_owned(), value.to_vec()));
    }
    Ok(())
}

/// Splits `length key=value\n` off: key, value, rest. The length counts the whole record, so that a
/// value may hold any byte; `tar::PaxExtensions` splits at line ends and loses binary xattrs.
fn record(records: &[u8]) -> Result<(&str, &[u8], &[u8])> {
    let malformed = || refuse("a PAX record must be \"length key=value\" and a line end");
    let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let len: usize = str::from_utf8(&records[..space])
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(malformed)?;
    let (record, rest) = records.split_at_checked(len).ok_or_else(malformed)?;
    let body =
        record.get(space + 1..).and_then(|body| body.strip_suffix(b"\n")).ok_or_else(malformed)?;
    let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
    let key = str::from_utf8(&body[..equals]).map_err(|_| refuse("a PAX key must be UTF-8"))?;
    Ok((key, &body[equals + 1..], rest))
}

/// Writes one record; its length counts its own digits.
pub(super) fn write(key: &str, value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(format!("{len} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Lets the records speak for an entry; keys that no layer needs are passed over.
pub(super) fn apply(entry: &mut TarEntry, records: &Records) -> Result<()> {
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(XATTR) {
            entry.xattrs.push((name.to_owned(), value.clone()));
        } else if !value.is_empty() {
            // An empty value takes an earlier record away: what the header itself says counts.
            field(entry, key, value)?;
        }
    }
    Ok(())
}

fn field(entry: &mut TarEntry, key: &str, value: &[u8]) -> Result<()> {
    let text = || str::from_utf8(value).map_err(|_| refuse("a PAX number must be text"));
    match key {
        "path" => entry.name = value.to_vec(),
        "linkpath" => entry.link = value.to_vec(),
        "size" => entry.size = decimal(value)?,
        "uid" => entry.uid = decimal(value)?,
        "gid" => entry.gid = decimal(value)?,
        "uname" => entry.user = value.to_vec(),
        "gname" => entry.group = value.to_vec(),
        "mtime" => {
            entry.exact_mtime = time(text()?)?;
            entry.mtime = rounded(text()?)?;
        }
        "atime" => entry.atime = Some(time(text()?)?),
        "ctime" => entry.ctime = Some(time(text()?)?),
        _ => {}
    }
    Ok(())
}

/// A decimal number of a record.
pub(super) fn decimal(value: &[u8]) -> Result<u64> {
    let number = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| refuse("a PAX number must be decimal"))
}

/// Rounds `[-]seconds[.fraction]` to whole seconds, as the reference does.
fn rounded(text: &str) -> Result<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let parsed: i64 = whole.parse().map_err(|_| not_a_time())?;
    let up = fraction.as_bytes().first().is_some_and(|digit| *digit >= b'5');
    let step = if text.starts_with('-') { -1 } else { 1 };
    Ok(if up { parsed.saturating_add(step) } else { parsed })
}

/// The instant `[-]seconds[.fraction]`, digits beyond nanoseconds cut off.
fn time(text: &str) -> Result<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| not_a_time())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(not_a_time());
    }
    let digits = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction));
    let nanos: u32 = digits.parse().map_err(|_| not_a_time())?;
    if text.starts_with('-') && nanos > 0 {
        return Ok(Timestamp { seconds: seconds.saturating_sub(1), nanos: 1_000_000_000 - nanos });
    }
    Ok(Timestamp { seconds, nanos })
}

fn not_a_time() -> bolide_core::Error {
    refuse("a PAX time must be decimal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_at_every_length() {
        for len in 0..1100 {
            let mut out = Vec::new();
            write("k", &vec![b'\n'; len], &mut out);
            let mut records = Vec::new();
            read(&out, &mut records).expect("reads");
            assert_eq!(records, [("k".to_owned(), vec![b'\n'; len])]);
        }
    }

    #[test]
    fn times_have_a_fraction_or_none() {
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        for (text, exact, whole) in [
            ("7", at(7, 0), 7),
            ("7.5", at(7, 500_000_000), 8),
            ("7.0000000009", at(7, 0), 7),
            ("-1.25", at(-2, 750_000_000), -1),
            ("-0.5", at(-1, 500_000_000), -1),
        ] {
            assert_eq!((time(text).expect(text), rounded(text).expect(text)), (exact, whole));
        }
        for text in ["", ".5", "1.x", "1e3", "x"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
