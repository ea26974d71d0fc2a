//! A record's bytes inside a batch.
//!
//! LSN, page and back-link are differences to what stands before, so that the usual insert costs about ten bytes
//! beside key and value. `FORMAT.md` has the tables. Batches call this; nobody else does.

use std::borrow::Cow;

use crate::codec::{Put, Reader, unzigzag, zigzag};
use crate::error::DecodeError;
use crate::id::PageId;
use crate::limits::{KEY_BYTES_MAX, PAGE_BYTES_MAX};
use crate::lsn::Lsn;
use crate::page::PageKind;
use crate::record::{Cell, CellFlags, Op, Record, Stamp};

const KIND_MASK: u8 = 0x0f;
/// The page is the one of the record before.
pub const RECORD_SAME_PAGE: u8 = 0x10;
/// The record does not end its MTR: the distance to the CPL follows.
pub const RECORD_NOT_CPL: u8 = 0x20;
/// A user asked for just this change.
pub const RECORD_USER_VISIBLE: u8 = 0x40;
/// A byte about the cell follows: it is not plain or has a stamp of its own.
pub const RECORD_CELL_EXTRA: u8 = 0x80;

/// In the byte about the cell: the stamp is [`Lsn::NONE`].
pub const CELL_STAMP_NONE: u8 = 0x40;
/// In the byte about the cell: the stamp follows as a difference to the record's LSN.
pub const CELL_STAMP_AT: u8 = 0x80;

/// The number of each operation.
pub mod kind {
    /// [`crate::Op::Init`].
    pub const INIT: u8 = 1;
    /// [`crate::Op::Insert`].
    pub const INSERT: u8 = 2;
    /// [`crate::Op::Replace`].
    pub const REPLACE: u8 = 3;
    /// [`crate::Op::Remove`].
    pub const REMOVE: u8 = 4;
    /// [`crate::Op::Truncate`].
    pub const TRUNCATE: u8 = 5;
    /// [`crate::Op::WriteBytes`].
    pub const WRITE_BYTES: u8 = 6;
    /// [`crate::Op::Image`].
    pub const IMAGE: u8 = 7;
    /// [`crate::Op::DeleteRange`].
    pub const DELETE_RANGE: u8 = 8;
    /// [`crate::Op::Clock`].
    pub const CLOCK: u8 = 9;
}

fn kind_of(op: &Op<'_>) -> u8 {
    match op {
        Op::Init { .. } => kind::INIT,
        Op::Insert { .. } => kind::INSERT,
        Op::Replace { .. } => kind::REPLACE,
        Op::Remove { .. } => kind::REMOVE,
        Op::Truncate { .. } => kind::TRUNCATE,
        Op::WriteBytes { .. } => kind::WRITE_BYTES,
        Op::Image { .. } => kind::IMAGE,
        Op::DeleteRange { .. } => kind::DELETE_RANGE,
        Op::Clock { .. } => kind::CLOCK,
    }
}

fn may_be_user_visible(kind: u8) -> bool {
    matches!(
        kind,
        kind::INSERT | kind::REPLACE | kind::REMOVE | kind::DELETE_RANGE
    )
}

/// Appends `record`, which follows a record of page `before`.
///
/// # Panics
/// When the record breaks a rule of [`Record`]: a writer's bug.
pub(crate) fn encode_record(out: &mut Vec<u8>, record: &Record<'_>, before: PageId) {
    let kind = kind_of(&record.op);
    let extra = match &record.op {
        Op::Insert { cell, .. } | Op::Replace { cell, .. } => cell_extra(cell),
        _ => 0,
    };
    assert!(
        record.page != PageId::NONE,
        "record {} is for no page",
        record.lsn
    );
    assert!(
        !record.user_visible || may_be_user_visible(kind),
        "record {} cannot be user-visible",
        record.lsn
    );
    let distance = record
        .cpl
        .get()
        .checked_sub(record.lsn.get())
        .expect("the CPL ends the MTR");
    let mut head = kind;
    for (flag, set) in [
        (RECORD_SAME_PAGE, record.page == before),
        (RECORD_NOT_CPL, distance > 0),
        (RECORD_USER_VISIBLE, record.user_visible),
        (RECORD_CELL_EXTRA, extra != 0),
    ] {
        if set {
            head |= flag;
        }
    }
    out.push(head);
    if record.page != before {
        out.put_varint(zigzag(
            record.page.get().wrapping_sub(before.get()).cast_signed(),
        ));
    }
    if record.op.starts_chain() {
        assert!(
            record.page_prev.is_none(),
            "record {} needs no earlier version",
            record.lsn
        );
    } else {
        assert!(
            record.page_prev < record.lsn,
            "record {} follows a later one",
            record.lsn
        );
        out.put_varint(record.lsn.since(record.page_prev));
    }
    if distance > 0 {
        out.put_varint(distance);
    }
    if extra != 0 {
        out.push(extra);
    }
    encode_op(out, record);
}

