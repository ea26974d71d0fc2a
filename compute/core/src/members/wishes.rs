//! What operators want (R24): each wish is taken once by its id, and whoever brought it hears how far it is.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::limits::TEXT_BYTES_MAX;
use sixfold_log_format::wire::{Wish, WishReport, WishState};
use sixfold_log_format::{NodeId, VolumeEpoch, VolumeId, WriterId};

/// Wishes that are open at the same time.
const OPEN_MAX: usize = 64;
/// Wishes remembered, open and ended.
const KNOWN_MAX: usize = 512;
/// Nodes of a wish that are told of it.
const NODES_MAX: usize = 64;
/// A node that brings an ended wish again this long after it was told has forgotten, or was asked again.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// The id of a wish.
pub(crate) type WishId = [u8; 16];

/// What became of taking a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is to be looked at.
    New,
    /// It was taken before.
    Known,
    /// Too many are open: it is not remembered, and may come again.
    Full,
}

/// What a node was told of a wish.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    revision: u64,
    /// On its way.
    sent: u64,
    at: Duration,
}

#[derive(Debug)]
struct Record {
    wish: Wish,
    state: WishState,
    done: u64,
    of: u64,
    text: String,
    /// Parts that could not be done.
    failed: u64,
    revision: u64,
    nodes: BTreeMap<NodeId, Told>,
    order: u64,
}

/// All wishes. Invariants: an ended wish stays ended; `done + failed <= of`.
#[derive(Debug)]
pub(crate) struct Wishes {
    records: BTreeMap<WishId, Record>,
    /// Who reports.
    volume: VolumeId,
    volume_epoch: VolumeEpoch,
    writer: WriterId,
    /// Reports that the shell was not given yet.
    news: Vec<WishReport>,
    /// Whether some node may have to be told.
    pending: bool,
    next_order: u64,
}

impl Wishes {
    pub(crate) fn new(volume: VolumeId, volume_epoch: VolumeEpoch, writer: WriterId) -> Wishes {
        Wishes {
            records: BTreeMap::new(),
            volume,
            volume_epoch,
            writer,
            news: Vec::new(),
            pending: false,
            next_order: 0,
        }
    }

    /// The volume was opened again by this very writer: what is reported is reported by that one.
    pub(crate) fn reopened(&mut self, volume_epoch: VolumeEpoch, writer: WriterId) {
        (self.volume_epoch, self.writer) = (volume_epoch, writer);
    }

    /// Takes a wish, from a node or from this process.
    pub(crate) fn take(&mut self, wish: &Wish, node: Option<NodeId>, now: Duration) -> Taken {
        if let Some(record) = self.records.get_mut(&wish.id) {
            if let Some(node) = node
                && record.heard_from(node, now)
            {
                self.pending = true;
            }
            return Taken::Known;
        }
        if self.open().count() >= OPEN_MAX {
            return Taken::Full;
        }
        self.make_room();
        let nodes = node.map(|node| (node, Told::default()));
        self.records.insert(
            wish.id,
            Record {
                wish: wish.clone(),
                state: WishState::Working,
                done: 0,
                of: 1,
                text: String::new(),
                failed: 0,
                revision: 1,
                nodes: nodes.into_iter().collect(),
                order: self.next_order,
            },
        );
        self.next_order += 1;
        self.pending = true;
        Taken::New
    }

    /// Ended ones go first in, first out.
    fn make_room(&mut self) {
        while self.records.len() >= KNOWN_MAX {
            let ended = self.records.iter().filter(|(_, held)| held.has_ended());
            let oldest = ended.min_by_key(|(_, held)| held.order).map(|(&id, _)| id);
            let Some(oldest) = oldest else { return };
            self.records.remove(&oldest);
        }
    }

    /// It is being done, in so many parts.
    pub(crate) fn begun(&mut self, id: WishId, of: u64, text: String) {
        self.change(id, |record| {
            record.of = of;
            record.text = text;
        });
    }

    /// A part of it is done.
    pub(crate) fn part_done(&mut self, id: WishId, text: &str) {
        self.change(id, |record| {
            record.done += 1;
            record.part_ended(text);
        });
    }

    /// A part of it will not be done.
    pub(crate) fn part_failed(&mut self, id: WishId, text: &str) {
        self.change(id, |record| {
            record.failed += 1;
            record.part_ended(text);
        });
    }

    /// Nothing is left to be done.
    pub(crate) fn done(&mut self, id: WishId, text: String) {
        self.change(id, |record| {
            record.done = record.of;
            (record.state, record.text) = (WishState::Done, text);
        });
    }

    /// It will not be done.
    pub(crate) fn refuse(&mut self, id: WishId, text: String) {
        self.change(id, |record| {
            (record.state, record.text) = (WishState::Refused, text);
        });
    }

