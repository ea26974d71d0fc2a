//! Where the keys of users stand in the tree: every stored key begins with a space byte, so that the engine's own rows, the
//! default keyspace and the named ones never meet.
//!
//! | stored key | what it is |
//! |---|---|
//! | `00 ...` | rows of the engine's own |
//! | `01 key` | a key of the default keyspace |
//! | `02 id key` | a key of a named keyspace; the id is a varint, so that no id is the beginning of another |

use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use sixfold_compute_core::rows::{DEFAULT_SPACE, INTERNAL_SPACE, NAMED_SPACE};
use sixfold_log_format::limits::{RESERVED_KEY_BYTES, USER_KEY_BYTES_MAX};

use crate::error::Error;
use crate::range::Bounds;

/// Longest key of the engine's own rows that the library writes, bytes.
const ENGINE_KEY_BYTES_MAX: usize = 160;
/// Space byte and a varint of 32 bits.
const PREFIX_BYTES_MAX: usize = 6;
/// Stored keys up to this length need no memory of their own for a lookup.
const SHORT_KEY_BYTES: usize = 128;

/// A keyspace as the directory knows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) id: u32,
}

/// A keyspace: how its users' keys become stored keys, and back. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    prefix: [u8; PREFIX_BYTES_MAX],
    prefix_len: usize,
    /// Longest key of users, bytes: less than usual on small pages.
    key_bytes_max: usize,
    named: Option<Arc<Named>>,
}

/// A stored key for a lookup, on the stack when it is short.
#[derive(Debug)]
pub(crate) struct StoredKey {
    short: [u8; SHORT_KEY_BYTES],
    short_len: usize,
    long: Vec<u8>,
}

impl Space {
    /// The default keyspace of a volume with pages of this size.
    pub(crate) fn default_of(page_bytes: usize) -> Space {
        let stored_max = sixfold_kv::key_bytes_max(page_bytes);
        let mut prefix = [0; PREFIX_BYTES_MAX];
        prefix[0] = DEFAULT_SPACE;
        Space {
            prefix,
            prefix_len: 1,
            key_bytes_max: USER_KEY_BYTES_MAX.min(stored_max - RESERVED_KEY_BYTES),
            named: None,
        }
    }

    /// The engine's own rows of the same volume.
    pub(crate) fn engine(&self) -> Space {
        let mut prefix = [0; PREFIX_BYTES_MAX];
        prefix[0] = INTERNAL_SPACE;
        Space {
            prefix,
            prefix_len: 1,
            key_bytes_max: ENGINE_KEY_BYTES_MAX.min(self.key_bytes_max + RESERVED_KEY_BYTES),
            named: None,
        }
    }

    /// A named keyspace of the same volume.
    pub(crate) fn named(&self, named: Arc<Named>) -> Space {
        let mut prefix = [0; PREFIX_BYTES_MAX];
        prefix[0] = NAMED_SPACE;
        let mut prefix_len = 1;
        let mut rest = named.id;
        loop {
            let [low, ..] = (rest & 0x7f).to_le_bytes();
            rest >>= 7;
            prefix[prefix_len] = if rest > 0 { low | 0x80 } else { low };
            prefix_len += 1;
            if rest == 0 {
                break;
            }
        }
        Space {
            prefix,
            prefix_len,
            key_bytes_max: self.key_bytes_max,
            named: Some(named),
        }
    }

    /// Which named keyspace this is, if it is one.
    pub(crate) fn keyspace(&self) -> Option<&Arc<Named>> {
        self.named.as_ref()
    }

