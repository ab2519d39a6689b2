//! Names of nodes in one allocation.
use bolide_core::{Error, ErrorKind, Result};

/// Where a name lies: six bytes in place of a string's 24 and its allocation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Name {
    start: u32,
    len: u8,
}

/// The bytes of all names, one after another.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<u8>);

impl Names {
    /// Keeps a name of at most 255 bytes.
    pub(super) fn push(&mut self, name: &[u8]) -> Result<Name> {
        let start = u32::try_from(self.0.len()).ok();
        let (Some(start), Ok(len)) = (start, u8::try_from(name.len())) else {
            return Err(Error::new(
                ErrorKind::Malformed,
                "names::push",
                "a name may have 255 bytes, all names of a layer 4 GiB",
            ));
        };
        self.0.extend_from_slice(name);
        Ok(Name { start, len })
    }

    pub(super) fn get(&self, name: Name) -> &[u8] {
        let start = name.start as usize;
        self.0.get(start..start + usize::from(name.len)).unwrap_or_default()
    }

    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}