fn encode_op(out: &mut Vec<u8>, record: &Record<'_>) {
    match &record.op {
        Op::Init { kind, level } => out.extend_from_slice(&[kind.code(), *level]),
        Op::Insert { slot, cell } | Op::Replace { slot, cell } => {
            out.put_varint(u64::from(*slot));
            encode_cell(out, record.lsn, cell);
        }
        Op::Remove { slot, key } => {
            out.put_varint(u64::from(*slot));
            assert!(
                key.is_empty() != record.user_visible,
                "record {}: a key exactly when it is user-visible",
                record.lsn
            );
            if record.user_visible {
                put_bounded(out, key, KEY_BYTES_MAX);
            }
        }
        Op::Truncate { from_slot } => out.put_varint(u64::from(*from_slot)),
        Op::WriteBytes { offset, bytes } => {
            out.put_varint(u64::from(*offset));
            put_bounded(out, bytes, PAGE_BYTES_MAX);
        }
        Op::Image { bytes } => put_bounded(out, bytes, PAGE_BYTES_MAX),
        Op::DeleteRange { start, end } => {
            put_bounded(out, start, KEY_BYTES_MAX);
            put_bounded(out, end, KEY_BYTES_MAX);
        }
        Op::Clock { unix_ms } => out.put_varint(*unix_ms),
    }
}

fn cell_extra(cell: &Cell<'_>) -> u8 {
    cell.flags.bits()
        | match cell.stamp {
            Stamp::Commit => 0,
            Stamp::At(Lsn::NONE) => CELL_STAMP_NONE,
            Stamp::At(_) => CELL_STAMP_AT,
        }
}

fn encode_cell(out: &mut Vec<u8>, lsn: Lsn, cell: &Cell<'_>) {
    assert!(
        cell.flags.contains(CellFlags::DEADLINE) == cell.deadline_ms.is_some(),
        "record {lsn}: the deadline flag says whether there is a deadline"
    );
    assert!(
        cell.key.len() + cell.value.len() <= PAGE_BYTES_MAX,
        "record {lsn}: a cell that fits no page"
    );
    if let Stamp::At(stamp) = cell.stamp
        && !stamp.is_none()
    {
        out.put_varint(zigzag(lsn.get().wrapping_sub(stamp.get()).cast_signed()));
    }
    if let Some(deadline_ms) = cell.deadline_ms {
        out.put_varint(deadline_ms);
    }
    assert!(
        cell.key.len() <= KEY_BYTES_MAX,
        "record {lsn}: key of {} bytes",
        cell.key.len()
    );
    out.put_varint(cell.key.len() as u64);
    out.put_varint(cell.value.len() as u64);
    out.extend_from_slice(&cell.key);
    out.extend_from_slice(&cell.value);
}

fn put_bounded(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    assert!(
        bytes.len() <= bytes_max,
        "{} bytes where {bytes_max} may be",
        bytes.len()
    );
    out.put_varint(bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads the record at `lsn`, which follows a record of page `before`.
#[inline]
pub(crate) fn decode_record<'a>(
    input: &mut Reader<'a>,
    lsn: Lsn,
    before: PageId,
) -> Result<Record<'a>, DecodeError> {
    let (head, difference) = decode_head(input)?;
    let page = PageId::new(before.get().wrapping_add_signed(difference));
    if page == PageId::NONE {
        return Err(input.invalid_field("page", 0));
    }
    decode_body(input, lsn, page, head)
}

/// Reads the record at `lsn`, which is known to be of `page`.
pub(crate) fn decode_record_of<'a>(
    input: &mut Reader<'a>,
    lsn: Lsn,
    page: PageId,
) -> Result<Record<'a>, DecodeError> {
    let (head, _) = decode_head(input)?;
    decode_body(input, lsn, page, head)
}

#[inline]
fn decode_head(input: &mut Reader<'_>) -> Result<(u8, i64), DecodeError> {
    let head = input.u8()?;
    if head & RECORD_SAME_PAGE != 0 {
        return Ok((head, 0));
    }
    match unzigzag(input.varint()?) {
        0 => Err(input.invalid_field("page difference", 0)),
        difference => Ok((head, difference)),
    }
}

#[inline]
fn decode_body<'a>(
    input: &mut Reader<'a>,
    lsn: Lsn,
    page: PageId,
    head: u8,
) -> Result<Record<'a>, DecodeError> {
    let kind = head & KIND_MASK;
    let user_visible = head & RECORD_USER_VISIBLE != 0;
    let has_extra = head & RECORD_CELL_EXTRA != 0;
    if (user_visible && !may_be_user_visible(kind))
        || (has_extra && !matches!(kind, kind::INSERT | kind::REPLACE))
    {
        return Err(input.invalid_field("record flags", u64::from(head)));
    }
    let page_prev = match kind {
        kind::INIT | kind::IMAGE => Lsn::NONE,
        _ => {
            let distance = input.varint()?;
            match lsn.checked_minus(distance) {
                Some(prev) if distance > 0 => prev,
                _ => return Err(input.invalid_field("page back-link", distance)),
            }
        }
    };
    let cpl = match head & RECORD_NOT_CPL {
        0 => lsn,
        _ => {
            let distance = input.varint()?;
            match lsn.checked_plus(distance) {
                Some(cpl) if distance > 0 => cpl,
                _ => return Err(input.invalid_field("distance to the CPL", distance)),
            }
        }
    };
    let op = match kind {
        kind::INSERT | kind::REPLACE => {
            let extra = if has_extra { decode_extra(input)? } else { 0 };
            let slot = decode_u16(input, "slot")?;
            let cell = decode_cell(input, lsn, extra)?;
            if kind == kind::INSERT {
                Op::Insert { slot, cell }
            } else {
                Op::Replace { slot, cell }
            }
        }
        _ => decode_other_op(input, kind, user_visible)?,
    };
    Ok(Record {
        lsn,
        page,
        page_prev,
        cpl,
        user_visible,
        op,
    })
}

