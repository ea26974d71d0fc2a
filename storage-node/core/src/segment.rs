//! One segment: its identity, what it accepted, what is durable of that, and what it holds.
//!
//! The guard says what was *accepted* and is changed at once, so that no ack of a lower epoch leaves any more (R2). History,
//! manifest, chain and index only ever hold what is *durable*: the same function applies an entry when its write completes
//! and when a restart reads it back, so that both end in the same state. The index alone may lag behind: its owner brings it up
//! before a page is read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::hot_log::{Entry, FileNumber};
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::limits::READ_LEASE_MS;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{
    Batch, History, Lsn, Manifest, Member, PageId, PgId, SegmentId, VolumeEpoch, VolumeId, WriterId,
};
use sixfold_recovery::epoch::EpochGuard;
use sixfold_recovery::lease::GrantedLease;
use sixfold_recovery::quorum::read_count;

use crate::catch_up::Copying;
use crate::census::Unsettled;
use crate::chain::{Arrival, BatchId, Chain, Held};
use crate::event::StreamKey;
use crate::gossip::GossipState;
use crate::hot_log::{Place, Ticket};
use crate::index::PageIndex;
use crate::layers::compose::Depth;
use crate::layers::retention::Retention;
use crate::layers::set::LayerSet;
use crate::parts::{Located, Part};

/// What a batch is taken under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IngestError {
    /// The bytes are no batch of this volume and PG.
    #[error("{0}")]
    Malformed(String),
    /// Other bytes are held at an LSN of it (R13).
    #[error("other bytes are held at LSN {lsn} of the batch {first} of epoch {volume_epoch}")]
    Conflict {
        lsn: Lsn,
        first: Lsn,
        volume_epoch: VolumeEpoch,
    },
}

/// What came of a batch.
#[derive(Debug)]
pub(crate) enum Ingested {
    /// It is new: append this entry, and tell [`Segment::accept`] when the log took it.
    New(Batch),
    /// It is held, or all of it was annulled: nothing to keep. Its last LSN.
    Nothing(Lsn),
}

/// A change that became durable, for the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Applied {
    /// A batch; the SCL may have moved.
    Batch(BatchId, usize),
    /// History or manifest were replaced. What is annulled up to there is what it was before.
    History(Lsn),
    /// The layers are others; these are gone, and were damaged where it says so.
    Layers(Vec<(LayerNumber, bool)>),
    /// Nothing that concerns anybody else.
    Other,
}

/// A segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) pg: PgId,
    pub(crate) volume: VolumeId,
    /// What was accepted.
    pub(crate) guard: EpochGuard,
    /// What is durable of it.
    pub(crate) durable_guard: EpochGuard,
    pub(crate) history: History,
    pub(crate) manifest: Manifest,
    pub(crate) chain: Chain,
    pub(crate) index: PageIndex,
    /// Bytes that its state takes at the head of a hot-log file, but for the catalog: as accepted.
    pub(crate) control_bytes: usize,
    pub(crate) layers: LayerSet,
    /// Chains of pages over all runs, as far as they are known: none after a start, and none when there were too many.
    pub(crate) depths: BTreeMap<PageId, Depth>,
    pub(crate) retention: Retention,
    /// Changes whenever batches or layers went away: whoever holds on to some begins again.
    pub(crate) parts_generation: u64,
    /// Redo above the layers, bytes.
    pub(crate) unfolded_bytes: u64,
    /// Somebody wants what can be frozen to be frozen.
    pub(crate) freeze_wanted: bool,
    /// The catalog that was appended last, and how many layers it names.
    pub(crate) publishing: Option<(Ticket, usize)>,
    pub(crate) unsettled: Unsettled,
    pub(crate) vdl_seen: Lsn,
    pub(crate) lease: GrantedLease,
    pub(crate) writer_heard: Option<Duration>,
    /// The log stream of the current writer.
    pub(crate) stream: Option<StreamKey>,
    /// The last control entry appended: who asks again waits for it.
    pub(crate) control: Ticket,
    pub(crate) gossip: GossipState,
    /// Layers that are being copied from a peer.
    pub(crate) copy: Option<Copying>,
    /// An SCL that was acknowledged and is not reached: damage until it is (R12).
    pub(crate) missing_below: Option<Lsn>,
    /// Something durable could not be read back.
    pub(crate) unreadable: bool,
    /// Parts that were damaged when they were read last; read once more, they may not be.
    pub(crate) doubts: BTreeMap<Part, Located>,
    /// Layers that are damaged.
    pub(crate) bad_layers: BTreeSet<LayerNumber>,
    /// The hot log was damaged at the start: so many peers must say how far they are, and all of that be held here, before
    /// nothing acknowledged can be missing.
    pub(crate) unproven: usize,
    /// What peers said.
    pub(crate) proofs: BTreeMap<SegmentId, Lsn>,
    /// Batches that the log took and that are not durable, oldest first.
    pub(crate) pending: VecDeque<BatchId>,
    /// Their bytes.
    pub(crate) pending_bytes: usize,
    /// Batches with other bytes at a held LSN, since the start (R13).
    pub(crate) conflicts: u64,
}

