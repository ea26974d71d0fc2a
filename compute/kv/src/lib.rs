//! The B+tree of Sixfold: pages in, redo out, no I/O.
//!
//! A reader or the writer hands in pages through a [`PageSource`]; pages that are not at hand are a [`KvError::Miss`]: the shell
//! fetches them and the operation runs again. Changes come out as a [`Plan`]: physiological operations in the order in
//! which they must be applied; [`sixfold_log_format::apply()`] is what changes pages, here too.
//!
//! ```text
//! page 1: meta -> root (inner) -> inner ... -> leaf: key, value | reference -> (index pages) -> value pages
//!              -> free list
//!              -> dropped list: what left the tree whole and is freed by and by
//! ```
//!
//! The first cell of each inner page has an empty key; the others have the shortest separators that the split found. Every
//! reference is checked where it is followed: a damaged tree gives [`KvError::Corrupt`], never a loop.

pub mod meta;
pub mod overflow;
pub mod pages;
pub mod source;

pub mod cursor;
pub mod estimate;
pub mod lookup;

pub mod changes;
pub mod modify;
pub mod plan;
pub mod reclaim;

mod clear;
mod draft;
mod merge;
mod space;
mod split;
mod write;

pub use changes::{Changes, Clear, Write};
pub use cursor::{Chunk, Direction, Item, range_chunk};
pub use estimate::{Estimate, estimate};
pub use lookup::{Found, get, is_expired, missing};
pub use meta::Meta;
pub use modify::{Modify, ModifyError};
pub use plan::{Plan, PlannedRecord, key_bytes_max, plan, plan_creation};
pub use reclaim::plan_reclaim;
pub use source::{KvError, MISS_PAGES_MAX, PageSource};
