//! Puts the pieces of a census together. Pieces of one request come in order; a repeated request starts over.

use std::collections::BTreeMap;

use sixfold_log_format::SegmentId;
use sixfold_log_format::wire::Census;

use super::RequestKey;

/// Most runs and CPLs in the census of one segment. What is unacknowledged is bounded in bytes by the writer; this is
/// several times as much, so that only nonsense meets it.
const CENSUS_ENTRIES_MAX: usize = 16 << 20;

/// Censuses of which pieces are missing.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    partial: BTreeMap<SegmentId, (RequestKey, Census)>,
}

/// What a piece led to.
#[derive(Debug)]
pub(super) enum Assembled {
    /// More will come.
    More,
    /// The census is whole.
    Whole(Box<Census>),
    /// Longer than any segment can mean.
    TooLong,
}

impl Pieces {
    /// Adds a piece that answers the request `key`.
    pub(super) fn add(
        &mut self,
        key: RequestKey,
        segment: SegmentId,
        mut piece: Census,
    ) -> Assembled {
        let more = piece.more;
        let whole = match self.partial.remove(&segment) {
            Some((earlier, mut census)) if earlier == key => {
                census.runs.append(&mut piece.runs);
                census
            }
            _ => piece,
        };
        let entries: usize = whole.runs.iter().map(|run| 1 + run.cpls.len()).sum();
        if entries > CENSUS_ENTRIES_MAX {
            return Assembled::TooLong;
        }
        if more {
            self.partial.insert(segment, (key, whole));
            return Assembled::More;
        }
        Assembled::Whole(Box::new(whole))
    }

    /// Forgets every piece.
    pub(super) fn clear(&mut self) {
        self.partial.clear();
    }
}