/// What a state holds beside history, manifest and the layers of a catalog, bytes, at most.
const STATE_BYTES: usize = 128;

/// Bytes that a state with this history and manifest takes, but for its catalog, about.
pub(crate) fn control_bytes(history: &History, manifest: &Manifest) -> usize {
    history.encode().len() + manifest.encode().len() + STATE_BYTES
}

/// The length of a read lease (T1).
pub(crate) const READ_LEASE: Duration = Duration::from_millis(READ_LEASE_MS);

impl Segment {
    /// A segment that was just created, or is read back from the log.
    pub(crate) fn new(id: SegmentId, pg: PgId, manifest: Manifest, lease: GrantedLease) -> Segment {
        Segment {
            id,
            pg,
            volume: manifest.volume,
            guard: EpochGuard::creation(),
            durable_guard: EpochGuard::creation(),
            history: History::creation(),
            manifest,
            chain: Chain::default(),
            index: PageIndex::default(),
            control_bytes: 0,
            layers: LayerSet::default(),
            depths: BTreeMap::new(),
            retention: Retention::new(),
            parts_generation: 0,
            unfolded_bytes: 0,
            freeze_wanted: false,
            publishing: None,
            unsettled: Unsettled::default(),
            vdl_seen: Lsn::NONE,
            lease,
            writer_heard: None,
            stream: None,
            control: Ticket(0),
            gossip: GossipState::default(),
            copy: None,
            missing_below: None,
            unreadable: false,
            doubts: BTreeMap::new(),
            bad_layers: BTreeSet::new(),
            unproven: 0,
            proofs: BTreeMap::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            conflicts: 0,
        }
    }

    /// The epoch of the history in force, which every SCL that is sent names (R5).
    pub(crate) fn history_epoch(&self) -> VolumeEpoch {
        self.history.volume_epoch
    }

    pub(crate) fn scl(&self) -> Lsn {
        self.chain.scl()
    }

    /// Whether a sender may append and be acknowledged: accepted and durable (R2, R3).
    pub(crate) fn admits(&self, volume_epoch: VolumeEpoch, writer: WriterId) -> bool {
        self.guard.admit(volume_epoch, writer).is_ok() && self.history_epoch() == volume_epoch
    }

    /// Damage that was found and is not healed.
    pub(crate) fn is_damaged(&self) -> bool {
        let has_lost = self.missing_below.is_some_and(|lsn| self.scl() < lsn);
        let has_bad = self.has_damaged_parts();
        self.unreadable || has_lost || has_bad || !self.doubts.is_empty() || self.unproven > 0
    }

    /// Peers that must say how far they are, after the hot log was found damaged: of the others that hold what this segment's ack made
    /// durable, one is always among them.
    pub(crate) fn proofs_needed(&self) -> usize {
        let entry = self.manifest.pg(self.pg);
        let sets = entry.into_iter().flat_map(|entry| &entry.sets);
        sets.map(|set| read_count(set.model)).max().unwrap_or(1)
    }

    /// Whether a layer or a batch is damaged.
    pub(crate) fn has_damaged_parts(&self) -> bool {
        !self.bad_layers.is_empty() || self.chain.first_bad().is_some()
    }

