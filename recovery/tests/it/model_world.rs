//! A small random world of one protection group: six segments, one record a batch, every record a CPL, writers that open,
//! die and pause, messages that are lost, doubled and late. It uses the crate's own guard, cut, history and PGCL, and each
//! rule can be switched off alone, to see that it is needed.

use std::collections::{BTreeMap, BTreeSet};

use sixfold_log_format::wire::{Census, CensusRun};
use sixfold_log_format::{AnnulledRange, History, Lsn, Manifest, PgId, VolumeEpoch, WriterId};
use sixfold_recovery::cut::cut;
use sixfold_recovery::epoch::EpochGuard;
use sixfold_recovery::quorum::pgcl;
use sixfold_recovery::truncate::extend;

use crate::common::{epoch, lsn, manifest, segment};

pub const LAL: u64 = 3;
const QUORUM: usize = 4;
const SEGMENTS: usize = 6;

/// What can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// R1: a range's end is a VDL, new LSNs start above every range ever written.
    RangeEndIsCpl,
    /// R2: no ack of a lower epoch is produced once a claim is accepted.
    NoAckAfterClaim,
    /// R3: nothing of an epoch is taken or served without its history.
    HistoryFirst,
    /// R4: no history below the claim is taken from a peer.
    NoHistoryBelowClaim,
    /// R13: a duplicate has the same LSN, epoch and bytes.
    DuplicateIsIdentical,
    /// The highest history counts whole; off: histories are merged.
    HighestHistoryWhole,
    /// R5: an SCL counts under its history only.
    SclNamesItsHistory,
    /// A range's end is a VDL that was seen when its writer opened; off: when it was installed.
    FloorOnlyWhenOpen,
    /// Annulled records stay stored; off: a history that is taken deletes them.
    AnnulledStaysStored,
    /// R9: refill counts a segment under the new history only; off: what the census said counts too.
    RefillCountsUnderHistory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rec {
    pub lsn: u64,
    pub epoch: u64,
    pub prev: u64,
    pub tag: u64,
    pub vdl: u64,
}

pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
    /// True in `share` of a thousand cases.
    pub fn chance(&mut self, share: u64) -> bool {
        self.next() % 1000 < share
    }
}

#[derive(Clone)]
pub struct Seg {
    pub guard: EpochGuard,
    pub history: History,
    pub log: BTreeMap<u64, Vec<Rec>>,
    pub pending: Vec<(Rec, usize, u64)>,
    pub floor: u64,
}

