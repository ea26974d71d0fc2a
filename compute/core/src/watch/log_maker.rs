//! For tests: a volume's log, as a writer and its successors would leave it, and the commits that are in it.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

use std::borrow::Cow;

use bytes::Bytes;
use sixfold_log_format::wire::LogPiece;
use sixfold_log_format::{
    AnnulledRange, Batch, BatchBuilder, Cell, CellFlags, History, Lsn, Op, PageId, PgId, Record,
    SegmentId, Stamp, VolumeEpoch, VolumeId,
};

use super::{Change, ChangeValue, CommitChanges, LogAnswer, LogWant, WatchRange};

pub(super) const VOLUME: VolumeId = VolumeId::from_bytes([7; 16]);

/// Everything.
pub(super) fn all() -> WatchRange {
    WatchRange {
        start: Bytes::new(),
        end: None,
    }
}

/// Numbers that look random.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What a record of an MTR does.
#[derive(Debug, Clone)]
pub(super) enum Do {
    Put(String, String),
    PutLarge(String),
    Delete(String),
    Clear(String, String),
    /// The row of the expiry index for a key.
    Unindex(String),
    /// Something that no user sees.
    Noise,
}

pub(super) fn put(key: &str, value: &str) -> Do {
    Do::Put(key.to_owned(), value.to_owned())
}

/// The log.
pub(super) struct LogMaker {
    pub(super) volume_epoch: VolumeEpoch,
    pub(super) history: History,
    pub(super) last: Lsn,
    /// Highest CPL sealed.
    pub(super) vdl: Lsn,
    builders: Vec<BatchBuilder>,
    /// By group: what a whole segment holds.
    pub(super) batches: Vec<Vec<Batch>>,
    /// By seal: its point, and its batches.
    pub(super) seals: Vec<(Lsn, Vec<Batch>)>,
    open_seal: Vec<Batch>,
    pub(super) commits: Vec<CommitChanges>,
    last_cpl: Lsn,
}

impl LogMaker {
    pub(super) fn new(group_count: usize) -> LogMaker {
        let volume_epoch = VolumeEpoch::new(2);
        let mut maker = LogMaker {
            volume_epoch,
            history: History {
                volume_epoch,
                floor: Lsn::NONE,
                ranges: Vec::new(),
            },
            last: Lsn::NONE,
            vdl: Lsn::NONE,
            builders: Vec::new(),
            batches: vec![Vec::new(); group_count],
            seals: Vec::new(),
            open_seal: Vec::new(),
            commits: Vec::new(),
            last_cpl: Lsn::NONE,
        };
        maker.open();
        maker
    }

    pub(super) fn pgs(&self) -> Vec<PgId> {
        (0..self.batches.len() as u32).map(PgId::new).collect()
    }

    fn open(&mut self) {
        self.builders = (0..self.batches.len())
            .map(|index| {
                let last = self.last_valid(index, Lsn::MAX);
                BatchBuilder::new(VOLUME, PgId::new(index as u32), self.volume_epoch, last)
            })
            .collect();
    }

    /// The group's last valid LSN at or below `at_most`.
    pub(super) fn last_valid(&self, group: usize, at_most: Lsn) -> Lsn {
        let lsns = self.batches[group]
            .iter()
            .flat_map(|batch| batch.records().map(|placed| placed.record.lsn));
        lsns.filter(|&lsn| lsn <= at_most && !self.history.annuls(lsn))
            .max()
            .unwrap_or(Lsn::NONE)
    }

    /// Mints an MTR: each record goes to a group. `None` in place of a record seals that group's batch in the middle of the MTR.
    pub(super) fn mtr(&mut self, records: &[(usize, Option<Do>)]) -> Lsn {
        let count = records.iter().filter(|(_, what)| what.is_some()).count() as u64;
        let cpl = self.last.plus(count);
        let before = self.last;
        let mut changes = Vec::new();
        for (group, what) in records {
            let Some(what) = what else {
                self.seal_group(*group);
                continue;
            };
            self.last = self.last.next();
            let record = record(self.last, cpl, *group, what);
            assert!(self.builders[*group].push(&record));
            changes.extend(change(what));
        }
        assert_eq!(self.last, cpl);
        self.last_cpl = cpl;
        if !changes.is_empty() {
            self.commits.push(CommitChanges {
                lsn: cpl,
                before,
                changes,
            });
        }
        cpl
    }

    /// The beginning of an MTR that never ends.
    pub(super) fn torn(&mut self, group: usize, what: &Do) {
        let cpl = self.last.plus(100);
        self.last = self.last.next();
        assert!(self.builders[group].push(&record(self.last, cpl, group, what)));
    }

    fn seal_group(&mut self, group: usize) {
        if !self.builders[group].is_empty() {
            let batch = self.builders[group].seal(self.vdl, 1);
            self.batches[group].push(batch.clone());
            self.open_seal.push(batch);
        }
    }

    /// Seals all open batches.
    pub(super) fn seal(&mut self) {
        for group in 0..self.builders.len() {
            self.seal_group(group);
        }
        if self.last_cpl > self.vdl {
            self.vdl = self.last_cpl;
            let batches = std::mem::take(&mut self.open_seal);
            self.seals.push((self.vdl, batches));
        }
    }

