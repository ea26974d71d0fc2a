//! A writer that has opened: mints, counts acks, answers commits, takes steps of membership. The smallest thing that does so by
//! the crate's own `pgcl`, `VolumePoints` and `Change`.

use std::collections::{BTreeMap, VecDeque};

use sixfold_log_format::{
    Batch, BatchBuilder, History, Lsn, Manifest, Op, PageId, PageKind, PgEntry, PgId, Record,
    SegmentId, VolumeEpoch, WriterId,
};
use sixfold_recovery::machine::Opened;
use sixfold_recovery::membership::{
    Change, append_pg, begin_replace, finish_replace, is_complete, replacements, roll_back,
};
use sixfold_recovery::points::VolumePoints;
use sixfold_recovery::quorum::{is_write_quorum, is_write_quorum_of_all, pgcl};

use super::Weak;
use super::judge::Oracle;
use crate::common::{member, segment, volume};

/// What a writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// One transaction, with a record in each of these groups.
    Write(&'static [u32]),
    /// Waits until every commit was answered.
    Answered,
    Begin {
        pg: u32,
        out: u8,
        into: u8,
    },
    /// When the step before is complete and the newcomer is whole.
    Finish {
        pg: u32,
        out: u8,
        into: u8,
    },
    /// When the step before is complete.
    Back {
        pg: u32,
        out: u8,
        into: u8,
    },
    /// Finishes what the manifest found says is under way.
    Resume,
    /// Appends a group of these six segments.
    Grow([u8; 6]),
}

/// What it sends to a segment.
#[derive(Debug, Clone)]
pub enum Send {
    Append(Batch),
    Create {
        pg: PgId,
        manifest: Manifest,
    },
    Offer(Manifest),
    /// The segment catches up from this one, and says how far it is.
    CatchUp(SegmentId),
}

/// A step that came in force.
#[derive(Debug, Clone, Copy)]
struct Settled {
    pg: PgId,
    floor: Lsn,
    sealed: Lsn,
}

#[derive(Debug)]
pub struct Writer {
    pub epoch: VolumeEpoch,
    pub id: WriterId,
    pub history: History,
    pub manifest: Manifest,
    pub base: Lsn,
    points: VolumePoints,
    pg_last: BTreeMap<PgId, Lsn>,
    next: Lsn,
    scls: BTreeMap<SegmentId, Lsn>,
    tasks: VecDeque<Task>,
    unanswered: VecDeque<(Lsn, Vec<Lsn>)>,
    /// A step whose fresh segments are being created, with those that were.
    creating: Option<(Manifest, PgId, Vec<SegmentId>, Vec<SegmentId>)>,
    change: Option<Change>,
    settled: Option<Settled>,
    caught_up: Vec<SegmentId>,
    weak: Option<Weak>,
    outbox: Vec<(SegmentId, Send)>,
}

impl Writer {
    pub fn new(opened: &Opened, tasks: &[Task], weak: Option<Weak>) -> Writer {
        Writer {
            epoch: opened.volume_epoch,
            id: opened.writer,
            history: opened.history.clone(),
            manifest: opened.manifest.clone(),
            base: opened.vdl,
            points: VolumePoints::new(opened.vdl),
            pg_last: opened.pg_last.iter().copied().collect(),
            next: opened.vdl.next(),
            scls: opened.scls.iter().copied().collect(),
            tasks: tasks.iter().copied().collect(),
            unanswered: VecDeque::new(),
            creating: None,
            change: None,
            settled: None,
            caught_up: Vec::new(),
            weak,
            outbox: Vec::new(),
        }
    }

    /// More to do.
    pub fn give(&mut self, tasks: &[Task]) {
        self.tasks.extend(tasks);
    }

    /// What has to be sent since the last call.
    pub fn take_outbox(&mut self) -> Vec<(SegmentId, Send)> {
        std::mem::take(&mut self.outbox)
    }

    /// Goes on as far as it can without an answer.
    pub fn drive(&mut self, oracle: &mut Oracle) -> Result<(), String> {
        while let Some(&task) = self.tasks.front() {
            if !self.start(task, oracle)? {
                return Ok(());
            }
            self.tasks.pop_front();
        }
        Ok(())
    }

