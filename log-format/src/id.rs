//! Names of the things that a cluster is made of. No bare numbers cross a crate boundary.

use std::fmt;

macro_rules! number_id {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// The id with this number.
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// Its number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! drawn_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes; the caller draws them.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Reads the 32 hexadecimal digits that `Display` writes; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<Self> {
                let digits = text.as_bytes();
                if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                let mut bytes = [0; 16];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
                }
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

number_id!(
    /// A page of a volume. 0 means none; page 1 is the volume's meta page.
    PageId(u64)
);
number_id!(
    /// A protection group: the unit of which six segments each hold a copy. PG 0 is the root and holds the manifest.
    PgId(u32)
);
number_id!(
    /// Counts the writers of a volume. Whoever holds the highest one that a write quorum accepted is the writer.
    VolumeEpoch(u64)
);
number_id!(
    /// Counts the changes of who holds which segment, within a volume epoch.
    MembershipEpoch(u64)
);
drawn_id!(
    /// A segment: one of the six copies of a protection group. Minted when it is created and named in the
    /// manifest, so that an empty directory never answers for it (R12).
    SegmentId
);
drawn_id!(
    /// A storage node, named in its certificate.
    NodeId
);
drawn_id!(
    /// A volume.
    VolumeId
);
drawn_id!(
    /// One attempt to become the writer. Drawn afresh for every attempt, so that a restarted writer cannot
    /// re-claim its old epoch beside its paused self (R8).
    WriterId
);

impl PageId {
    /// No page.
    pub const NONE: PageId = PageId(0);
    /// The volume's meta page: root of the tree, page allocation, clock.
    pub const META: PageId = PageId(1);
}

impl PgId {
    /// The root protection group, which holds the volume's manifest (R10).
    pub const ROOT: PgId = PgId(0);
}

impl VolumeEpoch {
    /// The epoch of the volume's creation. Nothing is written under it: the first writer claims the next one.
    pub const CREATION: VolumeEpoch = VolumeEpoch(1);

    /// The epoch after this one.
    ///
    /// # Panics
    /// At the end of the 64-bit space.
    #[must_use]
    pub const fn next(self) -> VolumeEpoch {
        match self.0.checked_add(1) {
            Some(number) => VolumeEpoch(number),
            None => panic!("volume epochs exhausted"),
        }
    }
}

impl WriterId {
    /// Nobody: what the creation of a volume leaves as the holder of epoch 1.
    pub const NOBODY: WriterId = WriterId([0; 16]);
}

/// The version of a manifest: the volume epoch of the writer that made it, then its membership epoch. The
/// highest wins; two writers cannot make the same one (R21).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ManifestVersion {
    /// The epoch of the writer that wrote it.
    pub volume_epoch: VolumeEpoch,
    /// The change of membership that it stands for.
    pub membership_epoch: MembershipEpoch,
}

impl fmt::Display for ManifestVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.volume_epoch, self.membership_epoch)
    }
}

/// What nodes keep of a volume's token: its SHA-256 with the volume's id. It opens nothing by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest with these bytes; the shells compute them.
    pub const fn from_bytes(bytes: [u8; 32]) -> TokenDigest {
        TokenDigest(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether both are the same, in a time that does not tell where they differ.
    pub fn fits(&self, shown: &TokenDigest) -> bool {
        let pairs = self.0.iter().zip(&shown.0);
        pairs.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}