    /// What all its stored keys begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix[..self.prefix_len]
    }

    /// The first stored key behind all of this keyspace.
    pub(crate) fn end(&self) -> Bytes {
        let mut end = self.prefix().to_vec();
        // Never 0xff: 1, 2 or the last byte of a varint.
        *end.last_mut().expect("a prefix is not empty") += 1;
        Bytes::from(end)
    }

    fn check(&self, key: &[u8]) -> Result<(), Error> {
        match key.len() {
            0 => Err(Error::invalid("the key is empty")),
            len if len > self.key_bytes_max => Err(Error::invalid(format!(
                "the key has {len} bytes, {} at most",
                self.key_bytes_max
            ))),
            _ => Ok(()),
        }
    }

    fn join(&self, key: &[u8]) -> Bytes {
        Bytes::from([self.prefix(), key].concat())
    }

    /// The stored key of a user's key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key.
    pub(crate) fn stored(&self, key: &[u8]) -> Result<Bytes, Error> {
        self.check(key)?;
        Ok(self.join(key))
    }

    /// The stored key of a user's key, for a lookup.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key.
    pub(crate) fn lookup_key(&self, key: &[u8]) -> Result<StoredKey, Error> {
        self.check(key)?;
        let len = self.prefix_len + key.len();
        let mut stored = StoredKey {
            short: [0; SHORT_KEY_BYTES],
            short_len: 0,
            long: Vec::new(),
        };
        if len <= SHORT_KEY_BYTES {
            stored.short[..self.prefix_len].copy_from_slice(self.prefix());
            stored.short[self.prefix_len..len].copy_from_slice(key);
            stored.short_len = len;
        } else {
            stored.long = [self.prefix(), key].concat();
        }
        Ok(stored)
    }

    /// The user's key of a stored key of this keyspace.
    pub(crate) fn user_key(&self, stored: &Bytes) -> Bytes {
        self.take_user_key(stored.clone())
    }

    /// The user's key of a stored key of this keyspace.
    pub(crate) fn take_user_key(&self, mut stored: Bytes) -> Bytes {
        debug_assert!(stored.starts_with(self.prefix()), "a key of another space");
        stored.advance(self.prefix_len);
        stored
    }

    /// The stored bounds of a user's range: always within this keyspace.
    pub(crate) fn stored_bounds(&self, (lower, upper): Bounds) -> Bounds {
        let lower = match lower {
            Bound::Unbounded => Bound::Included(self.join(&[])),
            Bound::Included(key) => Bound::Included(self.join(&key)),
            Bound::Excluded(key) => Bound::Excluded(self.join(&key)),
        };
        let upper = match upper {
            Bound::Unbounded => Bound::Excluded(self.end()),
            Bound::Included(key) => Bound::Included(self.join(&key)),
            Bound::Excluded(key) => Bound::Excluded(self.join(&key)),
        };
        (lower, upper)
    }

    /// The half-open stored range of a user's range; `None` when no key can lie in it. Overlong bounds are cut down to what
    /// splits the possible keys in the same way.
    pub(crate) fn stored_range(&self, (lower, upper): Bounds) -> Option<(Bytes, Bytes)> {
        let start = match lower {
            Bound::Unbounded => self.join(&[]),
            Bound::Included(key) => self.at(&key),
            Bound::Excluded(key) => self.behind(&key),
        };
        let end = match upper {
            Bound::Unbounded => self.end(),
            Bound::Included(key) => self.behind(&key),
            Bound::Excluded(key) => self.at(&key),
        };
        (start < end).then_some((start, end))
    }

    /// The first stored key that is not below `key`.
    fn at(&self, key: &[u8]) -> Bytes {
        match key.get(..self.key_bytes_max) {
            Some(cut) if cut.len() < key.len() => self.behind(cut),
            _ => self.join(key),
        }
    }

    /// The first stored key above `key`.
    fn behind(&self, key: &[u8]) -> Bytes {
        let key = &key[..key.len().min(self.key_bytes_max)];
        Bytes::from([self.prefix(), key, &[0]].concat())
    }
}

impl std::ops::Deref for StoredKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.short_len > 0 {
            &self.short[..self.short_len]
        } else {
            &self.long
        }
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod space_tests;
