//! Sizes of ranges, told from a few pages.

use std::ops::Bound;

use sixfold_compute_core::ReadPoint;

use crate::database::Inner;
use crate::error::Error;
use crate::range::{Bounds, is_empty};
use crate::read::{self, Pages, ReadLimit};
use crate::space::Space;

/// About what a range holds. It is told from a few pages, whatever the range's size: exact for a few keys, within a small
/// factor for many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Keys, those that have expired and are not removed yet among them.
    pub keys: u64,
    /// Bytes that keys and values take in the tree, large values included.
    pub bytes: u64,
}

pub(crate) async fn of(
    inner: &Inner,
    point: &ReadPoint,
    space: &Space,
    limit: ReadLimit,
    bounds: Bounds,
) -> Result<Estimate, Error> {
    if is_empty(&bounds) {
        return Ok(Estimate::default());
    }
    let Some((start, end)) = space.stored_range(bounds) else {
        return Ok(Estimate::default());
    };
    let (lower, upper) = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
    let mut pages = Pages::new(point);
    let estimate = read::run(inner, &mut pages, limit, |pages| {
        sixfold_kv::estimate(pages, lower, upper)
    })
    .await?;
    Ok(Estimate {
        keys: estimate.keys,
        bytes: estimate.bytes,
    })
}