fn decode_other_op<'a>(
    input: &mut Reader<'a>,
    kind: u8,
    user_visible: bool,
) -> Result<Op<'a>, DecodeError> {
    Ok(match kind {
        kind::INIT => {
            let code = input.u8()?;
            let kind = PageKind::from_code(code)
                .ok_or_else(|| input.invalid_field("page kind", u64::from(code)))?;
            Op::Init {
                kind,
                level: input.u8()?,
            }
        }
        kind::REMOVE => {
            let slot = decode_u16(input, "slot")?;
            let key = if user_visible {
                decode_bounded(input, "key", KEY_BYTES_MAX)?
            } else {
                &[]
            };
            if user_visible && key.is_empty() {
                return Err(input.invalid_field("key", 0));
            }
            Op::Remove {
                slot,
                key: Cow::Borrowed(key),
            }
        }
        kind::TRUNCATE => Op::Truncate {
            from_slot: decode_u16(input, "slot")?,
        },
        kind::WRITE_BYTES => {
            let offset = decode_u16(input, "offset")?;
            let bytes = decode_bounded(input, "bytes", PAGE_BYTES_MAX)?;
            Op::WriteBytes {
                offset,
                bytes: Cow::Borrowed(bytes),
            }
        }
        kind::IMAGE => {
            let bytes = decode_bounded(input, "image", PAGE_BYTES_MAX)?;
            Op::Image {
                bytes: Cow::Borrowed(bytes),
            }
        }
        kind::DELETE_RANGE => {
            let start = decode_bounded(input, "range start", KEY_BYTES_MAX)?;
            let end = decode_bounded(input, "range end", KEY_BYTES_MAX)?;
            Op::DeleteRange {
                start: Cow::Borrowed(start),
                end: Cow::Borrowed(end),
            }
        }
        kind::CLOCK => Op::Clock {
            unix_ms: input.varint()?,
        },
        _ => return Err(input.invalid_field("record kind", u64::from(kind))),
    })
}

fn decode_extra(input: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let extra = input.u8()?;
    let stamp = extra & (CELL_STAMP_NONE | CELL_STAMP_AT);
    let known = CellFlags::from_bits(extra ^ stamp).is_some();
    if extra == 0 || !known || stamp == CELL_STAMP_NONE | CELL_STAMP_AT {
        return Err(input.invalid_field("cell flags", u64::from(extra)));
    }
    Ok(extra)
}

#[inline]
fn decode_cell<'a>(input: &mut Reader<'a>, lsn: Lsn, extra: u8) -> Result<Cell<'a>, DecodeError> {
    let stamp = match extra & (CELL_STAMP_NONE | CELL_STAMP_AT) {
        0 => Stamp::Commit,
        CELL_STAMP_NONE => Stamp::At(Lsn::NONE),
        _ => {
            let difference = unzigzag(input.varint()?);
            let stamp = Lsn::new(lsn.get().wrapping_sub(difference.cast_unsigned()));
            if stamp.is_none() {
                return Err(input.invalid_field("stamp", 0));
            }
            Stamp::At(stamp)
        }
    };
    let flags = CellFlags::from_bits(extra & !(CELL_STAMP_NONE | CELL_STAMP_AT))
        .ok_or_else(|| input.invalid_field("cell flags", u64::from(extra)))?;
    let deadline_ms = if flags.contains(CellFlags::DEADLINE) {
        Some(input.varint()?)
    } else {
        None
    };
    let key_bytes = input.varint_at_most("key length", KEY_BYTES_MAX)?;
    let value_bytes = input.varint_at_most("value length", PAGE_BYTES_MAX - key_bytes)?;
    let key = Cow::Borrowed(input.take(key_bytes)?);
    let value = Cow::Borrowed(input.take(value_bytes)?);
    Ok(Cell {
        key,
        value,
        stamp,
        flags,
        deadline_ms,
    })
}

#[inline]
fn decode_u16(input: &mut Reader<'_>, field: &'static str) -> Result<u16, DecodeError> {
    let value = input.varint()?;
    u16::try_from(value).map_err(|_| input.invalid_field(field, value))
}

fn decode_bounded<'a>(
    input: &mut Reader<'a>,
    field: &'static str,
    bytes_max: usize,
) -> Result<&'a [u8], DecodeError> {
    let count = input.varint_at_most(field, bytes_max)?;
    input.take(count)
}
