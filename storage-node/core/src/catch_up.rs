//! Catching up by layers: a segment that lacks more than a peer's log still has, or whose own layers are damaged, copies the
//! peer's.
//!
//! ```text
//!   catalog (layer 0) -> each layer that is not here already, piece by piece: verify, write -> sync -> catalog entry
//! ```
//! The peer goes on merging meanwhile: where it has no more what its catalog named, the catalog is read again, and what was copied and is
//! named still is kept. A lost answer is asked for again.
//!
//! A few segments of the node copy at a time, each from one peer, one piece in flight (F11): a peer that is busy refuses, and the copy goes on
//! a little later. The whole file's checksum and its footer are compared with the peer's catalog before it counts; each
//! block is verified again whenever it is read. Asking for the catalog makes the peer freeze what it can, so that the next one
//! reaches as far as it may. What lies above the layers comes through the log.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::hot_log::Entry;
use sixfold_log_format::layer::{
    CatalogLayer, LAYER_FOOTER_BYTES, LayerCatalog, LayerNumber, LayerSummary,
};
use sixfold_log_format::wire::{GossipAnswer, LayerPiece, Message, ReadLayer};
use sixfold_log_format::{Lsn, Member, SegmentId, VolumeEpoch};

use crate::action::{Action, FileName, Severity};
use crate::bounds::{CATALOG_READS_MAX, COPIES_MAX, COPY_PATIENCE, COPY_RETRY, PIECE_BYTES_MAX};
use crate::event::DiskError;
use crate::hot_log::whole_blocks;
use crate::io_buf::IoBuf;
use crate::layers::set::runs_of;
use crate::node::NodeCore;

/// Longest catalog that is taken from a peer, bytes.
const CATALOG_BYTES_MAX: usize = 1 << 20;

/// A copy of a peer's layers.
#[derive(Debug)]
pub(crate) struct Copying {
    pub(crate) peer: Member,
    /// The SCL that the peer told, and under which history: its layers reach no farther, and only while that one is in force are they
    /// believed.
    told: (VolumeEpoch, Lsn),
    /// What has come of the catalog.
    catalog_bytes: Vec<u8>,
    catalog: Option<LayerCatalog>,
    /// Layers still to be copied.
    missing: VecDeque<CatalogLayer>,
    current: Option<File>,
    /// Its number at the peer.
    asked_number: Option<LayerNumber>,
    done: Vec<CatalogLayer>,
    numbers: Vec<LayerNumber>,
    /// Waits for the hot log, or for a busy peer.
    pub(crate) paused: bool,
    /// So often in a row the peer was busy. Above 0, it waits for its time.
    pub(crate) busy: u32,
    /// The peer's layers are others by now: it says again how far they may reach, before its catalog is read again.
    renews: bool,
    /// So often the catalog was read again since a layer was finished.
    renewed: u32,
    /// Since when the peer has not answered.
    lost_since: Option<Duration>,
}

/// The file that is being copied.
#[derive(Debug)]
struct File {
    layer: CatalogLayer,
    offset: u64,
    checksum: crc32fast::Hasher,
    syncing: bool,
}

impl Copying {
    fn of(peer: Member, told: (VolumeEpoch, Lsn)) -> Copying {
        Copying {
            peer,
            told,
            catalog_bytes: Vec::new(),
            catalog: None,
            missing: VecDeque::new(),
            current: None,
            asked_number: None,
            done: Vec::new(),
            numbers: Vec::new(),
            paused: false,
            busy: 0,
            renews: false,
            renewed: 0,
            lost_since: None,
        }
    }

    /// Layers that the catalog will name which it ends in, as far as that is known.
    pub(crate) fn layer_count(&self) -> usize {
        let catalog = self.catalog.as_ref();
        catalog.map_or(0, |catalog| catalog.layers.len())
    }

    /// Whether anything was copied that would be thrown away.
    fn has_copied(&self) -> bool {
        let begun = self.current.as_ref().is_some_and(|file| file.offset > 0);
        begun || self.numbers.len() > usize::from(self.current.is_some())
    }

