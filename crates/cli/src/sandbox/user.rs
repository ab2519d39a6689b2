//! Who a program runs as, by the word of its image.
use anyhow::{Context as _, Result};

/// The ids that a program runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Other groups that the user is a member of.
    pub(crate) groups: Vec<u32>,
}

/// The ids of `user[:group]`, each a name or a number; root if empty. `passwd` and `group` are the
/// texts of the image's own files.
pub(crate) fn find_user(text: &str, passwd: &str, group: &str) -> Result<User> {
    find(text, passwd, group).with_context(|| format!("the image has no user {text:?}"))
}

fn find(text: &str, passwd: &str, group: &str) -> Option<User> {
    let (user, wanted) =
        text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let entry = fields(passwd).find(|fields| fields[0] == user || fields.get(2) == Some(&user));
    let field = |at: usize| entry.as_ref()?.get(at)?.parse::<u32>().ok();
    let uid = field(2).or_else(|| user.parse().ok())?;
    let gid = match wanted {
        None => field(3).unwrap_or(0),
        Some(name) => fields(group)
            .find(|fields| fields[0] == name)
            .and_then(|fields| fields.get(2)?.parse().ok())
            .or_else(|| name.parse().ok())?,
    };
    let name = entry.as_ref().map(|fields| fields[0]);
    let is_member = |fields: &Vec<&str>| {
        fields.get(3).is_some_and(|members| members.split(',').any(|member| Some(member) == name))
    };
    let groups = fields(group).filter(is_member).filter_map(|fields| fields.get(2)?.parse().ok());
    Some(User { uid, gid, groups: groups.filter(|group| *group != gid).collect() })
}

/// The entries of a file, none of them empty.
fn fields(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.trim_end().split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        let passwd = "root:x:0:0:::\nweb:x:33:34:::\n";
        let group = "root:x:0:\nstaff:x:50:web\nssl:x:60:root,web\nweb:x:34:web\n";
        let user = |uid, gid, groups: &[u32]| Some(User { uid, gid, groups: groups.to_vec() });
        for (text, expected) in [
            ("", user(0, 0, &[60])),
            ("root", user(0, 0, &[60])),
            ("web", user(33, 34, &[50, 60])),
            ("33", user(33, 34, &[50, 60])),
            ("web:staff", user(33, 50, &[60, 34])),
            ("1000", user(1000, 0, &[])),
            ("1000:7", user(1000, 7, &[])),
            (":staff", user(0, 50, &[60])),
            ("nobody", None),
            ("web:none", None),
        ] {
            assert_eq!(find(text, passwd, group), expected, "{text}");
        }
        assert_eq!(find("", "", ""), user(0, 0, &[]), "an image without files");
    }
}
