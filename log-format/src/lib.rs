//! The bytes of Sixfold: what is written to disks and sent between processes, told once.
//!
//! Everything that two parties must agree on is here: records and the batches that carry them, pages and
//! [`apply()`], which is the only code that changes a page, the hot-log zone of a storage node, and the wire
//! messages. The crate is pure: no clocks, files, sockets, threads or randomness.
//!
//! Modules stand in the order in which data meets them: a transaction becomes [`record`]s, records become a
//! [`batch`], a batch crosses the [`wire`], is stored in the [`hot_log`], sorted into a [`layer`], and
//! folded into a [`page`] by [`mod@apply`]. `FORMAT.md` beside this crate specifies every byte; tests compare it with the constants.

pub mod error;
pub mod id;
pub mod limits;
pub mod lsn;
pub mod mutant;

pub mod checksum;
pub mod codec;
mod field;
mod zone;

pub mod record;
pub mod record_codec;

pub mod batch;

pub mod history;
pub mod manifest;

pub mod wire;

pub mod hot_log;
pub mod layer;

pub mod apply;
pub mod page;

pub use apply::{ApplyError, apply};
pub use batch::{Batch, BatchBuilder, BatchHeader};
pub use error::DecodeError;
pub use history::{AnnulledRange, History};
pub use id::{
    ManifestVersion, MembershipEpoch, NodeId, PageId, PgId, SegmentId, TokenDigest, VolumeEpoch,
    VolumeId, WriterId,
};
pub use lsn::Lsn;
pub use manifest::{
    Manifest, Member, MemberKind, PgEntry, QuorumModel, SegmentSet, VolumeParameters,
};
pub use page::{Page, PageKind};
pub use record::{Cell, CellFlags, Op, Record, Stamp};