    /// Whether the task is done or under way, so that the next may start.
    fn start(&mut self, task: Task, oracle: &mut Oracle) -> Result<bool, String> {
        let changing = self.change.is_some() || self.creating.is_some();
        match task {
            Task::Write(pgs) => self.write(pgs, oracle),
            Task::Answered => Ok(self.unanswered.is_empty()),
            _ if changing => Ok(false),
            Task::Begin { pg, out, into } => {
                if !self.may_step(None) {
                    return Ok(false);
                }
                let pg = PgId::new(pg);
                // Somebody else may have taken this step already.
                if let Ok(to) = begin_replace(&self.manifest, pg, segment(out), member(into)) {
                    self.create(to, pg, vec![segment(into)]);
                }
                Ok(true)
            }
            Task::Finish { pg, out, into } => Ok(self.end(pg, segment(out), segment(into), true)),
            Task::Back { pg, out, into } => Ok(self.end(pg, segment(out), segment(into), false)),
            Task::Resume => {
                let entries = self.manifest.pgs.iter();
                let found = entries
                    .flat_map(|entry| replacements(entry).into_iter().map(|r| (entry.pg, r)));
                let Some((pg, under_way)) = found.collect::<Vec<_>>().first().copied() else {
                    return Ok(true);
                };
                // After a reopening everything in force is complete up to the PG's last LSN.
                self.settled.get_or_insert(Settled {
                    pg,
                    floor: self.pg_last[&pg],
                    sealed: self.pg_last[&pg],
                });
                self.end(pg.get(), under_way.out, under_way.into, true);
                Ok(false)
            }
            Task::Grow(numbers) => {
                if let Ok(to) = append_pg(&self.manifest, numbers.map(member).to_vec()) {
                    let pg = to.pgs.last().expect("it was appended").pg;
                    self.create(to, pg, numbers.map(segment).to_vec());
                }
                Ok(true)
            }
        }
    }

    fn write(&mut self, pgs: &[u32], oracle: &mut Oracle) -> Result<bool, String> {
        let known = |pg: &u32| {
            let unforced = self.weak == Some(Weak::GrowthUnforced);
            let coming = self.change.as_ref().filter(|_| unforced);
            let manifest = coming.map_or(&self.manifest, |change| change.to());
            manifest.pg(PgId::new(*pg)).is_some()
        };
        if !pgs.iter().all(known) {
            // Its group waits for its step; with nothing under way it never comes.
            return Ok(self.change.is_none() && self.creating.is_none());
        }
        let count = pgs.len() as u64;
        let cpl = self.next.plus(count - 1);
        let mut parts = Vec::new();
        for &pg in pgs {
            let (pg, lsn) = (PgId::new(pg), self.next);
            oracle.minted(lsn, pg, self.epoch)?;
            let prev = self.pg_last.insert(pg, lsn).unwrap_or(Lsn::NONE);
            let batch = self.batch(pg, prev, lsn, cpl);
            parts.push((pg, lsn));
            self.next = self.next.next();
            let members = self
                .counted(pg)
                .into_iter()
                .flat_map(|entry| entry.members());
            let sends = members.map(|member| (member.segment, Send::Append(batch.clone())));
            self.outbox.extend(sends);
        }
        oracle
            .transactions
            .push(parts.iter().map(|&(_, lsn)| lsn).collect());
        self.points.sealed(cpl, &parts);
        self.unanswered
            .push_back((cpl, parts.iter().map(|&(_, lsn)| lsn).collect()));
        Ok(true)
    }

    fn batch(&self, pg: PgId, prev: Lsn, lsn: Lsn, cpl: Lsn) -> Batch {
        let mut builder = BatchBuilder::new(volume(), pg, self.epoch, prev);
        let record = Record {
            lsn,
            page: PageId::new(2),
            page_prev: Lsn::NONE,
            cpl,
            user_visible: false,
            op: Op::Init {
                kind: PageKind::Leaf,
                level: 0,
            },
        };
        assert!(builder.push(&record));
        builder.seal(self.points.vdl(), 1)
    }

    /// What a write of this group has to satisfy now.
    fn counted(&self, pg: PgId) -> Option<PgEntry> {
        match &self.change {
            Some(change) => change.joint_entry(pg),
            None => self.manifest.pg(pg).cloned(),
        }
    }

    /// Whether a next step may be proposed: the one before is complete, and this segment is whole.
    fn may_step(&self, newcomer: Option<SegmentId>) -> bool {
        let Some(settled) = self
            .settled
            .filter(|_| self.weak != Some(Weak::Completeness))
        else {
            return true;
        };
        let scl_of = |id| self.scls.get(&id).copied().unwrap_or(Lsn::NONE);
        let entry = self.manifest.pg(settled.pg);
        let complete = entry.is_none_or(|entry| is_complete(entry, settled.floor, &scl_of));
        let whole = |id| scl_of(id) >= settled.floor.max(settled.sealed);
        complete && newcomer.is_none_or(whole)
    }

