//! Writes tar headers: of what the format adds, and of entries that cannot stay as they stood.
use bolide_core::Result;

use super::{
    pax,
    tar_reader::{BLOCK, TarEntry, broken, padding},
};

/// Largest number that seven octal digits hold.
const MAX_SHORT: u64 = 0o7_777_777;
/// Largest number that eleven octal digits hold.
const MAX_LONG: u64 = 0o77_777_777_777;
/// Records that the fields of [`TarEntry`] say, so that those of the old header are void.
const FIELDS: [&str; 8] = ["path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime"];

/// The header of a file that the format adds: owned by root, of 1970, readable by nobody.
pub(super) fn plain(name: &str, size: u64) -> Result<Vec<u8>> {
    let entry =
        TarEntry { name: name.as_bytes().to_vec(), kind: b'0', size, ..TarEntry::default() };
    fresh(&entry)
}

/// Replaces the headers of an entry by fresh ones, and what those do not say.
pub(super) fn renew(entry: &mut TarEntry) -> Result<()> {
    entry.mode &= 0o7777;
    for (key, time) in [("atime", &mut entry.atime), ("ctime", &mut entry.ctime)] {
        // Only a header of old GNU tar said it.
        *time = time.filter(|_| entry.records.contains_key(key));
    }
    entry.raw = fresh(entry)?;
    Ok(())
}

/// Header blocks that say what `entry` does, whatever its own said and whatever global headers
/// stand before it: a PAX header where USTAR has no room, and a USTAR header.
pub(super) fn fresh(entry: &TarEntry) -> Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut say = |key: &str, needed: bool, value: &[u8]| {
        // Where a global header may say otherwise, the entry's own record must.
        if needed || (entry.has_globals && entry.records.contains_key(key)) {
            pax::write(key, value, &mut records);
        }
    };
    let (seconds, nanos) = (entry.exact_mtime.seconds, entry.exact_mtime.nanos);
    let early = u64::try_from(seconds).unwrap_or(u64::MAX);
    let number = |number: u64| number.to_string().into_bytes();
    say("gid", entry.gid > MAX_SHORT, &number(entry.gid));
    say("gname", entry.group.len() > 31, &entry.group);
    say("linkpath", entry.link.len() > 100, &entry.link);
    say("mtime", early > MAX_LONG || nanos > 0, &time(seconds, nanos));
    say("path", entry.name.len() > 100, &entry.name);
    say("size", entry.size > MAX_LONG, &number(entry.size));
    say("uid", entry.uid > MAX_SHORT, &number(entry.uid));
    say("uname", entry.user.len() > 31, &entry.user);
    for (key, value) in &entry.records {
        if !FIELDS.contains(&&**key) && !key.starts_with("GNU.sparse.") {
            pax::write(key, value, &mut records);
        }
    }
    let mut out = Vec::new();
    if !records.is_empty() {
        let size = records.len() as u64;
        let mut header = tar::Header::new_ustar();
        put(&mut header.as_old_mut().name, b"PaxHeaders/entry");
        header.set_mode(0o644);
        header.set_size(size);
        header.set_entry_type(tar::EntryType::XHeader);
        numbers(&mut header, &TarEntry::default())?;
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&records);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.extend_from_slice(ustar(entry)?.as_bytes());
    Ok(out)
}

fn ustar(entry: &TarEntry) -> Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    put(&mut header.as_old_mut().name, &entry.name);
    put(&mut header.as_old_mut().linkname, &entry.link);
    if let Some(ustar) = header.as_ustar_mut() {
        put(&mut ustar.uname[..31], &entry.user);
        put(&mut ustar.gname[..31], &entry.group);
    }
    header.set_entry_type(tar::EntryType::new(entry.kind));
    header.set_mode(entry.mode & 0o7777);
    header.set_size(if entry.size > MAX_LONG { 0 } else { entry.size });
    numbers(&mut header, entry)?;
    header.set_cksum();
    Ok(header)
}

/// Numbers that a record says are 0 here.
fn numbers(header: &mut tar::Header, entry: &TarEntry) -> Result<()> {
    let within = |number: u64, most: u64| if number > most { 0 } else { number };
    let seconds = u64::try_from(entry.exact_mtime.seconds).unwrap_or(0);
    header.set_uid(within(entry.uid, MAX_SHORT));
    header.set_gid(within(entry.gid, MAX_SHORT));
    header.set_mtime(within(seconds, MAX_LONG));
    header.set_device_major(entry.dev_major).map_err(broken)?;
    header.set_device_minor(entry.dev_minor).map_err(broken)
}

/// Fills a field with as much of a text as it holds.
fn put(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// `seconds[.fraction]`, a negative time written as the number it is.
fn time(seconds: i64, nanos: u32) -> Vec<u8> {
    let all = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (whole, rest) = (all.unsigned_abs() / 1_000_000_000, all.unsigned_abs() % 1_000_000_000);
    let sign = if all < 0 { "-" } else { "" };
    let text =
        if rest == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{rest:09}") };
    text.into_bytes()
}

/// Two blocks of zeros, which end a tar.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Zeros that fill a payload of `size` bytes up to whole blocks.
pub(super) fn zero_padding(size: u64) -> &'static [u8] {
    // Less than a block.
    &END[..usize::try_from(padding(size)).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use bolide_core::Timestamp;

    use super::{
        super::tar_reader::{Item, TarReader},
        *,
    };

    fn read(raw: &[u8]) -> TarEntry {
        let Ok(Item::Entry(entry)) = TarReader::default().next(&mut &raw[..]) else {
            panic!("no entry")
        };
        *entry
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut entry = TarEntry {
            name: vec![b'n'; 300],
            link: b"\xff/target".to_vec(),
            kind: b'2',
            mode: 0o7654,
            uid: u64::from(u32::MAX),
            gid: 7,
            mtime: -2,
            exact_mtime: Timestamp { seconds: -2, nanos: 250_000_000 },
            dev_major: 3,
            user: vec![b'u'; 40],
            group: b"group".to_vec(),
            xattrs: vec![("user.x".to_owned(), b"\n\xff\0".to_vec())],
            ..TarEntry::default()
        };
        entry.records.insert("SCHILY.xattr.user.x".to_owned(), b"\n\xff\0".to_vec());
        let mut found = read(&fresh(&entry).expect("writes"));
        (found.raw, found.records) = (Vec::new(), entry.records.clone());
        assert_eq!(format!("{found:?}"), format!("{entry:?}"));
    }

    #[test]
    fn what_fits_has_no_extension() {
        assert_eq!(plain("stargz.index.json", 1 << 30).expect("writes").len(), BLOCK);
    }
}
