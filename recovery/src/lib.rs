//! The arithmetic of durability and the reopening of a Sixfold volume, without I/O.
//!
//! [`quorum`] says what a quorum is; [`points`] turns acknowledged SCLs into PGCL, VCL and VDL; [`epoch`] is the
//! rule by which a segment accepts or refuses a sender; [`lease`] is the read lease; [`membership`]
//! changes who holds which segment. [`cut`], [`truncate`] are the
//! arithmetic of a reopening and [`machine`] drives one from probe to open.

pub mod quorum;

pub mod points;

pub mod epoch;

pub mod lease;

pub mod membership;

pub mod cut;
pub mod truncate;

pub mod machine;