    /// Whether a part is of a batch or a layer that is here still.
    pub(crate) fn holds(&self, part: Part) -> bool {
        match part {
            Part::Batch(id) => self.chain.find_held(id).is_some(),
            Part::Layer(layer, _) => self.layers.layer(layer).is_some(),
        }
    }

    /// Whether a part is known to be damaged.
    pub(crate) fn is_bad(&self, part: Part) -> bool {
        match part {
            Part::Batch(id) => {
                let held = self.chain.find_held(id);
                held.is_some_and(|held| self.chain.is_bad(held))
            }
            Part::Layer(layer, _) => self.bad_layers.contains(&layer),
        }
    }

    /// Whether nothing of a batch is needed beside the layers: what is valid of it is in them, and the rest is annulled for good.
    pub(crate) fn is_folded(&self, held: &Held) -> bool {
        is_folded(
            held,
            &self.history,
            (self.vdl_seen, self.layers.folded_through()),
        )
    }

    /// The oldest hot-log file with a batch that is needed beside the layers.
    pub(crate) fn first_needed(&mut self) -> Option<FileNumber> {
        let points = (self.vdl_seen, self.layers.folded_through());
        let history = &self.history;
        self.chain
            .first_needed(|held| is_folded(held, history, points))
    }

    /// Whether a freeze takes a batch, now or when it comes to it: not one that the layers hold already, and not one whose annulled
    /// tail a higher history may bring back.
    pub(crate) fn is_freezable(&self, held: &Held) -> bool {
        let valid = held.last_valid(Lsn::MAX, &self.history);
        valid.is_some_and(|last| {
            let settled = held.last == last || held.last <= self.vdl_seen;
            last > self.layers.folded_through() && last <= self.foldable_through() && settled
        })
    }

    /// The other members of the protection group.
    pub(crate) fn peers(&self) -> Vec<Member> {
        let Some(entry) = self.manifest.pg(self.pg) else {
            return Vec::new();
        };
        let mut members = entry.members();
        members
            .retain(|member| member.segment != self.id && !entry.removed.contains(&member.segment));
        members
    }

    /// The floor of what is durable somewhere rises (R17). Only a writer that has *opened* may raise it: the end of a range that
    /// a candidate has merely installed is none, since the candidate may die before its refill, and with it the only holder of a
    /// record below (R9).
    pub(crate) fn saw_vdl(&mut self, vdl: Lsn) {
        if vdl > self.vdl_seen {
            self.vdl_seen = vdl;
            self.unsettled.settle(vdl);
        }
    }

    /// Verifies and judges a batch from an admitted sender of at most epoch `sender`.
    ///
    /// # Errors
    /// [`IngestError`]; a conflict is counted.
    pub(crate) fn ingest(
        &mut self,
        bytes: Bytes,
        sender: VolumeEpoch,
    ) -> Result<Ingested, IngestError> {
        let batch = Batch::decode(bytes, self.volume)
            .map_err(|error| IngestError::Malformed(error.to_string()))?;
        let header = batch.header();
        if header.pg != self.pg || header.volume_epoch > sender {
            return Err(IngestError::Malformed(format!(
                "batch of protection group {} and epoch {}, expected group {} and epoch {sender} or lower",
                header.pg, header.volume_epoch, self.pg
            )));
        }
        match self.chain.judge(&batch, &self.history) {
            Arrival::New => Ok(Ingested::New(batch)),
            Arrival::Duplicate | Arrival::Annulled => Ok(Ingested::Nothing(header.last)),
            Arrival::Conflict { lsn } => {
                self.conflicts += 1;
                Err(IngestError::Conflict {
                    lsn,
                    first: header.first,
                    volume_epoch: header.volume_epoch,
                })
            }
        }
    }

    /// The log took a new batch: it is pending, in the order in which it will become durable.
    pub(crate) fn accept(&mut self, batch: Batch) {
        self.pending_bytes += batch.len_bytes();
        let id = self.chain.insert(batch);
        self.pending.push_back(id);
    }

    /// The newest pending batch is not written: its sender is told.
    pub(crate) fn give_up_newest(&mut self) {
        let id = self.pending.pop_back();
        let id = id.expect("a batch is pending until its write is durable");
        self.pending_bytes -= self.chain.give_up(id);
    }

