//! The B+tree of Sixfold: pages in, redo out, no I/O.
//!
//! A reader or the writer hands in pages through a [`PageSource`]; a page that is not at hand is a [`KvError::Miss`]: the shell
//! fetches it and the operation runs again. Changes come out as a [`Plan`]: physiological operations in the order in
//! which they must be applied; [`sixfold_log_format::apply()`] is what changes pages, here too.
//!
//! ```text
//! page 1: meta -> root (inner) -> inner ... -> leaf: key, value | reference -> overflow pages
//!              -> free list
//! ```
//!
//! The first cell of each inner page has an empty key; the others have the shortest separators that the split found. Every
//! reference is checked where it is followed: a damaged tree gives [`KvError::Corrupt`], never a loop.

pub mod meta;
pub mod overflow;
pub mod source;

pub mod cursor;
pub mod lookup;

pub mod plan;

mod draft;
mod space;
mod split;
mod unlink;

pub use cursor::{Chunk, Direction, Item, range_chunk};
pub use lookup::{Found, get, missing};
pub use meta::Meta;
pub use plan::{Plan, PlannedRecord, Write, key_bytes_max, plan, plan_creation};
pub use source::{KvError, PageSource};
