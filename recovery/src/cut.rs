//! The cut: from the census of a fence to VCL and VDL (R1, R5, R6, R13).
//!
//! Stands between fence and truncation. It works on ranges of LSNs only; a census of millions of records costs one sort
//! of its runs. It does not judge whether enough segments answered, the fence does.
//!
//! What it relies on: `vdl_seen` of an answer is a *true floor*, that is a VDL that a writer which had opened has
//! published. A segment takes it from batches, heartbeats and `Attach` (the end of the history's last range), but never
//! from `Install`: a candidate that installed and died before its refill may have counted a record whose only holder is
//! gone since (R9), and the next cut must be free to find that gap below the installed range.

use std::collections::BTreeMap;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::Census;
use sixfold_log_format::{History, Lsn, Manifest, PgId, SegmentId, VolumeEpoch};

/// LSNs above this are nonsense: no volume lives long enough to mint them, and below it no sum overflows.
const LSN_SANE_MAX: Lsn = Lsn::new(1 << 62);

/// What a cut found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The history of the highest epoch in any answer; all others are void.
    pub history: History,
    /// The manifest of the highest version in any answer.
    pub manifest: Manifest,
    /// Everything valid up to here is held by somebody.
    pub vcl: Lsn,
    /// The highest CPL or range end at or below VCL. Everything ever answered is at or below it.
    pub vdl: Lsn,
    /// Each PG's last valid LSN at or below VDL: the next back-link, and the SCL that refill brings segments to. One
    /// entry for each PG of the manifest, in order.
    pub pg_last: Vec<(PgId, Lsn)>,
}

/// Something that cannot be if segments kept their promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// There is nothing to cut from.
    #[error("no segment answered")]
    NoAnswers,
    /// Two different records at one LSN (R13).
    #[error("two records at LSN {lsn}: one of epoch {first}, one of epoch {second}")]
    TwoRecords {
        /// The LSN.
        lsn: Lsn,
        /// An epoch.
        first: VolumeEpoch,
        /// Another one.
        second: VolumeEpoch,
    },
    /// An answer that no segment can mean: runs backwards, an unsorted history, an absurd LSN.
    #[error("the answer of segment {segment} makes no sense near LSN {lsn}")]
    Malformed {
        /// The segment.
        segment: SegmentId,
        /// Where.
        lsn: Lsn,
    },
}

/// Computes the cut from the answers of the fences of all PGs (each whole, its pieces put together).
///
/// # Errors
/// [`CutError`] when the answers contradict each other.
pub fn cut(answers: &[(PgId, Census)]) -> Result<Cut, CutError> {
    for (_, census) in answers {
        check(census)?;
    }
    let history = answers
        .iter()
        .map(|(_, census)| &census.history)
        .max_by_key(|history| match planted(Mutant::LowestHistory) {
            true => u64::MAX - history.volume_epoch.get(),
            false => history.volume_epoch.get(),
        });
    let manifest = answers
        .iter()
        .map(|(_, census)| &census.manifest)
        .max_by_key(|manifest| manifest.version);
    let (Some(history), Some(manifest)) = (history, manifest) else {
        return Err(CutError::NoAnswers);
    };
    let vdl_seen = answers
        .iter()
        .map(|(_, census)| census.vdl_seen)
        .max()
        .unwrap_or(Lsn::NONE)
        .max(history.floor);

    let pieces = valid_pieces(answers, history);
    two_records(&pieces)?;
    let vcl = walk(vdl_seen, &pieces, history);
    let vdl = highest_consistency_point(vdl_seen, vcl, answers, history);
    let pg_last = pg_last(vdl, answers, &pieces, history, manifest);
    Ok(Cut {
        history: history.clone(),
        manifest: manifest.clone(),
        vcl,
        vdl,
        pg_last,
    })
}

/// Each PG's last valid LSN at or below `vdl`, as far as these answers tell; one entry for each PG of the manifest. An
/// answer that has seen more than `vdl` may keep it to itself: its `last_valid` is above.
pub(crate) fn last_at_or_below(
    vdl: Lsn,
    answers: &[(PgId, Census)],
    history: &History,
    manifest: &Manifest,
) -> Vec<(PgId, Lsn)> {
    pg_last(
        vdl,
        answers,
        &valid_pieces(answers, history),
        history,
        manifest,
    )
}

/// A run of records that the chosen history does not annul.
#[derive(Debug, Clone, Copy)]
struct Piece {
    first: Lsn,
    last: Lsn,
    volume_epoch: VolumeEpoch,
    pg: PgId,
}

fn check(census: &Census) -> Result<(), CutError> {
    let malformed = |lsn| {
        Err(CutError::Malformed {
            segment: census.segment,
            lsn,
        })
    };
    let mut through = census.history.floor;
    for range in &census.history.ranges {
        if range.after < through || range.through <= range.after {
            return malformed(range.after);
        }
        through = range.through;
    }
    let highest = census
        .runs
        .iter()
        .map(|run| run.last)
        .max()
        .unwrap_or(Lsn::NONE);
    let highest = highest
        .max(through)
        .max(census.vdl_seen)
        .max(census.last_valid)
        .max(census.scl);
    if highest > LSN_SANE_MAX {
        return malformed(highest);
    }
    for run in &census.runs {
        let cpls_inside = run
            .cpls
            .iter()
            .all(|&cpl| cpl >= run.first && cpl <= run.last);
        if run.first.is_none() || run.last < run.first || !cpls_inside {
            return malformed(run.first);
        }
    }
    Ok(())
}