    /// The peer's catalog is read again: only what was copied whole stays. The number of the file that goes.
    fn renew(&mut self) -> Option<LayerNumber> {
        self.catalog = None;
        self.catalog_bytes.clear();
        self.missing.clear();
        self.asked_number = None;
        self.renews = true;
        self.renewed += 1;
        let number = self.current.take()?.layer.number;
        self.numbers.retain(|held| *held != number);
        Some(number)
    }

    /// Takes a catalog of the peer: what is here already, `held` or copied before, is not copied again. The numbers of copied files
    /// that it does not name.
    fn take_catalog(&mut self, catalog: LayerCatalog, held: &[&CatalogLayer]) -> Vec<LayerNumber> {
        let before = std::mem::take(&mut self.done);
        for layer in &catalog.layers {
            let copied = before
                .iter()
                .filter(|done| self.numbers.contains(&done.number));
            let mut here = held.iter().copied().chain(copied);
            match here.find(|here| here.summary == layer.summary) {
                Some(here) => self.done.push(here.clone()),
                None => self.missing.push_back(layer.clone()),
            }
        }
        self.catalog = Some(catalog);
        let done = &self.done;
        let is_named = |number: &LayerNumber| done.iter().any(|layer| layer.number == *number);
        let (named, gone) = self.numbers.iter().partition(|number| is_named(number));
        self.numbers = named;
        gone
    }
}

impl NodeCore {
    /// Begins to copy the layers of a peer, unless enough copies are under way on this node. `told` is the SCL that it told, and under which
    /// history.
    pub(crate) fn begin_copy(
        &mut self,
        now: Duration,
        id: SegmentId,
        peer: Member,
        told: (VolumeEpoch, Lsn),
    ) {
        let segments = self.segments.values();
        let under_way = segments.filter(|segment| segment.copy.is_some()).count();
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        if under_way >= COPIES_MAX || segment.copy.is_some() {
            return;
        }
        segment.copy = Some(Copying::of(peer, told));
        self.copy_on(now, id);
    }

    /// Asks for the next piece of a copy, or ends it.
    pub(crate) fn copy_on(&mut self, now: Duration, id: SegmentId) {
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        let Some(copy) = &mut segment.copy else {
            return;
        };
        copy.paused = false;
        if copy.renews {
            let peer = copy.peer;
            let gossip = self.gossip_to(id, &peer);
            return self.ask(now, id, peer, gossip);
        }
        let (layer, offset) = if copy.catalog.is_none() {
            (0, copy.catalog_bytes.len() as u64)
        } else {
            if copy.current.is_none()
                && let Some(layer) = copy.missing.pop_front()
            {
                let number = segment.layers.take_number();
                copy.numbers.push(number);
                copy.asked_number = Some(layer.number);
                copy.current = Some(File {
                    layer: CatalogLayer { number, ..layer },
                    offset: 0,
                    checksum: crc32fast::Hasher::new(),
                    syncing: false,
                });
            }
            match (&copy.current, copy.asked_number) {
                (Some(file), Some(theirs)) => (theirs.0, file.offset),
                _ => return self.publish_copy(id),
            }
        };
        let read = ReadLayer {
            segment: copy.peer.segment,
            layer,
            offset,
            bytes_max: u32::try_from(PIECE_BYTES_MAX).expect("a megabyte"),
        };
        let peer = copy.peer;
        self.ask(now, id, peer, Message::ReadLayer(read));
    }

