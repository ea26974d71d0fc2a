//! Segments that are gone, and segments that a manifest does not name any more (R20).
//!
//! ```text
//!   member --Install, gossip: a manifest without it--> removed: takes, acks, serves, tells nothing; its data stays
//!     --a higher manifest that names it again--> member            --DropSegment--> tombstone: a manifest and no data
//! ```
//! Whoever asks for a removed segment or for a tombstone is told the manifest, so that a writer that knows only the segments of
//! long ago finds those of today. Tombstones are entries of the hot log and stand at the head of each file; their number is bounded:
//! the oldest one forgets its manifest, and its identity stays refused. Identities are bounded too: the oldest is forgotten. Age is the
//! order in which they were dropped; heads of files list them in it, so that a restart keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sixfold_log_format::hot_log::{ENTRY_HEADER_BYTES, Entry};
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{DropSegment, Message, Refusal, RetireVolume, Role};
use sixfold_log_format::{Lsn, Manifest, PgId, SegmentId, VolumeId};

use crate::bounds::{DROPPED_MAX, TOMBSTONES_MAX};
use crate::event::StreamKey;
use crate::node::NodeCore;
use crate::segment::Segment;
use crate::waiters::Waiter;

/// The manifest that removed a segment.
#[derive(Debug)]
struct Tombstone {
    pg: PgId,
    manifest: Manifest,
    /// Bytes of its entry.
    bytes: usize,
}

/// A segment that was dropped.
#[derive(Debug)]
struct Held {
    /// Its place in `by_age`.
    age: u64,
    tombstone: Option<Tombstone>,
}

/// Segments that were dropped: their identities never answer again.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    segments: BTreeMap<SegmentId, Held>,
    /// Oldest first.
    by_age: BTreeMap<u64, SegmentId>,
    next_age: u64,
    /// Forgotten while the hot log was read at the start: what stands behind their drops is no damage.
    forgotten: BTreeSet<SegmentId>,
    scan_is_over: bool,
    tombstone_count: usize,
    /// Bytes that all of it takes at the head of a hot-log file.
    bytes: usize,
}

impl Gone {
    pub(crate) fn contains(&self, id: SegmentId) -> bool {
        self.segments.contains_key(&id)
    }

    /// Oldest first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SegmentId> {
        self.by_age.values().copied()
    }

    /// Whether a drop of this segment was seen, in the scan at the start or since.
    pub(crate) fn was_dropped(&self, id: SegmentId) -> bool {
        self.contains(id) || self.forgotten.contains(&id)
    }

    /// The scan at the start has ended.
    pub(crate) fn scan_ended(&mut self) {
        self.scan_is_over = true;
        self.forgotten.clear();
    }

    /// Bytes that the entries take at the head of a hot-log file.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What stands at the head of a file for this segment.
    pub(crate) fn entry(&self, id: SegmentId) -> Entry {
        match self.segments.get(&id) {
            Some(Held {
                tombstone: Some(tombstone),
                ..
            }) => Entry::Removed {
                segment: id,
                pg: tombstone.pg,
                manifest: tombstone.manifest.clone(),
            },
            _ => Entry::Dropped { segment: id },
        }
    }

    /// Whether an entry says what is held already.
    pub(crate) fn says(&self, entry: &Entry) -> bool {
        let held = self.segments.get(&entry.segment());
        let tombstone = held.map(|held| held.tombstone.as_ref());
        match (entry, tombstone) {
            (Entry::Dropped { .. }, Some(None)) => true,
            (Entry::Removed { pg, manifest, .. }, Some(Some(tombstone))) => {
                *pg == tombstone.pg && *manifest == tombstone.manifest
            }
            _ => false,
        }
    }

    /// The same for all.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.ids().map(|id| self.entry(id))
    }

    /// A segment is gone; with the manifest that removed it, where one did. Without one, a tombstone forgets its own.
    pub(crate) fn put(&mut self, id: SegmentId, removed_by: Option<(PgId, Manifest)>) {
        let removed_by = removed_by.filter(|_| !planted(Mutant::TombstoneForgotten));
        // Put again, it is as old as before.
        let age = self.take(id).unwrap_or_else(|| {
            self.next_age += 1;
            self.next_age
        });
        let tombstone = removed_by.map(|(pg, manifest)| {
            let bytes = ENTRY_HEADER_BYTES + size_of::<u32>() + manifest.encode().len();
            Tombstone {
                pg,
                manifest,
                bytes,
            }
        });
        self.bytes += bytes_of(tombstone.as_ref());
        self.tombstone_count += usize::from(tombstone.is_some());
        self.by_age.insert(age, id);
        self.forgotten.remove(&id);
        self.segments.insert(id, Held { age, tombstone });
        self.bound();
    }

    /// Forgets it; its age.
    fn take(&mut self, id: SegmentId) -> Option<u64> {
        let before = self.segments.remove(&id)?;
        self.by_age.remove(&before.age);
        self.bytes -= bytes_of(before.tombstone.as_ref());
        self.tombstone_count -= usize::from(before.tombstone.is_some());
        Some(before.age)
    }

    /// The oldest one that is a tombstone, or that is none.
    fn oldest(&self, is_tombstone: bool) -> Option<SegmentId> {
        self.ids()
            .find(|id| self.segments[id].tombstone.is_some() == is_tombstone)
    }

    fn bound(&mut self) {
        while self.tombstone_count > TOMBSTONES_MAX {
            let Some(oldest) = self.oldest(true) else {
                return;
            };
            self.put(oldest, None);
        }
        while self.segments.len() > DROPPED_MAX {
            let Some(oldest) = self.oldest(false) else {
                return;
            };
            self.take(oldest);
            if !self.scan_is_over {
                self.forgotten.insert(oldest);
            }
        }
    }

    /// The manifest of a tombstone.
    pub(crate) fn manifest_of(&self, id: SegmentId) -> Option<&Manifest> {
        let tombstone = self.segments.get(&id)?.tombstone.as_ref()?;
        Some(&tombstone.manifest)
    }

    /// Tombstones of a volume, with their manifests.
    pub(crate) fn of_volume(
        &self,
        volume: VolumeId,
    ) -> impl Iterator<Item = (SegmentId, &Manifest)> {
        self.segments
            .iter()
            .filter_map(|(id, held)| {
                let tombstone = held.tombstone.as_ref()?;
                Some((*id, &tombstone.manifest))
            })
            .filter(move |(_, manifest)| manifest.volume == volume)
    }
}