    /// The oldest pending batch is durable.
    fn apply_batch(&mut self, place: Place) -> Applied {
        let id = self
            .pending
            .pop_front()
            .expect("a batch is pending until its write is durable");
        let batch = self
            .chain
            .take_resident(id)
            .expect("pending batches are in memory");
        self.pending_bytes -= batch.len_bytes();
        self.chain.set_durable(id, place);
        self.saw_vdl(batch.header().vdl);
        self.unsettled.add(&batch, self.vdl_seen);
        self.chain.advance(&self.history);
        let bytes = batch.bytes().len();
        self.retention.saw(batch.header(), bytes);
        if batch.header().last > self.layers.folded_through() {
            self.unfolded_bytes += bytes as u64;
        }
        self.chain.put_resident(id, batch);
        Applied::Batch(id, bytes)
    }

    /// A durable batch goes into the page index: once, and while its bytes are in memory.
    pub(crate) fn index_batch(&mut self, id: BatchId) {
        let folded = self.layers.folded_through();
        let Some(held) = self.chain.find_held(id).filter(|held| held.last > folded) else {
            return;
        };
        let batch = held.resident.as_ref();
        let batch = batch.expect("a batch leaves memory only when it is indexed");
        self.index.add(id, batch, folded);
    }

    /// A batch that a restart read back. It was verified.
    pub(crate) fn replay_batch(&mut self, batch: Batch, place: Place) -> Applied {
        let header = batch.header();
        let held = self
            .chain
            .find(&(header.first, header.volume_epoch, header.checksum));
        if let Some(id) = held {
            // It was written again, so that the file with the first copy can go.
            self.chain.set_moved(id, place);
            return Applied::Other;
        }
        self.accept(batch);
        self.apply_batch(place)
    }

    /// Returns up to where it annuls what the one before did.
    fn take_history(&mut self, history: &History, manifest: &Manifest) -> Lsn {
        let mut agrees_through = Lsn::MAX;
        if history.volume_epoch > self.history.volume_epoch {
            let new = if planted(Mutant::HistoryMerged) {
                merged(&self.history, history)
            } else {
                history.clone()
            };
            let old = std::mem::replace(&mut self.history, new);
            self.chain.rewind(&old, &self.history);
            agrees_through = old.agrees_through(&self.history);
            // SCLs told under another history say nothing about this one.
            self.missing_below = None;
            self.proofs.clear();
        }
        if manifest.version > self.manifest.version {
            self.manifest = manifest.clone();
        }
        agrees_through
    }

    /// An entry is durable.
    pub(crate) fn apply(&mut self, entry: &Entry, place: Place) -> Applied {
        match entry {
            Entry::Batch { .. } => self.apply_batch(place),
            Entry::Claim {
                volume_epoch,
                writer,
                ..
            } => {
                assert!(
                    *volume_epoch >= self.durable_guard.claim,
                    "claims only rise"
                );
                self.durable_guard.claim = *volume_epoch;
                self.durable_guard.writer = *writer;
                Applied::Other
            }
            Entry::Install {
                volume_epoch,
                writer,
                history,
                manifest,
                ..
            } => {
                assert!(
                    *volume_epoch >= self.durable_guard.claim,
                    "claims only rise"
                );
                let agrees_through = self.take_history(history, manifest);
                if planted(Mutant::VdlSeenFromInstall) {
                    self.saw_vdl(history.highest_end());
                }
                self.durable_guard = EpochGuard {
                    claim: *volume_epoch,
                    writer: *writer,
                    history_epoch: self.history.volume_epoch,
                };
                Applied::History(agrees_through)
            }
            Entry::Catalog { catalog, .. } => self.apply_catalog(catalog),
            Entry::State { .. }
            | Entry::Created { .. }
            | Entry::Dropped { .. }
            | Entry::Removed { .. } => Applied::Other,
        }
    }