impl Seg {
    fn new() -> Seg {
        let history = History::creation();
        Seg {
            guard: EpochGuard::creation(),
            history,
            log: BTreeMap::new(),
            pending: Vec::new(),
            floor: 0,
        }
    }
    fn records(&self) -> impl Iterator<Item = Rec> + '_ {
        self.log.values().flatten().copied()
    }
    fn valid(&self) -> impl Iterator<Item = Rec> + '_ {
        self.records()
            .filter(|rec| !self.history.annuls(lsn(rec.lsn)))
    }
    pub fn scl(&self) -> u64 {
        let mut scl = 0;
        while let Some(rec) = self.valid().find(|rec| rec.prev == scl && rec.lsn > scl) {
            scl = rec.lsn;
        }
        scl
    }
    fn vdl_seen(&self) -> u64 {
        self.records()
            .map(|rec| rec.vdl)
            .max()
            .unwrap_or(0)
            .max(self.floor)
    }
    fn census(&self, number: usize, claim: u64, manifest: &Manifest) -> Census {
        let vdl_seen = self.vdl_seen();
        let run = |rec: Rec| CensusRun {
            first: lsn(rec.lsn),
            last: lsn(rec.lsn),
            volume_epoch: epoch(rec.epoch),
            cpls: vec![lsn(rec.lsn)],
        };
        Census {
            segment: segment(number as u8),
            volume_epoch: epoch(claim),
            history: self.history.clone(),
            manifest: manifest.clone(),
            scl: lsn(self.scl()),
            vdl_seen: lsn(vdl_seen),
            last_valid: lsn(self
                .valid()
                .map(|rec| rec.lsn)
                .filter(|&last| last <= vdl_seen)
                .max()
                .unwrap_or(0)),
            lease_left_ms: 0,
            runs: self
                .records()
                .filter(|rec| rec.lsn > vdl_seen)
                .map(run)
                .collect(),
            more: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Claim,
    Install,
    Refill,
    Open,
    Fenced,
}

pub struct Writer {
    id: WriterId,
    pub phase: Phase,
    pub epoch: u64,
    answers: BTreeMap<usize, (Census, Vec<Rec>)>,
    pub history: History,
    /// What it found, as the oracle sees it.
    pub view: Vec<Rec>,
    installed: BTreeSet<usize>,
    refilled: BTreeSet<usize>,
    acks: BTreeMap<usize, u64>,
    pub own: Vec<Rec>,
    tail: u64,
    next: u64,
    base: u64,
    vdl: u64,
    pub dead: bool,
}

#[derive(Clone)]
pub enum Msg {
    Claim {
        to: usize,
        w: usize,
        e: u64,
    },
    Install {
        to: usize,
        w: usize,
        e: u64,
    },
    Refill {
        to: usize,
        w: usize,
        e: u64,
        rec: Rec,
    },
    Batch {
        to: usize,
        w: usize,
        e: u64,
        rec: Rec,
    },
    Nack {
        w: usize,
        claim: u64,
    },
    Census {
        w: usize,
        e: u64,
        from: usize,
        census: Box<Census>,
        log: Vec<Rec>,
    },
    Installed {
        w: usize,
        e: u64,
        from: usize,
    },
    Filled {
        w: usize,
        e: u64,
        from: usize,
        scl: u64,
        history: u64,
    },
    Ack {
        w: usize,
        e: u64,
        from: usize,
        scl: u64,
        history: u64,
    },
}

impl Msg {
    fn to(&self) -> Option<usize> {
        match *self {
            Msg::Claim { to, .. }
            | Msg::Install { to, .. }
            | Msg::Refill { to, .. }
            | Msg::Batch { to, .. } => Some(to),
            _ => None,
        }
    }
}

/// What a run can do wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    Lost(String),
    TwoRecords(String),
    WrongPage(String),
}

pub struct World {
    pub rng: Rng,
    off: Vec<Rule>,
    manifest: Manifest,
    pub segs: Vec<Seg>,
    pub msgs: Vec<Msg>,
    pub writers: Vec<Writer>,
    pub answered: Vec<(u64, Rec)>,
    pub opened: Vec<usize>,
    tag: u64,
    slow: Vec<usize>,
    slow_share: u64,
    disk_share: u64,
    new_share: u64,
    mint_share: u64,
}

type Outcome = Result<(), Bad>;

impl World {
    pub fn new(seed: u64, off: &[Rule]) -> World {
        let mut rng = Rng::new(seed);
        let mut pick = |from: &[u64]| from[rng.below(from.len())];
        let (slow_share, disk_share) = (pick(&[4, 20, 60]), pick(&[100, 400, 1000]));
        let (new_share, mint_share) = (pick(&[150, 500, 1000]), pick(&[200, 600]));
        let mut world = World {
            rng,
            off: off.to_vec(),
            manifest: manifest(),
            segs: (0..SEGMENTS).map(|_| Seg::new()).collect(),
            msgs: Vec::new(),
            writers: Vec::new(),
            answered: Vec::new(),
            opened: Vec::new(),
            tag: 0,
            slow: Vec::new(),
            slow_share,
            disk_share,
            new_share,
            mint_share,
        };
        // The first writer has opened already; its segments know its history.
        let first = world.writer();
        let history = extend(&History::creation(), Lsn::NONE, LAL, epoch(2));
        let writer = &mut world.writers[first];
        (writer.phase, writer.epoch, writer.history) = (Phase::Open, 2, history.clone());
        (writer.base, writer.vdl, writer.next) = (LAL, LAL, LAL + 1);
        let id = writer.id;
        for seg in &mut world.segs {
            seg.guard.install(epoch(2), id).unwrap();
            seg.history = history.clone();
            seg.floor = LAL;
        }
        world.opened.push(first);
        world
    }

    pub fn on(&self, rule: Rule) -> bool {
        !self.off.contains(&rule)
    }

    fn fresh_id(&mut self) -> WriterId {
        self.tag += 1;
        let mut bytes = [1; 16];
        bytes[..8].copy_from_slice(&self.tag.to_le_bytes());
        WriterId::from_bytes(bytes)
    }