fn bytes_of(tombstone: Option<&Tombstone>) -> usize {
    tombstone.map_or(ENTRY_HEADER_BYTES, |tombstone| tombstone.bytes)
}

/// Whether a manifest names a segment in any set of its group. One that was declared lost stays in its set until it is replaced, and
/// counts as removed from the first (R19).
pub(crate) fn names(manifest: &Manifest, pg: PgId, id: SegmentId) -> bool {
    manifest.pg(pg).is_some_and(|entry| {
        let mut members = entry.sets.iter().flat_map(|set| &set.members);
        members.any(|member| member.segment == id) && !entry.removed.contains(&id)
    })
}

impl Segment {
    /// Whether the manifest that it holds does not name it (any more).
    pub(crate) fn is_removed(&self) -> bool {
        !names(&self.manifest, self.pg, self.id)
    }
}

impl NodeCore {
    /// A segment that is here and takes part; else what is said to whoever asks for it.
    pub(crate) fn serving(&self, id: SegmentId) -> Result<&Segment, Refusal> {
        let segment = self.segments.get(&id);
        let serving = segment
            .filter(|segment| !segment.is_removed() || planted(Mutant::RemovedSegmentServes));
        serving.ok_or_else(|| self.why_not(id))
    }

    /// Why a segment takes no part here: it is unknown, or removed by a manifest. The newest one that says so is told.
    pub(crate) fn why_not(&self, id: SegmentId) -> Refusal {
        let own = self.segments.get(&id);
        let own = own.filter(|segment| segment.is_removed());
        let own = own.map(|segment| &segment.manifest);
        let Some(manifest) = own.or_else(|| self.gone.manifest_of(id)) else {
            return Refusal::UnknownSegment;
        };
        let newest = self
            .manifests_of(manifest.volume)
            .filter(|other| !other.pgs.iter().any(|entry| names(other, entry.pg, id)))
            .chain([manifest])
            .max_by_key(|manifest| manifest.version)
            .expect("one at least");
        Refusal::StaleMembership {
            manifest: Box::new(newest.clone()),
        }
    }

    /// Every manifest of a volume that counts: one that a segment was merely created with may never have been in force (R20). One that
    /// removed a segment was told, whatever history the segment holds.
    pub(crate) fn manifests_of(&self, volume: VolumeId) -> impl Iterator<Item = &Manifest> {
        let segments = self.segments.values();
        let held = segments
            .filter(move |segment| segment.volume == volume)
            .filter(|segment| {
                let created_with = segment.manifest.version.volume_epoch > segment.history_epoch();
                !created_with || segment.is_removed()
            });
        let tombstones = self.gone.of_volume(volume);
        held.map(|segment| &segment.manifest)
            .chain(tombstones.map(|(_, manifest)| manifest))
    }