    /// A catalog is durable: from here on the layers are these.
    fn apply_catalog(&mut self, catalog: &sixfold_log_format::layer::LayerCatalog) -> Applied {
        let gone: Vec<(LayerNumber, bool)> = match self.layers.apply(catalog) {
            Ok(gone) => gone
                .into_iter()
                .map(|layer| (layer, self.bad_layers.contains(&layer)))
                .collect(),
            Err(_) => {
                self.unreadable = true;
                return Applied::Other;
            }
        };
        // Layers end at or below a VDL (R11).
        let folded = catalog.folded_through;
        self.saw_vdl(folded);
        self.chain.raise_base(folded, &self.history);
        self.unfolded_bytes = self.chain.unfolded_bytes(&self.history);
        self.index.begin_sweep();
        self.bad_layers
            .retain(|layer| catalog.layer(*layer).is_some());
        self.doubts.retain(|part, _| match part {
            Part::Batch(_) => true,
            Part::Layer(layer, _) => catalog.layer(*layer).is_some(),
        });
        self.parts_generation += 1;
        self.freeze_wanted &= self.foldable_through() > folded;
        Applied::Layers(gone)
    }

    /// A state stands at the head of a file: what is newer in it than what is held was lost with a damaged part of the log.
    pub(crate) fn apply_state(&mut self, state: &Entry) -> Applied {
        let Entry::State {
            volume_epoch,
            writer,
            history,
            manifest,
            scl,
            vdl,
            catalog,
            ..
        } = state
        else {
            unreachable!("called for a state");
        };
        let planted = planted(Mutant::RestartForgetsClaims);
        if *volume_epoch > self.durable_guard.claim && !planted {
            self.durable_guard.claim = *volume_epoch;
            self.durable_guard.writer = *writer;
        }
        if history.volume_epoch > self.history_epoch() {
            self.take_history(history, manifest);
            self.durable_guard.history_epoch = self.history.volume_epoch;
            self.durable_guard.claim = self.durable_guard.claim.max(history.volume_epoch);
        }
        if manifest.version > self.manifest.version {
            self.manifest = manifest.clone();
        }
        self.saw_vdl(*vdl);
        if history.volume_epoch == self.history_epoch() {
            self.missing_below = self.missing_below.max(Some(*scl));
        }
        if catalog.folded_through >= self.layers.folded_through()
            && catalog != self.layers.catalog()
        {
            return self.apply_catalog(catalog);
        }
        Applied::Other
    }

    /// What stands at the head of a file for this segment (F6): what is durable.
    pub(crate) fn state_entry(&self) -> Entry {
        Entry::State {
            segment: self.id,
            pg: self.pg,
            volume_epoch: self.durable_guard.claim,
            writer: self.durable_guard.writer,
            history: self.history.clone(),
            manifest: self.manifest.clone(),
            scl: self.scl(),
            vdl: self.vdl_seen,
            catalog: self.layers.catalog().clone(),
        }
    }

    /// Measures what its state takes at the head of a hot-log file, but for the catalog.
    pub(crate) fn measure(&mut self) {
        self.control_bytes = control_bytes(&self.history, &self.manifest);
    }

    /// The scan ended: what is durable is what was accepted.
    pub(crate) fn settle_after_scan(&mut self) {
        self.measure();
        self.guard = self.durable_guard;
        self.chain.find_log_start(&self.history);
    }

    /// Where the node of a member was last seen (R25).
    pub(crate) fn address_of(&self, member: &Member) -> Option<String> {
        let hint = self
            .manifest
            .hints
            .iter()
            .find(|hint| hint.node == member.node);
        hint.map(|hint| hint.address.clone())
    }
}

/// See [`Segment::is_folded`].
fn is_folded(held: &Held, history: &History, (vdl_seen, folded): (Lsn, Lsn)) -> bool {
    let valid = held.last_valid(Lsn::MAX, history);
    let settled = held.last <= vdl_seen || valid == Some(held.last);
    valid.unwrap_or(Lsn::NONE) <= folded && settled
}

/// What [`Mutant::HistoryMerged`] makes of two histories: every range of either.
fn merged(old: &History, new: &History) -> History {
    let mut ranges = [&old.ranges[..], &new.ranges[..]].concat();
    ranges.sort_by_key(|range| range.after);
    let mut merged: Vec<sixfold_log_format::AnnulledRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.after <= last.through => {
                last.through = last.through.max(range.through);
            }
            _ => merged.push(range),
        }
    }
    History {
        ranges: merged,
        ..new.clone()
    }
}