    pub fn writer(&mut self) -> usize {
        let id = self.fresh_id();
        self.writers.push(Writer {
            id,
            phase: Phase::Claim,
            epoch: 0,
            answers: BTreeMap::new(),
            history: History::creation(),
            view: Vec::new(),
            installed: BTreeSet::new(),
            refilled: BTreeSet::new(),
            acks: BTreeMap::new(),
            own: Vec::new(),
            tail: 0,
            next: 0,
            base: 0,
            vdl: 0,
            dead: false,
        });
        self.writers.len() - 1
    }

    /// A new attempt of this writer, under an id of its own.
    pub fn claim_epoch(&mut self, w: usize, e: u64) {
        let id = self.fresh_id();
        let writer = &mut self.writers[w];
        (writer.id, writer.epoch) = (id, e);
        writer.answers.clear();
    }

    fn send(&mut self, msg: Msg) {
        self.msgs.push(msg);
        if self.msgs.len() > 40 {
            let dropped = self.rng.below(self.msgs.len());
            self.msgs.remove(dropped);
        }
    }

    pub fn step(&mut self) -> Outcome {
        let what = self.rng.below(1000);
        let live: Vec<usize> = (0..self.writers.len())
            .filter(|&w| !self.writers[w].dead)
            .collect();
        if self.rng.chance(self.slow_share) {
            let count = [0, 1, 2, 2][self.rng.below(4)];
            self.slow = (0..count).map(|_| self.rng.below(SEGMENTS)).collect();
        }
        match what {
            0..550 if !self.msgs.is_empty() => self.deliver_one(),
            550..660 => {
                let to = self.rng.below(SEGMENTS);
                if !self.segs[to].pending.is_empty() && self.rng.chance(self.disk_share) {
                    self.complete(to);
                }
                Ok(())
            }
            660..840 if !live.is_empty() => {
                let recent = self.rng.chance(800);
                let from = if recent {
                    live.len().saturating_sub(2)
                } else {
                    0
                };
                let w = live[from + self.rng.below(live.len() - from)];
                self.writer_step(w)
            }
            840..870 => {
                let (to, from) = (self.rng.below(SEGMENTS), self.rng.below(SEGMENTS));
                if to != from {
                    self.gossip(to, from);
                }
                Ok(())
            }
            870..875 => {
                let to = self.rng.below(SEGMENTS);
                self.segs[to].pending.clear();
                Ok(())
            }
            875..880 => {
                let last_is_open = self
                    .writers
                    .last()
                    .is_some_and(|writer| writer.phase == Phase::Open);
                let wanted = self.rng.chance(self.new_share * 3 / 10)
                    || (last_is_open && self.rng.chance(600));
                if self.writers.len() < 16 && wanted {
                    self.writer();
                }
                Ok(())
            }
            880..884 if live.len() > 1 && self.rng.chance(500) => {
                let dead = live[self.rng.below(live.len())];
                self.writers[dead].dead = true;
                Ok(())
            }
            _ => self.read(),
        }
    }

    fn deliver_one(&mut self) -> Outcome {
        let index = self.rng.below(self.msgs.len());
        if self.msgs[index]
            .to()
            .is_some_and(|to| self.slow.contains(&to))
            && self.rng.chance(970)
        {
            return Ok(());
        }
        let msg = self.msgs.swap_remove(index);
        if self.rng.chance(50) {
            self.msgs.push(msg.clone());
        }
        if self.rng.chance(100) {
            Ok(())
        } else {
            self.deliver(msg)
        }
    }

