//! Segments that are gone, and segments that a manifest does not name any more (R20).
//!
//! ```text
//!   member --Install, gossip: a manifest without it--> removed: takes, acks, serves, tells nothing; its data stays
//!     --a higher manifest that names it again--> member            --DropSegment--> tombstone: a manifest and no data
//! ```
//! Whoever asks for a removed segment or for a tombstone is told the manifest, so that a writer that knows only the segments of
//! long ago finds those of today. Tombstones are entries of the hot log and stand at the head of each file; their number is bounded:
//! the oldest one forgets its manifest, and its identity stays refused.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::hot_log::{ENTRY_HEADER_BYTES, Entry};
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{DropSegment, Message, Refusal, RetireVolume, Role};
use sixfold_log_format::{Manifest, PgId, SegmentId, VolumeId};

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

/// Segments that were dropped: their identities never answer again.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    segments: BTreeMap<SegmentId, Option<Tombstone>>,
    tombstone_count: usize,
    /// Bytes that all of it takes at the head of a hot-log file.
    bytes: usize,
}

impl Gone {
    pub(crate) fn contains(&self, id: SegmentId) -> bool {
        self.segments.contains_key(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = SegmentId> {
        self.segments.keys().copied()
    }

    /// Bytes that the entries take at the head of a hot-log file.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What stands at the head of a file for this segment.
    pub(crate) fn entry(&self, id: SegmentId) -> Entry {
        match self.segments.get(&id) {
            Some(Some(tombstone)) => Entry::Removed {
                segment: id,
                pg: tombstone.pg,
                manifest: tombstone.manifest.clone(),
            },
            _ => Entry::Dropped { segment: id },
        }
    }

    /// The same for all.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.ids().map(|id| self.entry(id))
    }

    /// A segment is gone; with the manifest that removed it, where one did. Without one, a tombstone forgets its own.
    pub(crate) fn put(&mut self, id: SegmentId, removed_by: Option<(PgId, Manifest)>) {
        let removed_by = removed_by.filter(|_| !planted(Mutant::TombstoneForgotten));
        self.take(id);
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
        self.segments.insert(id, tombstone);
        self.bound();
    }

    fn take(&mut self, id: SegmentId) {
        if let Some(before) = self.segments.remove(&id) {
            self.bytes -= bytes_of(before.as_ref());
            self.tombstone_count -= usize::from(before.is_some());
        }
    }

    fn bound(&mut self) {
        while self.tombstone_count > TOMBSTONES_MAX {
            let held = self.segments.iter();
            let version = |(id, held): (&SegmentId, &Option<Tombstone>)| {
                held.as_ref().map(|held| (held.manifest.version, *id))
            };
            let Some((_, oldest)) = held.filter_map(version).min() else {
                return;
            };
            self.put(oldest, None);
        }
        while self.segments.len() > DROPPED_MAX {
            let mut held = self.segments.iter();
            let plain = held.find(|(_, held)| held.is_none()).map(|(id, _)| *id);
            let Some(plain) = plain else {
                return;
            };
            self.take(plain);
        }
    }

    /// The manifest of a tombstone.
    pub(crate) fn manifest_of(&self, id: SegmentId) -> Option<&Manifest> {
        let tombstone = self.segments.get(&id)?.as_ref()?;
        Some(&tombstone.manifest)
    }

    /// Tombstones of a volume, with their manifests.
    pub(crate) fn of_volume(
        &self,
        volume: VolumeId,
    ) -> impl Iterator<Item = (SegmentId, &Manifest)> {
        self.segments
            .iter()
            .filter_map(|(id, held)| held.as_ref().map(|held| (*id, &held.manifest)))
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

    /// Every manifest of a volume that counts: one that a segment was merely created with may never have been in force (R20).
    pub(crate) fn manifests_of(&self, volume: VolumeId) -> impl Iterator<Item = &Manifest> {
        let segments = self.segments.values();
        let held = segments
            .filter(move |segment| segment.volume == volume)
            .filter(|segment| segment.history_epoch() >= segment.manifest.version.volume_epoch);
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
        let removed_by = match entry {
            Entry::Removed { pg, manifest, .. } => Some((*pg, manifest.clone())),
            _ => None,
        };
        self.gone.put(id, removed_by);
        let refusal = self.why_not(id);
        for stream in self.streams_of(id) {
            self.end_stream(stream, refusal.clone());
        }
        self.cancel_work(id);
        self.end_copy(id, "it was dropped");
        self.cache.clear(id);
        self.forget_resident(id);
        let Some(segment) = self.segments.remove(&id) else {
            return;
        };
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