    /// The peer lost what its catalog named: it merged meanwhile. Its catalog is read again, and what was copied stays.
    pub(crate) fn renew_copy(&mut self, now: Duration, id: SegmentId) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let Some(copy) = &mut segment.copy else {
            return;
        };
        if copy.renewed >= CATALOG_READS_MAX {
            return self.end_copy(id, "its layers are others each time");
        }
        if let Some(layer) = copy.renew() {
            let file = FileName::Layer(id, layer);
            self.actions.push_back(Action::Delete { file });
        }
        self.copy_on(now, id);
    }

    /// The peer said again how far it is, for a copy.
    pub(crate) fn on_copy_told(&mut self, now: Duration, id: SegmentId, answer: GossipAnswer) {
        if let Some((history, manifest)) = answer.newer {
            self.take_newer(id, history, manifest);
        }
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let Some(copy) = &mut segment.copy else {
            return;
        };
        if answer.history_epoch != copy.told.0 {
            return self.end_copy(id, "another history is in force");
        }
        copy.told.1 = answer.scl;
        (copy.renews, copy.busy, copy.lost_since) = (false, 0, None);
        self.copy_on(now, id);
    }

    /// The peer did not answer, or is busy for long: it is asked for the same again a little later, so that what was copied is not thrown
    /// away for one answer. That ends when it lasts.
    pub(crate) fn retry_copy(&mut self, now: Duration, id: SegmentId, why: &str) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let Some(copy) = segment.copy.as_mut() else {
            return;
        };
        let since = *copy.lost_since.get_or_insert(now);
        if !copy.has_copied() || now.saturating_sub(since) >= COPY_PATIENCE {
            return self.end_copy(id, why);
        }
        (copy.paused, copy.busy) = (true, 1);
        self.retries.insert((now + COPY_RETRY, id));
    }

    /// A piece came.
    pub(crate) fn on_layer_piece(&mut self, now: Duration, id: SegmentId, piece: &LayerPiece) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let Some(copy) = &mut segment.copy else {
            return;
        };
        (copy.busy, copy.lost_since) = (0, None);
        if copy.catalog.is_none() {
            return self.on_catalog_piece(now, id, piece);
        }
        let block = u64::from(self.block_bytes);
        let Some(file) = copy.current.as_mut().filter(|file| !file.syncing) else {
            return;
        };
        let file_bytes = file.layer.summary.file_bytes;
        let end = file.offset + piece.bytes.len() as u64;
        let is_whole = end == file_bytes || end.is_multiple_of(block);
        if piece.bytes.is_empty()
            || end > file_bytes
            || !is_whole
            || piece.layer_bytes != file_bytes
        {
            return self.end_copy(id, "a piece makes no sense");
        }
        if !file.take(&piece.bytes) {
            return self.end_copy(id, "a layer is not what the peer's catalog says");
        }
        let length = whole_blocks(piece.bytes.len() as u64, block);
        let mut bytes = IoBuf::zeroed(usize::try_from(length).expect("a piece"));
        bytes.as_mut()[..piece.bytes.len()].copy_from_slice(&piece.bytes);
        let offset = file.offset;
        file.offset = end;
        let layer = file.layer.number;
        let name = FileName::Layer(id, layer);
        let token = self.reads.next_write_token();
        self.copy_writes.insert(token, (id, layer));
        self.actions.push_back(Action::Write {
            token,
            file: name,
            offset,
            bytes,
        });
    }

    fn on_catalog_piece(&mut self, now: Duration, id: SegmentId, piece: &LayerPiece) {
        let is_publishing = self.is_publishing(&self.segments[&id]);
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let copy = segment.copy.as_mut().expect("checked by the caller");
        copy.catalog_bytes.extend_from_slice(&piece.bytes);
        let length = copy.catalog_bytes.len() as u64;
        if length < piece.layer_bytes && !piece.bytes.is_empty() {
            if copy.catalog_bytes.len() > CATALOG_BYTES_MAX {
                return self.end_copy(id, "its catalog is too long");
            }
            return self.copy_on(now, id);
        }
        let Ok(catalog) = LayerCatalog::decode(&copy.catalog_bytes) else {
            return self.end_copy(id, "its catalog is none");
        };
        copy.catalog_bytes = Vec::new();
        let (volume, pg) = (segment.volume, segment.pg);
        let is_ours = |layer: &CatalogLayer| {
            let identity = layer.summary.identity;
            identity.volume == volume && identity.pg == pg
        };
        if !is_whole(&catalog) || !catalog.layers.iter().all(is_ours) {
            return self.end_copy(id, "its catalog is none");
        }
        if catalog.folded_through > copy.told.1 {
            return self.end_copy(id, "its layers reach farther than its SCL");
        }
        // It reaches no farther than what is here and whole: the peer freezes meanwhile, another round will do.
        let folded = segment.layers.folded_through();
        let heals_layers = !segment.bad_layers.is_empty() && catalog.folded_through >= folded;
        // What is damaged in the log and no peer's log has any more is in the layers of all.
        let bad = segment.chain.first_bad().map(|(_, held)| held.last);
        let heals_log = bad.is_some_and(|last| catalog.folded_through >= last.max(folded));
        let enough = catalog.folded_through > segment.chain.scl() || heals_layers || heals_log;
        // A merge would take away layers that the copy counts on: none is under way, none is about to be published. None is begun beside
        // a copy, so that later there is nothing but freezes.
        let may_be_merge = is_publishing && !copy.has_copied();
        let reaches_floor = catalog.folded_through >= segment.history.floor;
        if !enough || !reaches_floor || may_be_merge {
            if copy.has_copied() {
                return self.end_copy(id, "its layers are not needed any more");
            }
            segment.copy = None;
            return;
        }
        if !self.has_room_for_catalog(id, catalog.layers.len()) {
            self.squeeze_layers();
            return self.end_copy(id, "its catalog does not fit the head of a hot-log file");
        }
        self.cancel_background(id);
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let copy = segment.copy.as_mut().expect("checked by the caller");
        let held = segment.layers.catalog().layers.iter();
        let bad = &segment.bad_layers;
        let held: Vec<_> = held.filter(|held| !bad.contains(&held.number)).collect();
        for layer in copy.take_catalog(catalog, &held) {
            let file = FileName::Layer(id, layer);
            self.actions.push_back(Action::Delete { file });
        }
        self.copy_on(now, id);
    }

    /// A write or a sync of a copy ended.
    pub(crate) fn on_copy_written(
        &mut self,
        now: Duration,
        id: SegmentId,
        layer: LayerNumber,
        result: Result<(), DiskError>,
    ) {
        let segment = self.segments.get_mut(&id);
        let current = segment.and_then(|segment| segment.copy.as_mut());
        let current = current.filter(|copy| {
            let file = copy.current.as_ref();
            file.is_some_and(|file| file.layer.number == layer)
        });
        let Some(copy) = current else {
            // The copy was given up meanwhile. What waited for its file to be opened has failed: that is nobody's either.
            let file = FileName::Layer(id, layer);
            return self.actions.push_back(Action::Delete { file });
        };
        match result {
            Ok(()) => {}
            Err(DiskError::Full) => return self.end_copy(id, "the disk is full"),
            Err(DiskError::Failed) => {
                return self.stop(format!("write to a layer of segment {id} failed"));
            }
        }
        let file = copy.current.as_mut().expect("looked at just now");
        if file.syncing {
            copy.done.push(file.layer.clone());
            copy.renewed = 0;
            copy.current = None;
            copy.asked_number = None;
        } else if file.offset == file.layer.summary.file_bytes {
            file.syncing = true;
            let layer = file.layer.number;
            let token = self.reads.next_write_token();
            self.copy_writes.insert(token, (id, layer));
            self.actions.push_back(Action::Sync {
                token,
                segment: id,
                layer,
            });
            return;
        }
        if self.log.is_busy() {
            // What a writer sends goes first.
            copy.paused = true;
            return;
        }
        self.copy_on(now, id);
    }

    /// Everything is here and durable: the catalog names it.
    fn publish_copy(&mut self, id: SegmentId) {
        self.cancel_background(id);
        let is_publishing = self.is_publishing(&self.segments[&id]);
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        let Some(copy) = &mut segment.copy else {
            return;
        };
        if is_publishing {
            copy.paused = true;
            return;
        }
        let is_there = |layer: &CatalogLayer| {
            let held = segment.layers.layer(layer.number).is_some();
            let whole = held && !segment.bad_layers.contains(&layer.number);
            whole || copy.numbers.contains(&layer.number)
        };
        if copy.told.0 != segment.guard.history_epoch {
            return self.end_copy(id, "another history is in force");
        }
        if !copy.done.iter().all(is_there) {
            return self.end_copy(id, "a layer that was here is gone");
        }
        let theirs = copy.catalog.as_ref().expect("the catalog came first");
        let mut layers = copy.done.clone();
        layers.sort_by_key(|layer| layer.number);
        let folded_through = theirs.folded_through;
        let next = layers
            .last()
            .map_or(LayerNumber::FIRST, |last| last.number.next());
        let catalog = LayerCatalog {
            folded_through,
            horizon: theirs.horizon.max(segment.layers.horizon()),
            next: next.max(segment.layers.catalog().next),
            layers,
        };
        // Its own freezes may have passed it meanwhile.
        if folded_through < segment.layers.folded_through() {
            return self.end_copy(id, "it was passed");
        }
        let layer_count = catalog.layers.len();
        if !self.has_room_for_catalog(id, layer_count) {
            self.squeeze_layers();
            return self.end_copy(id, "its catalog does not fit the head of a hot-log file");
        }
        let entry = Entry::Catalog {
            segment: id,
            catalog,
        };
        if let Ok(ticket) = self.append(entry) {
            let segment = self.segments.get_mut(&id).expect("looked at just now");
            segment.publishing = Some((ticket, layer_count));
            let healed = segment.bad_layers.len() as u64;
            segment.copy = None;
            self.scrub.healed += healed;
            self.log_line(
                Severity::Info,
                format!("segment {id} copied the layers of a peer up to LSN {folded_through}"),
            );
        } else if let Some(copy) = self
            .segments
            .get_mut(&id)
            .and_then(|segment| segment.copy.as_mut())
        {
            copy.paused = true;
        }
    }

    /// Another history is in force: what a peer said under the one before counts no more.
    pub(crate) fn end_stale_copy(&mut self, id: SegmentId) {
        let segment = self.segments.get(&id);
        let is_stale = segment.is_some_and(|segment| {
            let copy = segment.copy.as_ref();
            copy.is_some_and(|copy| copy.told.0 != segment.history_epoch())
        });
        if is_stale {
            self.end_copy(id, "another history is in force");
        }
    }

    /// A copy cannot go on: what was written of it is garbage.
    pub(crate) fn end_copy(&mut self, id: SegmentId, why: &str) {
        let Some(copy) = self
            .segments
            .get_mut(&id)
            .and_then(|segment| segment.copy.take())
        else {
            return;
        };
        for layer in copy.numbers {
            let file = FileName::Layer(id, layer);
            self.actions.push_back(Action::Delete { file });
        }
        self.log_line(
            Severity::Info,
            format!(
                "segment {id} copies no layers from {}: {why}",
                copy.peer.segment
            ),
        );
    }

    /// Copies that wait for the hot log, or for a peer, go on.
    pub(crate) fn resume_copies(&mut self, now: Duration) {
        let paused: Vec<SegmentId> = self
            .segments
            .values()
            .filter(|segment| {
                let copy = segment.copy.as_ref();
                copy.is_some_and(|copy| copy.paused && copy.busy == 0)
            })
            .map(|segment| segment.id)
            .collect();
        for id in paused {
            self.copy_on(now, id);
        }
    }
}

/// Whether the layers of a catalog are of one piece: from the beginning up to where it says that they end, without a gap.
fn is_whole(catalog: &LayerCatalog) -> bool {
    let Ok(runs) = runs_of(catalog) else {
        return false;
    };
    let mut end = Lsn::NONE;
    for run in &runs {
        if run.after != end || run.through <= end {
            return false;
        }
        end = run.through;
    }
    end == catalog.folded_through
}

impl File {
    /// Takes the next bytes; false when the file is not what the catalog says.
    fn take(&mut self, bytes: &Bytes) -> bool {
        let summary = &self.layer.summary;
        let footer = summary.file_bytes - LAYER_FOOTER_BYTES as u64;
        let end = self.offset + bytes.len() as u64;
        let before = usize::try_from(footer.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        self.checksum.update(&bytes[..before.min(bytes.len())]);
        if end < summary.file_bytes {
            // A piece never ends inside the footer, which lies in the last unit.
            return end <= footer;
        }
        let same = LayerSummary::decode_footer(bytes, summary.file_bytes)
            .is_ok_and(|found| found == *summary);
        same && self.checksum.clone().finalize() == summary.file_checksum
    }
}
