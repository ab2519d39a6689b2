//! Whether this process is in a user namespace, where overlayfs needs `user.` attributes.
use std::{fs, path::Path};

/// Whether ids of this process are mapped. Where that cannot be told, they are not.
#[must_use]
pub fn inside() -> bool {
    fs::read_to_string(Path::new("/proc/self/uid_map")).is_ok_and(|map| is_mapped(&map))
}

/// The initial namespace maps every id to itself, in one line.
fn is_mapped(map: &str) -> bool {
    let mut lines = map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    match (lines.next().as_deref(), lines.next()) {
        (Some([inside, outside, count]), None) => {
            (*inside, *outside, *count) != ("0", "0", "4294967295")
        }
        (first, _) => first.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_identity_is_no_mapping() {
        assert!(!is_mapped("         0          0 4294967295\n"));
        assert!(is_mapped("         0       1000          1\n"));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n"));
        // A namespace that nobody mapped yet shows an empty table; its ids are of no use either.
        assert!(!is_mapped(""));
    }
}