    fn writer_step(&mut self, w: usize) -> Outcome {
        let e = self.writers[w].epoch;
        let to = self.rng.below(SEGMENTS);
        let msg = match self.writers[w].phase {
            Phase::Fenced => return Ok(()),
            Phase::Open => {
                self.ship(w);
                return Ok(());
            }
            _ if self.slow.contains(&to) && self.rng.chance(900) => return Ok(()),
            Phase::Claim => {
                if e == 0 || self.rng.chance(30) {
                    let seen =
                        (0..2).map(|_| self.segs[self.rng.below(SEGMENTS)].guard.claim.get());
                    let seen = seen.max().unwrap().max(e);
                    self.claim_epoch(w, seen + 1);
                }
                Msg::Claim {
                    to,
                    w,
                    e: self.writers[w].epoch,
                }
            }
            Phase::Install => Msg::Install { to, w, e },
            Phase::Refill => {
                if self.writers[w].view.is_empty() {
                    return self.open(w);
                }
                let view = &self.writers[w].view;
                let lacks = view
                    .iter()
                    .find(|rec| !self.segs[to].records().any(|held| held == **rec));
                Msg::Refill {
                    to,
                    w,
                    e,
                    rec: *lacks.unwrap_or(&view[0]),
                }
            }
        };
        if self.rng.chance(150) {
            self.send(msg.clone());
        }
        if self.rng.chance(900) {
            let before = self.msgs.len();
            self.deliver(msg)?;
            if self.msgs.len() > before && self.rng.chance(850) {
                let answer = self.msgs.pop().unwrap();
                self.deliver(answer)?;
            }
        }
        Ok(())
    }

    pub fn mint(&mut self, w: usize) -> Rec {
        self.tag += 1;
        let writer = &mut self.writers[w];
        let rec = Rec {
            lsn: writer.next,
            epoch: writer.epoch,
            prev: writer.tail,
            tag: self.tag,
            vdl: writer.vdl,
        };
        writer.own.push(rec);
        (writer.tail, writer.next) = (rec.lsn, rec.lsn + 1);
        rec
    }

    fn ship(&mut self, w: usize) {
        let writer = &self.writers[w];
        if writer.next <= writer.vdl.max(writer.base) + LAL && self.rng.chance(self.mint_share) {
            self.mint(w);
        }
        let recent: Vec<Rec> = self.writers[w].own.iter().rev().take(4).copied().collect();
        let e = self.writers[w].epoch;
        for rec in recent {
            for to in 0..SEGMENTS {
                if self.rng.chance(350) {
                    self.send(Msg::Batch { to, w, e, rec });
                }
            }
        }
    }

    fn set_history(&mut self, to: usize, history: &History) {
        let merge = !self.on(Rule::HighestHistoryWhole);
        let keep = self.on(Rule::AnnulledStaysStored);
        let seg = &mut self.segs[to];
        if merge {
            seg.history = merged(&seg.history, history);
        } else if history.volume_epoch > seg.history.volume_epoch {
            seg.history = history.clone();
        }
        if !keep {
            let held = seg.history.clone();
            seg.log.retain(|&number, _| !held.annuls(lsn(number)));
        }
    }

    /// What a connection of an epoch does to a segment. Returns the claim that refuses it.
    fn connect(&mut self, to: usize, w: usize, e: u64, open: bool) -> Result<(), u64> {
        let id = self.writers[w].id;
        if self.on(Rule::HistoryFirst) {
            let held = &mut self.segs[to].guard;
            held.install(epoch(e), id)
                .map_err(|stale| stale.claim.get())?;
            let history = self.writers[w].history.clone();
            self.set_history(to, &history);
        } else {
            let held = &mut self.segs[to].guard;
            if e < held.claim.get() || (e == held.claim.get() && held.writer != id) {
                return Err(held.claim.get());
            }
            (held.claim, held.writer) = (epoch(e), id);
        }
        if open && self.on(Rule::HistoryFirst) {
            let seg = &mut self.segs[to];
            seg.floor = seg.floor.max(self.writers[w].base);
        }
        Ok(())
    }

