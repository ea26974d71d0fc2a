//! The new history of a reopening (R1).
//!
//! Stands behind the cut: what the cut did not keep is annulled, and room is left so that no late write of an earlier
//! writer can ever meet a new LSN.

use sixfold_log_format::limits::HISTORY_RANGES_MAX;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{AnnulledRange, History, Lsn, VolumeEpoch};

/// Whether a reopening that found `vdl` can add its range to this history. One that can not must not open: a history with
/// more than [`HISTORY_RANGES_MAX`] ranges is none that anybody would read back.
pub fn has_room(found: &History, vdl: Lsn) -> bool {
    // As `extend` counts: what lies above `vdl` is covered by the new range, what ends at it is merged into it.
    let kept = found.ranges.iter().filter(|range| range.through < vdl);
    kept.count() < HISTORY_RANGES_MAX
}

/// The history found plus `(vdl, max(vdl + lal, highest end)]`, versioned with `volume_epoch`. Ranges that the new one
/// covers or touches are merged into it. Its end is the new VDL and VCL; new LSNs start above it.
///
/// Nothing is folded into the floor yet: that needs a horizon below which segments are rebuilt from layers. A history
/// therefore grows by one range for each reopening that found new records.
///
/// # Panics
/// When `volume_epoch` is not above the history's, when `vdl` lies inside an annulled range but not at its end, or when
/// the history would list more than [`HISTORY_RANGES_MAX`] ranges: ask [`has_room`] first.
pub fn extend(found: &History, vdl: Lsn, lal: u64, volume_epoch: VolumeEpoch) -> History {
    assert!(
        volume_epoch > found.volume_epoch,
        "epoch {volume_epoch} is not above {}, which wrote the history found",
        found.volume_epoch
    );
    assert!(lal > 0, "without an allocation limit nothing can be minted");
    assert!(
        vdl >= found.floor,
        "VDL {vdl} lies below the floor {}",
        found.floor
    );
    if let Some(range) = found.range_of(vdl) {
        assert!(
            vdl == range.through,
            "VDL {vdl} lies inside ({}, {}]",
            range.after,
            range.through
        );
    }

    let lal = if planted(Mutant::LsnReuse) { 1 } else { lal };
    let through = vdl.plus(lal).max(found.highest_end());
    let mut ranges: Vec<_> = found
        .ranges
        .iter()
        .copied()
        .filter(|range| range.through <= vdl)
        .collect();
    let after = match ranges.pop_if(|range| range.through == vdl) {
        Some(touching) => touching.after,
        None => vdl,
    };
    ranges.push(AnnulledRange {
        after,
        through,
        volume_epoch,
    });
    assert!(
        ranges.len() <= HISTORY_RANGES_MAX,
        "a history of {} ranges is above the limit of {HISTORY_RANGES_MAX}: older ones have to fold into the floor first",
        ranges.len()
    );
    History {
        volume_epoch,
        floor: found.floor,
        ranges,
    }
}
