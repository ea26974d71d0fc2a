//! The log sequence number.

use std::fmt;

/// A dense 64-bit log sequence number: every redo record of a volume has the LSN of the one before plus one.
/// Only the writer mints them. [`Lsn::NONE`] (0) means *no record*.
///
/// Density is what makes completeness checkable: a volume is complete up to `L` when valid
/// records and annulled ranges cover everything from a known durable point to `L`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// No record.
    pub const NONE: Lsn = Lsn(0);
    /// The highest LSN that can be written down.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The LSN with this number.
    pub const fn new(number: u64) -> Lsn {
        Lsn(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True for [`Lsn::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The LSN of the record after this one.
    ///
    /// # Panics
    /// At the end of the 64-bit space, which a writer that minted a million LSNs a second would reach after
    /// half a million years.
    pub const fn next(self) -> Lsn {
        self.plus(1)
    }

    /// The LSN `count` records later.
    ///
    /// # Panics
    /// Past the end of the 64-bit space. Use [`Lsn::checked_plus`] for numbers from wire or disk.
    pub const fn plus(self, count: u64) -> Lsn {
        match self.0.checked_add(count) {
            Some(number) => Lsn(number),
            None => panic!("LSN space exhausted"),
        }
    }

    /// The LSN `count` records later, or `None` past the end of the 64-bit space.
    pub const fn checked_plus(self, count: u64) -> Option<Lsn> {
        match self.0.checked_add(count) {
            Some(number) => Some(Lsn(number)),
            None => None,
        }
    }

    /// The LSN `count` records earlier, or `None` below zero.
    pub const fn checked_minus(self, count: u64) -> Option<Lsn> {
        match self.0.checked_sub(count) {
            Some(number) => Some(Lsn(number)),
            None => None,
        }
    }

    /// How many records lie in `(earlier, self]`; 0 when `earlier` is not earlier.
    pub const fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
