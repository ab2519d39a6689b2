//! Who a program runs as, by the word of its image.
use std::fs;

use anyhow::{Context as _, Result};

/// The ids of `user[:group]`, each a name of the image's own files or a number; `None` for root.
/// To be called inside of the image.
pub(super) fn find(text: &str) -> Result<Option<(u32, u32)>> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let found = ids(text, &read("/etc/passwd"), &read("/etc/group"));
    let (uid, gid) = found.with_context(|| format!("the image has no user {text:?}"))?;
    Ok((uid != 0 || gid != 0).then_some((uid, gid)))
}

fn ids(text: &str, passwd: &str, group: &str) -> Option<(u32, u32)> {
    let (user, wanted) =
        text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if user.is_empty() {
        return Some((0, 0));
    }
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&user) || fields.get(2) == Some(&user));
    let field = |at: usize| entry.as_ref()?.get(at)?.parse::<u32>().ok();
    let uid = field(2).or_else(|| user.parse().ok())?;
    let gid = match wanted {
        None => field(3).unwrap_or(0),
        Some(name) => group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name))
            .and_then(|fields| fields.get(2)?.parse().ok())
            .or_else(|| name.parse().ok())?,
    };
    Some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        let passwd = "root:x:0:0:::\nweb:x:33:34:::\n";
        let group = "root:x:0:\nstaff:x:50:\n";
        for (text, expected) in [
            ("", Some((0, 0))),
            ("root", Some((0, 0))),
            ("web", Some((33, 34))),
            ("33", Some((33, 34))),
            ("web:staff", Some((33, 50))),
            ("1000", Some((1000, 0))),
            ("1000:7", Some((1000, 7))),
            ("nobody", None),
            ("web:none", None),
        ] {
            assert_eq!(ids(text, passwd, group), expected, "{text}");
        }
    }
}