    /// Another writer annuls everything above `cut`, a CPL, and goes on. Batches that are annulled in part stay as they are, wholly annulled
    /// ones too when `keep`.
    pub(super) fn reopen(&mut self, cut: Lsn, gap: u64, keep: bool) {
        self.seal();
        self.volume_epoch = VolumeEpoch::new(self.volume_epoch.get() + 1);
        let through = self.last.plus(gap);
        self.history.volume_epoch = self.volume_epoch;
        self.history.ranges.push(AnnulledRange {
            after: cut,
            through,
            volume_epoch: self.volume_epoch,
        });
        if !keep {
            for batches in &mut self.batches {
                batches.retain(|batch| batch.header().first <= cut);
            }
        }
        self.commits.retain(|commit| commit.lsn <= cut);
        (self.last, self.vdl, self.last_cpl) = (through, through, through);
        self.seals.clear();
        self.open_seal.clear();
        self.open();
    }

    /// What a whole segment of the group answers.
    pub(super) fn answer(&self, want: &LogWant, through: Lsn, batches_max: usize) -> LogAnswer {
        let group = want.pg.get() as usize;
        let wanted = |batch: &&Batch| {
            let inside = |lsn: &Lsn| *lsn > want.after && *lsn <= through;
            let lsns: Vec<Lsn> = batch.records().map(|placed| placed.record.lsn).collect();
            lsns.iter().any(inside) && lsns.iter().any(|lsn| !self.history.annuls(*lsn))
        };
        let found: Vec<&Batch> = self.batches[group].iter().filter(wanted).collect();
        let more = found.len() > batches_max;
        let batches = found.iter().take(batches_max);
        LogAnswer {
            segment: SegmentId::from_bytes([1; 16]),
            pg: want.pg,
            after: want.after,
            through,
            pg_last: self.last_valid(group, through),
            piece: LogPiece {
                batches: batches.map(|batch| batch.bytes().clone()).collect(),
                more,
            },
        }
    }

    /// The commits above `from`.
    pub(super) fn commits_after(&self, from: Lsn) -> Vec<CommitChanges> {
        let after = |commit: &&CommitChanges| commit.lsn > from && commit.lsn <= self.vdl;
        self.commits.iter().filter(after).cloned().collect()
    }

    /// Random MTRs and seals.
    pub(super) fn grow(&mut self, dice: &mut Dice, mtr_count: u64) {
        for _ in 0..mtr_count {
            let groups = self.batches.len() as u64;
            let busy = 1 + dice.below(groups);
            let records: Vec<(usize, Option<Do>)> = (0..1 + dice.below(6))
                .map(|_| {
                    let key = format!("key {:02}", dice.below(40));
                    let what = match dice.below(8) {
                        0 => Some(Do::Noise),
                        1 => Some(Do::Delete(key)),
                        2 => Some(Do::Clear(key.clone(), format!("{key}~"))),
                        3 => Some(Do::PutLarge(key)),
                        4 if dice.below(3) == 0 => None,
                        _ => Some(put(&key, &format!("value {}", dice.below(1_000)))),
                    };
                    (dice.below(busy) as usize, what)
                })
                .collect();
            if records.iter().any(|(_, what)| what.is_some()) {
                self.mtr(&records);
            }
            if dice.below(3) == 0 {
                self.seal();
            }
        }
        self.seal();
    }
}

fn change(what: &Do) -> Option<Change> {
    let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
    Some(match what {
        Do::Put(key, value) => Change::Put {
            key: bytes(key),
            value: ChangeValue::Inline(bytes(value)),
            deadline_ms: None,
        },
        Do::PutLarge(key) => Change::Put {
            key: bytes(key),
            value: ChangeValue::Large,
            deadline_ms: None,
        },
        Do::Delete(key) => Change::Delete { key: bytes(key) },
        Do::Clear(start, end) => Change::DeleteRange {
            start: bytes(start),
            end: Some(bytes(end)),
        },
        Do::Unindex(_) | Do::Noise => return None,
    })
}

fn record<'a>(lsn: Lsn, cpl: Lsn, group: usize, what: &'a Do) -> Record<'a> {
    let borrowed = |text: &'a String| Cow::Borrowed(text.as_bytes());
    let cell = |key, value, flags| Cell {
        key,
        value,
        stamp: Stamp::Commit,
        flags,
        deadline_ms: None,
    };
    let op = match what {
        Do::Put(key, value) => Op::Insert {
            slot: 0,
            cell: cell(borrowed(key), borrowed(value), CellFlags::PLAIN),
        },
        Do::PutLarge(key) => Op::Replace {
            slot: 0,
            cell: cell(borrowed(key), Cow::Borrowed(&[1; 20]), CellFlags::OVERFLOW),
        },
        Do::Delete(key) => Op::Remove {
            slot: 0,
            key: borrowed(key),
        },
        Do::Unindex(key) => Op::Remove {
            slot: 0,
            key: [&b"\0d\0\0\0\0\0\0\0\x09"[..], key.as_bytes()]
                .concat()
                .into(),
        },
        Do::Clear(start, end) => Op::DeleteRange {
            start: borrowed(start),
            end: borrowed(end),
        },
        Do::Noise => Op::WriteBytes {
            offset: 0,
            bytes: Cow::Borrowed(b"noise"),
        },
    };
    Record {
        lsn,
        page: PageId::new(group as u64 * 100 + 1),
        page_prev: Lsn::NONE,
        cpl,
        user_visible: !matches!(what, Do::Noise),
        op,
    }
}