    pub fn deliver(&mut self, msg: Msg) -> Outcome {
        match msg {
            Msg::Claim { to, w, e } => {
                let id = self.writers[w].id;
                let claimed = if e == self.writers[w].epoch {
                    self.segs[to].guard.claim(epoch(e), id)
                } else {
                    return Ok(());
                };
                match claimed {
                    Err(stale) => self.send(Msg::Nack {
                        w,
                        claim: stale.claim.get(),
                    }),
                    Ok(()) => {
                        let census = Box::new(self.segs[to].census(to, e, &self.manifest));
                        let log = self.segs[to].records().collect();
                        self.send(Msg::Census {
                            w,
                            e,
                            from: to,
                            census,
                            log,
                        });
                    }
                }
            }
            Msg::Install { to, w, e } => {
                let id = self.writers[w].id;
                match self.segs[to].guard.install(epoch(e), id) {
                    Err(stale) => self.send(Msg::Nack {
                        w,
                        claim: stale.claim.get(),
                    }),
                    Ok(_) => {
                        let history = self.writers[w].history.clone();
                        self.set_history(to, &history);
                        if !self.on(Rule::FloorOnlyWhenOpen) {
                            self.segs[to].floor =
                                self.segs[to].floor.max(history.highest_end().get());
                        }
                        self.send(Msg::Installed { w, e, from: to });
                    }
                }
            }
            Msg::Refill { to, w, e, rec } => match self.connect(to, w, e, false) {
                Err(claim) => self.send(Msg::Nack { w, claim }),
                Ok(()) => {
                    self.put(to, rec);
                    let (scl, history) = (
                        self.segs[to].scl(),
                        self.segs[to].history.volume_epoch.get(),
                    );
                    self.send(Msg::Filled {
                        w,
                        e,
                        from: to,
                        scl,
                        history,
                    });
                }
            },
            Msg::Batch { to, w, e, rec } => match self.connect(to, w, e, true) {
                Err(claim) => self.send(Msg::Nack { w, claim }),
                Ok(()) => self.segs[to].pending.push((rec, w, e)),
            },
            answer => return self.answer(answer),
        }
        Ok(())
    }

