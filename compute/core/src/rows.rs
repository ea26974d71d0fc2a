//! Internal rows: what the database keeps for itself, in the same tree under the space byte `0x00`.
//!
//! | key | what | written |
//! |---|---|---|
//! | `00 'c' be64(unix_ms)` | time row | with each clock tick |
//! | `00 'd' be64(deadline_ms) stored key` | expiry index | with each put that has a deadline |
//! | `00 'h'` | token horizon: an LSN, little-endian | when old tokens go |
//! | `00 'k' name` | keyspace directory | by the library |
//! | `00 't' be64(birth LSN) id[16]` | token made by the database | with its commit |
//! | `00 'u' token[16]` | token given by the user; has a deadline | with its commit |
//!
//! A row's stamp is the commit LSN of the commit that put it: a token's answer and a time row's LSN need no value. Births
//! come in ascending order, so that the token table is an append and not a random leaf for each commit (T3).

use std::ops::Bound;

use bytes::Bytes;
use sixfold_kv::{Direction, KvError, PageSource, range_chunk};
use sixfold_log_format::Lsn;

use crate::write_set::Token;

/// First byte of internal rows.
pub const INTERNAL_SPACE: u8 = 0x00;
/// First byte of the default keyspace.
pub const DEFAULT_SPACE: u8 = 0x01;
/// First byte of named keyspaces.
pub const NAMED_SPACE: u8 = 0x02;

/// Bytes that an expiry index row takes beside the stored key.
pub(crate) const EXPIRY_PREFIX_BYTES: usize = 2 + 8;

const TIME: u8 = b'c';
const EXPIRY: u8 = b'd';
const HORIZON: u8 = b'h';
const KEYSPACE: u8 = b'k';
const TOKEN_MADE: u8 = b't';
const TOKEN_GIVEN: u8 = b'u';

/// A moment that the volume remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimePoint {
    /// The volume's clock then, wall-clock milliseconds.
    pub unix_ms: u64,
    /// The commit that carried it: a consistency point.
    pub lsn: Lsn,
}

/// The last remembered moment at or before `unix_ms`: what `snapshot_at_time` reads at. `None` when nothing that old is
/// remembered. Times are remembered once a tick (100 ms), so that a commit of the tick before may be missing, and
/// nothing that came after `unix_ms` is there.
///
/// # Errors
/// [`KvError`]; a miss means: fetch and call again.
pub fn time_at(source: &impl PageSource, unix_ms: u64) -> Result<Option<TimePoint>, KvError> {
    let (first, last) = (time_row(0), time_row(unix_ms));
    one_time(source, &first, Bound::Included(&last), Direction::Reverse)
}

/// The oldest remembered moment.
///
/// # Errors
/// [`KvError`]; a miss means: fetch and call again.
pub fn oldest_time(source: &impl PageSource) -> Result<Option<TimePoint>, KvError> {
    let (first, end) = (time_row(0), after(TIME));
    one_time(source, &first, Bound::Excluded(&end), Direction::Forward)
}

fn one_time(
    source: &impl PageSource,
    first: &[u8],
    last: Bound<&Bytes>,
    direction: Direction,
) -> Result<Option<TimePoint>, KvError> {
    let row = first_row(
        source,
        Bound::Included(first),
        last.map(|key| &key[..]),
        direction,
    )?;
    Ok(row.and_then(|(key, lsn)| {
        let unix_ms = u64::from_be_bytes(key.get(2..10)?.try_into().ok()?);
        Some(TimePoint { unix_ms, lsn })
    }))
}

/// The first row within bounds, and its stamp.
pub(crate) fn first_row(
    source: &impl PageSource,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    direction: Direction,
) -> Result<Option<(Bytes, Lsn)>, KvError> {
    Ok(first_rows(source, lower, upper, direction, 1)?.pop())
}

/// The first rows within bounds, at most `count_max` and at most one leaf's, and their stamps; none when there is none.
pub(crate) fn first_rows(
    source: &impl PageSource,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    direction: Direction,
    count_max: usize,
) -> Result<Vec<(Bytes, Lsn)>, KvError> {
    let mut rest = (lower.map(<[u8]>::to_vec), upper.map(<[u8]>::to_vec));
    loop {
        let (lower, upper) = (rest.0.as_ref(), rest.1.as_ref());
        let chunk = range_chunk(
            source,
            lower.map(|key| &key[..]),
            upper.map(|key| &key[..]),
            direction,
            count_max,
            usize::MAX,
        )?;
        if !chunk.items.is_empty() {
            let items = chunk.items.into_iter();
            return Ok(items.map(|item| (item.key, item.found.stamp)).collect());
        }
        match (chunk.next, direction) {
            (None, _) => return Ok(Vec::new()),
            (Some(next), Direction::Forward) => rest.0 = next,
            (Some(next), Direction::Reverse) => rest.1 = next,
        }
    }
}

/// Whether a key is a row of the database's own that no caller of the writer may touch. The keyspace directory is the
/// library's.
pub(crate) fn is_reserved(key: &[u8]) -> bool {
    key.first() == Some(&INTERNAL_SPACE) && key.get(1) != Some(&KEYSPACE)
}

/// The row of a keyspace's name.
pub fn keyspace_row(name: &[u8]) -> Bytes {
    row(KEYSPACE, &[name])
}

/// The time row of a moment.
pub(crate) fn time_row(unix_ms: u64) -> Bytes {
    row(TIME, &[&unix_ms.to_be_bytes()])
}

/// The expiry index row of a key.
pub(crate) fn expiry_row(deadline_ms: u64, key: &[u8]) -> Bytes {
    row(EXPIRY, &[&deadline_ms.to_be_bytes(), key])
}

/// Deadline and key of an expiry index row; `None` for any other key.
pub(crate) fn read_expiry_row(row: &Bytes) -> Option<(u64, Bytes)> {
    let deadline = row
        .strip_prefix(&[INTERNAL_SPACE, EXPIRY])?
        .get(..EXPIRY_PREFIX_BYTES - 2)?;
    let key = row.slice(EXPIRY_PREFIX_BYTES..);
    Some((u64::from_be_bytes(deadline.try_into().ok()?), key))
}

/// The row of a token.
pub(crate) fn token_row(token: &Token) -> Bytes {
    match token {
        Token::Made { birth, id } => row(TOKEN_MADE, &[&birth.get().to_be_bytes(), id]),
        Token::Given(token) => row(TOKEN_GIVEN, &[token]),
    }
}

/// Where the tokens born at or after `birth` begin.
pub(crate) fn tokens_from(birth: Lsn) -> Bytes {
    row(TOKEN_MADE, &[&birth.get().to_be_bytes()])
}

/// The row of the token horizon.
pub(crate) fn horizon_row() -> Bytes {
    row(HORIZON, &[])
}

/// The end of the expiry index.
pub(crate) fn expiry_end() -> Bytes {
    after(EXPIRY)
}

fn after(table: u8) -> Bytes {
    row(table + 1, &[])
}

fn row(table: u8, parts: &[&[u8]]) -> Bytes {
    let len_bytes = 2 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut key = Vec::with_capacity(len_bytes);
    key.extend_from_slice(&[INTERNAL_SPACE, table]);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key.into()
}
