//! What the demo's commits do: transfers between accounts with a ledger entry each, and puts of 100-byte values. Client and
//! number decide everything, so that a checker can tell what must be there.

use super::record::{Kind, WorkId};

/// Accounts. Enough that few transfers meet (a hot key does one read-modify-write per quorum round).
pub(crate) const ACCOUNT_COUNT: u64 = 1_000;
/// What each account holds at the start.
pub(crate) const ACCOUNT_START: i64 = 1_000;
/// Length of a put's and a ledger entry's value.
pub(crate) const VALUE_BYTES: usize = 100;
/// Rows in a chunk of the first load.
pub(crate) const ROWS_PER_CHUNK: u64 = 250;

/// A transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// From this account.
    pub(crate) from: u64,
    /// To this one; never the same.
    pub(crate) to: u64,
    /// How much. Accounts may go below zero: what counts is the sum.
    pub(crate) amount: i64,
}

/// The key of an account.
pub(crate) fn account_key(account: u64) -> Vec<u8> {
    format!("account/{account:06}").into_bytes()
}

/// The balance in an account's value.
pub(crate) fn balance(value: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(value.try_into().ok()?))
}

/// The key that a piece of work leaves: a ledger entry or a value. Chunks of rows leave several ([`row_key`]).
pub(crate) fn mark_key(work: WorkId) -> Vec<u8> {
    let prefix = if work.kind == Kind::Transfer {
        "ledger"
    } else {
        "put"
    };
    format!("{prefix}/{:04}/{:010}", work.client, work.number).into_bytes()
}

/// What [`mark_key`] named, read back from a key.
pub(crate) fn parse_mark_key(key: &[u8]) -> Option<WorkId> {
    let mut parts = std::str::from_utf8(key).ok()?.split('/');
    let kind = match parts.next()? {
        "ledger" => Kind::Transfer,
        "put" => Kind::Put,
        _ => return None,
    };
    Some(WorkId {
        kind,
        client: parts.next()?.parse().ok()?,
        number: parts.next()?.parse().ok()?,
    })
}

/// The value at [`mark_key`]: recognizable bytes that nothing else writes.
pub(crate) fn mark_value(work: WorkId) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    let mut state = seed(work);
    while value.len() < VALUE_BYTES {
        state = mix(state);
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(VALUE_BYTES);
    value
}

/// The key of a row of the first load.
pub(crate) fn row_key(chunk: u64, row: u64) -> Vec<u8> {
    format!("row/{chunk:06}/{row:04}").into_bytes()
}

/// Its value.
pub(crate) fn row_value(chunk: u64, row: u64) -> Vec<u8> {
    let client = u32::try_from(row).expect("rows per chunk are few");
    mark_value(WorkId {
        kind: Kind::Rows,
        client,
        number: chunk,
    })
}

/// What a transfer does.
pub(crate) fn transfer(work: WorkId) -> Transfer {
    let draw = mix(seed(work) ^ 0x5eed);
    let from = draw % ACCOUNT_COUNT;
    let to = (from + 1 + (draw >> 20) % (ACCOUNT_COUNT - 1)) % ACCOUNT_COUNT;
    let amount = i64::try_from(1 + (draw >> 48) % 100).expect("at most a hundred");
    Transfer { from, to, amount }
}

/// What a client does next: mostly transfers.
pub(crate) fn kind_of(client: u32, number: u64) -> Kind {
    let draw = mix(u64::from(client) << 40 ^ number);
    if draw.is_multiple_of(4) {
        Kind::Put
    } else {
        Kind::Transfer
    }
}

fn seed(work: WorkId) -> u64 {
    let kind = match work.kind {
        Kind::Accounts => 1,
        Kind::Rows => 2,
        Kind::Transfer => 3,
        Kind::Put => 4,
    };
    mix(mix(kind << 32 | u64::from(work.client)) ^ work.number)
}

/// A 64-bit mixer (splitmix64): every input gives a different, well spread output.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_never_goes_to_its_own_account() {
        for number in 0..100_000 {
            let transfer = transfer(WorkId {
                kind: Kind::Transfer,
                client: 7,
                number,
            });
            assert_ne!(transfer.from, transfer.to);
            assert!(transfer.to < ACCOUNT_COUNT && transfer.amount > 0);
        }
    }

    #[test]
    fn a_mark_key_names_its_work() {
        for kind in [Kind::Transfer, Kind::Put] {
            let work = WorkId {
                kind,
                client: 12,
                number: 345,
            };
            assert_eq!(parse_mark_key(&mark_key(work)), Some(work));
        }
        assert_eq!(parse_mark_key(b"row/1/2"), None);
    }
}
