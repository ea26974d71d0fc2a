//! Which commit cleared a key last: a step function over all keys, for validation.
//!
//! Each step holds from its key to the next one. A clear is the newest commit when it comes, so that it levels what lies
//! inside it: there are never more than four steps for each clear that is remembered.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use sixfold_log_format::Lsn;
use sixfold_log_format::mutant::{Mutant, planted};

/// The steps. Below the first one nothing was cleared.
#[derive(Debug, Default)]
pub(crate) struct ClearedRanges {
    /// [`Lsn::NONE`]: not cleared, as far as is remembered.
    steps: BTreeMap<Bytes, Lsn>,
    /// Clears forgotten since steps went last.
    forgotten_count: usize,
}

impl ClearedRanges {
    /// The commit at `lsn`, the newest, cleared `[start, end)`; `None` = no upper bound.
    pub(crate) fn clear(&mut self, start: Bytes, end: Option<Bytes>, lsn: Lsn) {
        if planted(Mutant::ClearsNotValidated) {
            return;
        }
        if let Some(end) = &end
            && !self.steps.contains_key(end)
        {
            let behind = self.last_at(end).unwrap_or(Lsn::NONE);
            self.steps.insert(end.clone(), behind);
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let inside = (Bound::Included(start.clone()), upper);
        self.steps.extract_if(inside, |_, _| true).for_each(drop);
        self.steps.insert(start, lsn);
    }

    /// The oldest clear, at `lsn`, is forgotten. Steps that say nothing any more go now and then, all at once.
    pub(crate) fn forget(&mut self, lsn: Lsn) {
        self.forgotten_count += 1;
        if self.forgotten_count * 4 < self.steps.len() {
            return;
        }
        self.forgotten_count = 0;
        let mut before = Lsn::NONE;
        self.steps.retain(|_, step| {
            if *step <= lsn {
                *step = Lsn::NONE;
            }
            *step != std::mem::replace(&mut before, *step)
        });
    }

    /// The last commit that cleared a key.
    pub(crate) fn last_at(&self, key: &[u8]) -> Option<Lsn> {
        let upper = (Bound::Unbounded, Bound::Included(key));
        let (_, &lsn) = self.steps.range::<[u8], _>(upper).next_back()?;
        (!lsn.is_none()).then_some(lsn)
    }

    /// A commit above `after` that cleared any key within bounds, which are not empty.
    pub(crate) fn last_within(
        &self,
        (lower, upper): (Bound<&[u8]>, Bound<&[u8]>),
        after: Lsn,
    ) -> Option<Lsn> {
        if self.steps.is_empty() {
            return None;
        }
        let (Bound::Included(first) | Bound::Excluded(first)) = lower else {
            return self.newest((Bound::Unbounded, upper), after);
        };
        let at_first = self.last_at(first).filter(|&lsn| lsn > after);
        at_first.or_else(|| self.newest((lower, upper), after))
    }

    fn newest(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>), after: Lsn) -> Option<Lsn> {
        let mut steps = self.steps.range::<[u8], _>(bounds);
        steps.find(|&(_, &lsn)| lsn > after).map(|(_, &lsn)| lsn)
    }

    /// How many steps there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }
}