    fn change(&mut self, id: WishId, change: impl FnOnce(&mut Record)) {
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        if record.has_ended() {
            return;
        }
        change(record);
        assert!(
            record.done + record.failed <= record.of,
            "{} of {} parts of a wish are done and {} failed",
            record.done,
            record.of,
            record.failed
        );
        record.revision += 1;
        self.pending = true;
        let report = self.report_of(id).expect("it was just changed");
        self.news.push(report);
    }

    /// How far a wish is.
    pub(crate) fn report_of(&self, id: WishId) -> Option<WishReport> {
        let record = self.records.get(&id)?;
        let mut text = record.text.clone();
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        Some(WishReport {
            volume: self.volume,
            volume_epoch: self.volume_epoch,
            writer: self.writer,
            id,
            state: record.state,
            done: record.done,
            of: record.of,
            text,
        })
    }

    /// The report of a wish that was not taken.
    pub(crate) fn too_many(&self, id: WishId) -> WishReport {
        WishReport {
            volume: self.volume,
            volume_epoch: self.volume_epoch,
            writer: self.writer,
            id,
            state: WishState::Refused,
            done: 0,
            of: 1,
            text: format!("{OPEN_MAX} wishes are open, no more are taken"),
        }
    }

    /// All that are remembered, oldest first.
    pub(crate) fn reports(&self) -> Vec<WishReport> {
        let mut ids: Vec<(u64, WishId)> = self
            .records
            .iter()
            .map(|(&id, record)| (record.order, id))
            .collect();
        ids.sort_unstable();
        ids.into_iter()
            .filter_map(|(_, id)| self.report_of(id))
            .collect()
    }

    /// What this process has to hear.
    pub(crate) fn take_news(&mut self) -> Vec<WishReport> {
        std::mem::take(&mut self.news)
    }

    /// Wishes that have not ended.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Wish> {
        let open = self.records.values().filter(|record| !record.has_ended());
        open.map(|record| &record.wish)
    }

    /// Whether any node may lack a report.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending
    }

    /// Who is to be told of what.
    pub(crate) fn untold(&mut self) -> Vec<(WishId, NodeId)> {
        let mut untold = Vec::new();
        for (&id, record) in &self.records {
            let lacks = |told: &Told| told.revision < record.revision;
            let nodes = record.nodes.iter().filter(|(_, told)| lacks(told));
            untold.extend(nodes.map(|(&node, _)| (id, node)));
        }
        self.pending = !untold.is_empty();
        untold
    }

    /// The report is on its way.
    pub(crate) fn sent(&mut self, id: WishId, node: NodeId) {
        if let Some(record) = self.records.get_mut(&id)
            && let Some(told) = record.nodes.get_mut(&node)
        {
            told.sent = record.revision;
        }
    }

    /// The node has it.
    pub(crate) fn told(&mut self, id: WishId, node: NodeId, now: Duration) {
        if let Some(record) = self.records.get_mut(&id)
            && let Some(told) = record.nodes.get_mut(&node)
        {
            (told.revision, told.at) = (told.sent, now);
        }
    }

    /// The node cannot be told: its own operator asks another one.
    pub(crate) fn unheard(&mut self, id: WishId, node: NodeId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.nodes.remove(&node);
        }
    }

    /// Who brought it.
    pub(crate) fn nodes_of(&self, id: WishId) -> Vec<NodeId> {
        let record = self.records.get(&id);
        record.map_or(Vec::new(), |record| record.nodes.keys().copied().collect())
    }
}

impl Record {
    fn has_ended(&self) -> bool {
        matches!(self.state, WishState::Done | WishState::Refused)
    }

    /// A node brings it again; true when it has to be told.
    fn heard_from(&mut self, node: NodeId, now: Duration) -> bool {
        let (ended, revision) = (self.has_ended(), self.revision);
        if let Some(told) = self.nodes.get_mut(&node) {
            let forgot = ended && told.revision == revision && told.at + TOLD_AGAIN <= now;
            if forgot {
                *told = Told::default();
            }
            return forgot;
        }
        let has_room = self.nodes.len() < NODES_MAX;
        if has_room {
            self.nodes.insert(node, Told::default());
        }
        has_room
    }

    fn part_ended(&mut self, text: &str) {
        text.clone_into(&mut self.text);
        if self.done + self.failed < self.of {
            return;
        }
        self.state = if self.failed == 0 {
            WishState::Done
        } else {
            WishState::Refused
        };
        if self.failed > 0 && self.of > 1 {
            self.text = format!("{} of {} done; {text}", self.done, self.of);
        }
    }
}