    /// Finishes a replacement, or takes it back, as soon as it may. True when it is under way or is none.
    fn end(&mut self, pg: u32, out: SegmentId, into: SegmentId, forward: bool) -> bool {
        let pg = PgId::new(pg);
        let to = match forward {
            true => finish_replace(&self.manifest, pg, out, into),
            false => roll_back(&self.manifest, pg, out, into),
        };
        let Ok(to) = to else { return true };
        if !self.may_step(forward.then_some(into)) {
            self.catch_up(pg);
            return false;
        }
        self.propose(to);
        true
    }

    /// Everybody who lacks something is told where to get it, once for each step.
    fn catch_up(&mut self, pg: PgId) {
        let Some(entry) = self.manifest.pg(pg) else {
            return;
        };
        let scl_of = |id: &SegmentId| self.scls.get(id).copied().unwrap_or(Lsn::NONE);
        let members: Vec<SegmentId> = entry
            .members()
            .iter()
            .map(|member| member.segment)
            .collect();
        let Some(source) = members.iter().copied().max_by_key(scl_of) else {
            return;
        };
        let last = self.pg_last[&pg];
        let lacking = members
            .iter()
            .filter(|&id| scl_of(id) < last && !self.caught_up.contains(id));
        let lacking: Vec<SegmentId> = lacking.copied().collect();
        self.caught_up.extend(&lacking);
        let sends = lacking.into_iter().map(|id| (id, Send::CatchUp(source)));
        self.outbox.extend(sends);
    }

    fn create(&mut self, to: Manifest, pg: PgId, fresh: Vec<SegmentId>) {
        for &id in &fresh {
            let manifest = to.clone();
            self.outbox.push((id, Send::Create { pg, manifest }));
        }
        self.creating = Some((to, pg, fresh, Vec::new()));
    }

    fn propose(&mut self, to: Manifest) {
        let change = Change::new(self.manifest.clone(), to);
        for (_, member) in change.wanted() {
            let offer = Send::Offer(change.to().clone());
            self.outbox.push((member.segment, offer));
        }
        self.change = Some(change);
    }

    /// A segment was made. A replacement waits for it; a group for a write quorum of its own.
    pub fn created(&mut self, id: SegmentId, oracle: &mut Oracle) -> Result<(), String> {
        let Some((to, pg, fresh, done)) = &mut self.creating else {
            return Ok(());
        };
        if fresh.contains(&id) && !done.contains(&id) {
            done.push(id);
        }
        let entry = to.pg(*pg).expect("it was created for this group");
        let enough = match fresh.len() {
            1 => done.len() == 1,
            _ => entry
                .sets
                .iter()
                .all(|set| is_write_quorum(set, &|id| done.contains(&id))),
        };
        if enough {
            let to = to.clone();
            self.creating = None;
            self.propose(to);
        }
        self.drive(oracle)
    }

    pub fn accepted(
        &mut self,
        id: SegmentId,
        version_of: &Manifest,
        scl: Lsn,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let Some(change) = self
            .change
            .as_mut()
            .filter(|change| change.to() == version_of)
        else {
            return Ok(());
        };
        change.accepted(id, scl);
        if change.is_in_force() || self.weak == Some(Weak::InForceAtOnce) {
            let from = change.from().clone();
            self.manifest = change.to().clone();
            let changed = self
                .manifest
                .pgs
                .iter()
                .find(|entry| from.pg(entry.pg) != Some(*entry));
            let pg = changed.expect("a step changes a group").pg;
            let sealed = self.pg_last.get(&pg).copied().unwrap_or(Lsn::NONE);
            let floor = change.floor(pg);
            self.settled = Some(Settled { pg, floor, sealed });
            self.caught_up.clear();
            self.change = None;
            oracle.steps_in_force += 1;
        }
        self.count(oracle)?;
        self.drive(oracle)
    }

    pub fn acked(&mut self, id: SegmentId, scl: Lsn, oracle: &mut Oracle) -> Result<(), String> {
        let held = self.scls.entry(id).or_insert(Lsn::NONE);
        *held = scl.max(*held);
        self.count(oracle)?;
        self.drive(oracle)
    }

    /// PGCL, VDL, answers.
    fn count(&mut self, oracle: &mut Oracle) -> Result<(), String> {
        let pgs: Vec<PgId> = self.pg_last.keys().copied().collect();
        for pg in pgs {
            let Some(entry) = self.counted(pg) else {
                continue;
            };
            let scl_of = |id| self.scls.get(&id).copied().unwrap_or(Lsn::NONE);
            let reached = pgcl(&entry, &scl_of);
            assert!(
                reached.is_none() || is_write_quorum_of_all(&entry, &|id| scl_of(id) >= reached)
            );
            self.points.advance(pg, reached);
        }
        let vdl = self.points.vdl();
        while let Some((_, lsns)) = self.unanswered.pop_front_if(|(cpl, _)| *cpl <= vdl) {
            oracle.answered(self.epoch, lsns)?;
        }
        Ok(())
    }
}