    fn answer(&mut self, msg: Msg) -> Outcome {
        let (Msg::Nack { w, .. }
        | Msg::Census { w, .. }
        | Msg::Installed { w, .. }
        | Msg::Filled { w, .. }
        | Msg::Ack { w, .. }) = msg
        else {
            return Ok(());
        };
        let writer = &mut self.writers[w];
        if writer.dead {
            return Ok(());
        }
        match (msg, writer.phase) {
            (Msg::Nack { claim, .. }, Phase::Claim) if claim >= writer.epoch => {
                self.claim_epoch(w, claim + 1)
            }
            (Msg::Nack { claim, .. }, Phase::Install | Phase::Refill) if claim > writer.epoch => {
                writer.phase = Phase::Fenced;
            }
            (
                Msg::Census {
                    e,
                    from,
                    census,
                    log,
                    ..
                },
                Phase::Claim,
            ) if e == writer.epoch => {
                writer.answers.insert(from, (*census, log));
                if writer.answers.len() >= QUORUM {
                    return self.cut(w);
                }
            }
            (Msg::Installed { e, from, .. }, Phase::Install) if e == writer.epoch => {
                writer.installed.insert(from);
                if writer.installed.len() >= QUORUM {
                    writer.phase = Phase::Refill;
                }
            }
            (
                Msg::Filled {
                    e,
                    from,
                    scl,
                    history,
                    ..
                },
                Phase::Refill,
            ) if e == writer.epoch => {
                let last = writer.view.last().map_or(0, |rec| rec.lsn);
                let named =
                    history == e || !self.off.is_empty() && !self.on(Rule::SclNamesItsHistory);
                let writer = &mut self.writers[w];
                if scl == last && (named || self.off.contains(&Rule::HistoryFirst)) {
                    writer.refilled.insert(from);
                }
                if writer.refilled.len() >= QUORUM || writer.view.is_empty() {
                    return self.open(w);
                }
            }
            (
                Msg::Ack {
                    e,
                    from,
                    scl,
                    history,
                    ..
                },
                Phase::Open,
            ) if e == writer.epoch => {
                let named = history == writer.history.volume_epoch.get();
                if named || !self.on(Rule::SclNamesItsHistory) || !self.on(Rule::HistoryFirst) {
                    return self.ack(w, from, scl);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ack(&mut self, w: usize, from: usize, scl: u64) -> Outcome {
        let writer = &mut self.writers[w];
        let held = writer.acks.entry(from).or_insert(0);
        *held = scl.max(*held);
        let acks = &writer.acks;
        let scl_of = |id: sixfold_log_format::SegmentId| {
            lsn(acks
                .get(&usize::from(id.as_bytes()[0] - 1))
                .copied()
                .unwrap_or(0))
        };
        let durable = pgcl(&self.manifest.pgs[0], &scl_of).get();
        let (e, vdl) = (writer.epoch, writer.vdl);
        let news: Vec<Rec> = writer
            .own
            .iter()
            .filter(|rec| rec.lsn <= durable && rec.lsn > vdl)
            .copied()
            .collect();
        writer.vdl = news.last().map_or(vdl, |rec| rec.lsn);
        for rec in news {
            self.answered.push((e, rec));
            for &other in &self.opened {
                let other = &self.writers[other];
                if other.epoch > e && !other.view.contains(&rec) {
                    return Err(Bad::Lost(format!(
                        "{rec:?} answered after epoch {} opened without it",
                        other.epoch
                    )));
                }
            }
        }
        Ok(())
    }

    /// Returns whether the segment counts the record as held.
    fn put(&mut self, to: usize, rec: Rec) -> bool {
        let identical = self.on(Rule::DuplicateIsIdentical);
        let seg = &mut self.segs[to];
        let held = seg.log.entry(rec.lsn).or_default();
        if held.contains(&rec) || (!identical && !held.is_empty()) {
            return true;
        }
        if !held.is_empty() && !seg.history.annuls(lsn(rec.lsn)) {
            return false;
        }
        held.push(rec);
        true
    }

    pub fn complete(&mut self, to: usize) {
        let (rec, w, e) = self.segs[to].pending.remove(0);
        if self.segs[to].history.annuls(lsn(rec.lsn)) || !self.put(to, rec) {
            return;
        }
        let seg = &self.segs[to];
        let id = self.writers[w].id;
        let fenced = if self.on(Rule::HistoryFirst) {
            seg.guard.admit(epoch(e), id).is_err()
        } else {
            seg.guard.claim != epoch(e) || seg.guard.writer != id
        };
        if fenced && self.on(Rule::NoAckAfterClaim) {
            return;
        }
        // Without the rule a segment that took a claim acks what it had taken before, under the history of that time.
        let history = if fenced {
            self.writers[w].history.volume_epoch
        } else {
            seg.history.volume_epoch
        };
        let (scl, history) = (seg.scl(), history.get());
        self.send(Msg::Ack {
            w,
            e,
            from: to,
            scl,
            history,
        });
    }

    fn cut(&mut self, w: usize) -> Outcome {
        let merge = !self.on(Rule::HighestHistoryWhole);
        let (by_the_book, early) = (
            self.on(Rule::RangeEndIsCpl),
            !self.on(Rule::RefillCountsUnderHistory),
        );
        let writer = &mut self.writers[w];
        if merge {
            let all = writer
                .answers
                .values()
                .map(|(census, _)| census.history.clone());
            let whole = all.reduce(|one, other| merged(&one, &other)).unwrap();
            writer
                .answers
                .values_mut()
                .for_each(|(census, _)| census.history = whole.clone());
        }
        let answers: Vec<_> = writer
            .answers
            .values()
            .map(|(census, _)| (PgId::ROOT, census.clone()))
            .collect();
        let found = cut(&answers).map_err(|error| Bad::TwoRecords(error.to_string()))?;
        let all: BTreeSet<Rec> = writer
            .answers
            .values()
            .flat_map(|(_, log)| log)
            .copied()
            .collect();
        let valid = |rec: &Rec| lsn(rec.lsn) <= found.vdl && !found.history.annuls(lsn(rec.lsn));
        writer.view = all.into_iter().filter(valid).collect();
        let last = writer.view.last().map_or(0, |rec| rec.lsn);
        if by_the_book && found.pg_last[0].1 != lsn(last) {
            return Err(Bad::Lost(format!(
                "the cut says {:?}, the answers hold {last}",
                found.pg_last
            )));
        }
        writer.history = if by_the_book {
            extend(&found.history, found.vdl, LAL, epoch(writer.epoch))
        } else {
            first_wording(&found.history, lsn(last), epoch(writer.epoch))
        };
        let base = if by_the_book {
            writer.history.highest_end().get()
        } else {
            last + LAL
        };
        (writer.tail, writer.base, writer.next) = (last, base, base + 1);
        writer.vdl = if by_the_book { base } else { last };
        if early {
            let whole = writer
                .answers
                .iter()
                .filter(|(_, (census, _))| census.scl == lsn(last));
            writer.refilled = whole.map(|(&from, _)| from).collect();
        }
        writer.answers.clear();
        writer.phase = Phase::Install;
        Ok(())
    }

    pub fn open(&mut self, w: usize) -> Outcome {
        self.writers[w].phase = Phase::Open;
        let writer = &self.writers[w];
        for (e, rec) in &self.answered {
            if *e < writer.epoch && !writer.view.contains(rec) {
                return Err(Bad::Lost(format!(
                    "epoch {} opens without {rec:?}, answered",
                    writer.epoch
                )));
            }
        }
        for earlier in self.opened.iter().map(|&other| &self.writers[other]) {
            if let Some(rec) = earlier
                .view
                .iter()
                .find(|rec| earlier.epoch < writer.epoch && !writer.view.contains(rec))
            {
                let by = earlier.epoch;
                return Err(Bad::Lost(format!(
                    "epoch {} opens without {rec:?}, shown by epoch {by}",
                    writer.epoch
                )));
            }
        }
        self.opened.push(w);
        Ok(())
    }

    pub fn gossip(&mut self, to: usize, from: usize) {
        let peer = self.segs[from].clone();
        let offered = peer.history.volume_epoch;
        let take = if self.on(Rule::NoHistoryBelowClaim) {
            self.segs[to].guard.take_from_peer(offered)
        } else {
            let held = &mut self.segs[to].guard;
            let higher = offered > held.history_epoch;
            if higher && offered > held.claim {
                (held.claim, held.writer) = (offered, WriterId::NOBODY);
            }
            if higher {
                held.history_epoch = offered;
            }
            higher
        };
        if take {
            self.set_history(to, &peer.history);
        }
        for rec in peer.records() {
            let welcome = !self.segs[to].log.contains_key(&rec.lsn)
                && !self.segs[to].history.annuls(lsn(rec.lsn));
            if welcome && self.rng.chance(500) {
                self.segs[to].log.insert(rec.lsn, vec![rec]);
            }
        }
        self.segs[to].floor = self.segs[to].floor.max(peer.vdl_seen());
    }

    pub fn read(&mut self) -> Outcome {
        let open = |w: &&Writer| w.phase == Phase::Open && !w.dead;
        let Some(writer) = self
            .writers
            .iter()
            .filter(open)
            .max_by_key(|writer| writer.epoch)
        else {
            return Ok(());
        };
        let all = writer.view.iter().chain(&writer.own);
        let want: Vec<Rec> = all.filter(|rec| rec.lsn <= writer.vdl).copied().collect();
        let last = want.last().map_or(0, |rec| rec.lsn);
        let from = self.rng.below(SEGMENTS);
        let seg = &self.segs[from];
        let stale = seg.guard.claim > epoch(writer.epoch);
        let foreign =
            self.on(Rule::HistoryFirst) && seg.history.volume_epoch != epoch(writer.epoch);
        if stale || foreign || seg.scl() < last {
            return Ok(());
        }
        let got: Vec<Rec> = seg.valid().filter(|rec| rec.lsn <= writer.vdl).collect();
        if got == want {
            return Ok(());
        }
        Err(Bad::WrongPage(format!(
            "epoch {} wants {want:?}, segment {from} serves {got:?}",
            writer.epoch
        )))
    }
}

/// What the first wording did: (VDL, VDL + LAL], whatever ranges there were.
fn first_wording(found: &History, vdl: Lsn, volume_epoch: VolumeEpoch) -> History {
    let through = vdl.plus(LAL);
    let mut ranges = Vec::new();
    for &range in &found.ranges {
        if range.after < vdl {
            ranges.push(AnnulledRange {
                through: range.through.min(vdl),
                ..range
            });
        }
    }
    ranges.push(AnnulledRange {
        after: vdl,
        through,
        volume_epoch,
    });
    for &range in &found.ranges {
        if range.through > through {
            ranges.push(AnnulledRange {
                after: range.after.max(through),
                ..range
            });
        }
    }
    History {
        volume_epoch,
        floor: found.floor,
        ranges,
    }
}

/// What must never be done: the union of two histories.
pub fn merged(one: &History, other: &History) -> History {
    let mut all: Vec<AnnulledRange> = one.ranges.iter().chain(&other.ranges).copied().collect();
    all.sort_by_key(|range| (range.after, range.through));
    let mut ranges: Vec<AnnulledRange> = Vec::new();
    for range in all {
        match ranges.last_mut() {
            Some(last) if range.after <= last.through => {
                last.through = last.through.max(range.through)
            }
            _ => ranges.push(range),
        }
    }
    History {
        volume_epoch: one.volume_epoch.max(other.volume_epoch),
        floor: Lsn::NONE,
        ranges,
    }
}