/// What is valid of all runs, by first LSN. Annulment is per record (R5), so a run may fall into several pieces.
fn valid_pieces(answers: &[(PgId, Census)], history: &History) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (pg, census) in answers {
        for run in &census.runs {
            let mut first = run.first;
            let from = history
                .ranges
                .partition_point(|range| range.through < run.first);
            for range in &history.ranges[from..] {
                if range.after >= run.last {
                    break;
                }
                if range.after >= first {
                    pieces.push(Piece {
                        first,
                        last: range.after,
                        volume_epoch: run.volume_epoch,
                        pg: *pg,
                    });
                }
                first = range.through.next();
            }
            if first <= run.last {
                pieces.push(Piece {
                    first,
                    last: run.last,
                    volume_epoch: run.volume_epoch,
                    pg: *pg,
                });
            }
        }
    }
    pieces.sort_by_key(|piece| (piece.first, piece.last));
    pieces
}

/// R13: one LSN, one record. Only one writer ever minted under an epoch, so two epochs at one LSN are two records, and
/// one LSN in two PGs is too.
fn two_records(pieces: &[Piece]) -> Result<(), CutError> {
    // For each writer and PG the piece that reaches farthest. There are few of them, but an answer may lie: with the two
    // farthest of *different* origin at hand, each new piece needs a look at one only.
    let mut farthest: Option<Piece> = None;
    let mut runner_up: Option<Piece> = None;
    let origin = |piece: &Piece| (piece.volume_epoch, piece.pg);
    for piece in pieces {
        let rival = if farthest.is_some_and(|far| origin(&far) != origin(piece)) {
            farthest
        } else {
            runner_up
        };
        if let Some(rival) = rival.filter(|rival| rival.last >= piece.first) {
            let (first, second) = (rival.volume_epoch, piece.volume_epoch);
            return Err(CutError::TwoRecords {
                lsn: piece.first,
                first,
                second,
            });
        }
        // No rival overlaps, so this piece reaches beyond every rival.
        match farthest {
            Some(far) if origin(&far) == origin(piece) => {
                farthest = Some(if piece.last > far.last { *piece } else { far });
            }
            _ => {
                runner_up = farthest;
                farthest = Some(*piece);
            }
        }
    }
    Ok(())
}

/// From `start` through valid records and annulled ranges to the first gap: VCL. Density makes this exact.
fn walk(start: Lsn, pieces: &[Piece], history: &History) -> Lsn {
    let mut complete = start;
    let mut covered = start;
    let mut ahead = pieces.iter().peekable();
    loop {
        if let Some(range) = history.range_of(complete.next()) {
            complete = range.through;
            continue;
        }
        while let Some(piece) = ahead.next_if(|piece| piece.first <= complete.next()) {
            covered = covered.max(piece.last);
        }
        if covered <= complete {
            if let Some(piece) = ahead.peek().filter(|_| planted(Mutant::CutPastAGap)) {
                covered = piece.last;
            } else {
                return complete;
            }
        }
        complete = covered;
    }
}

/// VDL: the highest CPL or range end at or below VCL (R1), at least the VDL that was seen.
fn highest_consistency_point(
    vdl_seen: Lsn,
    vcl: Lsn,
    answers: &[(PgId, Census)],
    history: &History,
) -> Lsn {
    let cpls = answers
        .iter()
        .flat_map(|(_, census)| &census.runs)
        .flat_map(|run| &run.cpls)
        .copied();
    if planted(Mutant::CutInsideAnMtr) {
        return vcl;
    }
    let range_ends = history.ranges.iter().map(|range| range.through);
    let range_ends = range_ends.filter(|_| !planted(Mutant::RangeEndNoCpl));
    let valid_cpls = cpls.filter(|&cpl| !history.annuls(cpl));
    valid_cpls
        .chain(range_ends)
        .filter(|&point| point <= vcl)
        .max()
        .map_or(vdl_seen, |point| point.max(vdl_seen))
}

fn pg_last(
    vdl: Lsn,
    answers: &[(PgId, Census)],
    pieces: &[Piece],
    history: &History,
    manifest: &Manifest,
) -> Vec<(PgId, Lsn)> {
    let mut highest: BTreeMap<PgId, Lsn> = manifest
        .pgs
        .iter()
        .map(|entry| (entry.pg, Lsn::NONE))
        .collect();
    let below = answers.iter().map(|(pg, census)| (*pg, census.last_valid));
    let above = pieces
        .iter()
        .filter(|piece| piece.first <= vdl)
        .map(|piece| (piece.pg, piece.last.min(vdl)));
    for (pg, lsn) in below.chain(above) {
        if lsn <= vdl && !history.annuls(lsn) {
            let last = highest.entry(pg).or_insert(Lsn::NONE);
            *last = lsn.max(*last);
        }
    }
    highest.into_iter().collect()
}
