//! Listings of directories that are open.
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use crate::tree::TreeEntry;

pub(super) type Listing = Arc<Vec<TreeEntry>>;

/// One listing of each directory that is open, however often it is: a container that opens a large
/// directory a thousand times must not cost the daemon a thousand listings.
#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// By handle, with the directory.
    handles: HashMap<u64, (u64, Listing)>,
    directories: HashMap<u64, Weak<Vec<TreeEntry>>>,
    last_handle: u64,
}

impl Listings {
    /// Opens a directory; `list` makes its listing where nobody has it open.
    pub(super) fn open<E>(
        &self,
        directory: u64,
        list: impl FnOnce() -> Result<Vec<TreeEntry>, E>,
    ) -> Result<u64, E> {
        let known = self.0.lock().directories.get(&directory).and_then(Weak::upgrade);
        // Not under the lock: two that are made at once are no harm.
        let listing = known.map_or_else(|| list().map(Arc::new), Ok)?;
        let mut open = self.0.lock();
        open.last_handle += 1;
        let handle = open.last_handle;
        open.directories.insert(directory, Arc::downgrade(&listing));
        open.handles.insert(handle, (directory, listing));
        Ok(handle)
    }

    /// The listing behind a handle.
    pub(super) fn get(&self, handle: u64) -> Option<Listing> {
        self.0.lock().handles.get(&handle).map(|(_, listing)| Arc::clone(listing))
    }

    /// Closes a handle.
    pub(super) fn close(&self, handle: u64) {
        let mut open = self.0.lock();
        let Some((directory, listing)) = open.handles.remove(&handle) else { return };
        drop(listing);
        if open.directories.get(&directory).is_some_and(|listing| listing.strong_count() == 0) {
            open.directories.remove(&directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::TreeNode;

    #[allow(clippy::unnecessary_wraps, reason = "in the place of a listing that can fail")]
    fn list() -> Result<Vec<TreeEntry>, i32> {
        Ok(vec![TreeEntry { name: "name".into(), node: TreeNode::StateDir }])
    }

    #[test]
    fn a_directory_is_listed_once_while_it_is_open() {
        let listings = Listings::default();
        let first = listings.open(7, list).expect("listed");
        let second = listings.open(7, || Err(5)).expect("known");
        assert_ne!(first, second);
        let (one, two) = (listings.get(first).expect("open"), listings.get(second).expect("open"));
        assert!(Arc::ptr_eq(&one, &two));
        drop((one, two));
        listings.close(first);
        assert!(listings.get(first).is_none() && listings.get(second).is_some());
        listings.close(second);
        assert!(listings.0.lock().directories.is_empty(), "nothing is kept of what is closed");
        assert_eq!(listings.open(7, || Err(5)), Err(5));
        listings.close(99);
    }
}