    /// A segment took another manifest: one that does not name it ends everything that it does.
    pub(crate) fn membership_changed(&mut self, id: SegmentId) {
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        self.wishes.learned(&segment.manifest);
        if !segment.is_removed() || planted(Mutant::RemovedSegmentServes) {
            return;
        }
        segment.gossip.stop();
        segment.writer_heard = None;
        let refusal = self.why_not(id);
        for stream in self.streams_of(id) {
            self.end_stream(stream, refusal.clone());
        }
        self.cancel_work(id);
        self.end_copy(id, "it is no member any more");
    }

    /// Drops a segment, or finds that it is not there. A writer drops only what was removed before.
    pub(crate) fn on_drop(
        &mut self,
        now: Duration,
        stream: StreamKey,
        role: Role,
        drop: DropSegment,
    ) {
        let id = drop.segment;
        let entry = match self.segments.get(&id) {
            Some(segment) if segment.volume != drop.volume => {
                let volume = segment.volume;
                return self.refuse(stream, Refusal::WrongVolume { volume });
            }
            Some(segment) if segment.is_removed() => Entry::Removed {
                segment: id,
                pg: segment.pg,
                manifest: segment.manifest.clone(),
            },
            Some(segment) if role == Role::Writer => {
                let manifest = Box::new(segment.manifest.clone());
                return self.refuse(stream, Refusal::StaleMembership { manifest });
            }
            Some(_) => Entry::Dropped { segment: id },
            None if role == Role::Operator && self.gone.manifest_of(id).is_some() => {
                Entry::Dropped { segment: id }
            }
            // It comes: what is said of it now would be said of something else.
            None if self.creating.contains_key(&id) => {
                return self.refuse(stream, Refusal::Overloaded);
            }
            // Its creation may be on its way yet: it comes to nothing.
            None if role == Role::Writer && !self.gone.contains(id) => {
                Entry::Dropped { segment: id }
            }
            None => return self.answer(stream, Message::Done),
        };
        match self.append(entry) {
            Ok(ticket) => self.wait(now, ticket, Waiter::Create { stream }),
            Err(refusal) => self.refuse(stream, refusal),
        }
    }

    /// Drops everything of a volume. Repeatable: what could not be taken now is dropped the next time.
    pub(crate) fn on_retire(&mut self, now: Duration, stream: StreamKey, retire: RetireVolume) {
        let volume = retire.volume;
        let segments = self.segments.values();
        let held = segments.filter(|segment| segment.volume == volume);
        let coming = self.creating.iter().filter(|(_, (.., of))| *of == volume);
        let tombstones = self.gone.of_volume(volume);
        let ids: Vec<SegmentId> = held
            .map(|segment| segment.id)
            .chain(coming.map(|(id, _)| *id))
            .chain(tombstones.map(|(id, _)| id))
            .collect();
        self.wishes.forget(volume);
        let mut last = None;
        for segment in ids {
            match self.append(Entry::Dropped { segment }) {
                Ok(ticket) => last = Some(ticket),
                Err(refusal) => return self.refuse(stream, refusal),
            }
        }
        match last {
            Some(ticket) => self.wait(now, ticket, Waiter::Create { stream }),
            None => self.answer(stream, Message::Done),
        }
    }

    /// An entry says that a segment was dropped: everything of it goes.
    pub(crate) fn apply_drop(&mut self, entry: &Entry) {
        let id = entry.segment();
        let is_here = self.segments.contains_key(&id);
        if !is_here && self.gone.says(entry) {
            // The head of a file says it again.
            return;
        }
        let removed_by = match entry {
            Entry::Removed { pg, manifest, .. } => Some((*pg, manifest.clone())),
            _ => None,
        };
        self.gone.put(id, removed_by);
        if !is_here {
            return;
        }
        let refusal = self.why_not(id);
        for stream in self.streams_of(id) {
            self.end_stream(stream, refusal.clone());
        }
        self.cancel_work(id);
        self.end_copy(id, "it was dropped");
        self.cache.drop_above(id, Lsn::NONE);
        self.forget_resident(id);
        let segment = self.segments.remove(&id).expect("it is here");
        if self.is_ready() {
            let layers = &segment.layers.catalog().layers;
            let layers: Vec<_> = layers.iter().map(|layer| (layer.number, false)).collect();
            self.layers_gone(id, &layers);
        }
    }
}

#[cfg(test)]
#[path = "removed_tests.rs"]
mod tests;
