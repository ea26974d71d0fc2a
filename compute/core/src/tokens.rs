//! Tokens: has this commit been done already (T3)?
//!
//! The token's row stands in the same MTR as what the commit wrote. It is looked up at the tip, before conflicts: a first
//! try that is not durable yet is found too, and so is one of a writer that was fenced, as far as it was in the cut.

use bytes::Bytes;
use sixfold_kv::{KvError, PageSource};
use sixfold_log_format::Lsn;

use crate::event::CommitError;
use crate::rows;
use crate::write_set::Token;

/// What is known of a token.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Nothing: it may be applied.
    New,
    /// It was applied by this commit, which may not be durable yet.
    Done(Lsn),
    /// It cannot be told: refused, never applied.
    Refused(CommitError),
}

/// The token horizon, once it was read: commits with tokens born before it are not remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TokenHorizon(Option<Lsn>);

impl TokenHorizon {
    /// Reads it from the tip, the first time.
    pub(crate) fn load(&mut self, tip: &impl PageSource) -> Result<Lsn, KvError> {
        if let Some(horizon) = self.0 {
            return Ok(horizon);
        }
        let found = sixfold_kv::get(tip, &rows::horizon_row())?;
        let bytes = found.and_then(|found| <[u8; 8]>::try_from(&found.value[..]).ok());
        let horizon = bytes.map_or(Lsn::NONE, |bytes| Lsn::new(u64::from_le_bytes(bytes)));
        self.0 = Some(horizon);
        Ok(horizon)
    }

    /// It was moved by a commit that was just minted.
    pub(crate) fn moved(&mut self, horizon: Lsn) {
        assert!(
            self.0.is_none_or(|before| before <= horizon),
            "the token horizon falls to {horizon}"
        );
        self.0 = Some(horizon);
    }
}

/// The value of the horizon's row.
pub(crate) fn horizon_value(horizon: Lsn) -> Bytes {
    Bytes::copy_from_slice(&horizon.get().to_le_bytes())
}

/// Looks a token up. `tip`: the pages as of the last record minted, whose LSN is `last`.
pub(crate) fn look_up(
    tip: &impl PageSource,
    horizon: &mut TokenHorizon,
    token: &Token,
    last: Lsn,
) -> Result<Seen, KvError> {
    if let Token::Made { birth, .. } = *token {
        let horizon = horizon.load(tip)?;
        if birth < horizon {
            return Ok(Seen::Refused(CommitError::TokenTooOld { birth, horizon }));
        }
        if birth > last {
            let reason = format!("a token born at LSN {birth}, above the last one {last}");
            return Ok(Seen::Refused(CommitError::Invalid { reason }));
        }
    }
    let found = sixfold_kv::get(tip, &rows::token_row(token))?;
    Ok(found.map_or(Seen::New, |found| Seen::Done(found.stamp)))
}
