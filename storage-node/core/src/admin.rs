//! What concerns the node as a whole: creation of segments, status.

use std::time::Duration;

use sixfold_log_format::hot_log::Entry;
use sixfold_log_format::limits::{PAGE_BYTES_MAX, PAGE_BYTES_MIN};
use sixfold_log_format::wire::{
    CreateSegment, Message, NodeMemory, NodeStatus, NodeUpkeep, Refusal, SegmentStatus,
};
use sixfold_log_format::{History, NodeId, PgId, SegmentId, VolumeEpoch, VolumeId};

use crate::bounds::{CONTROL_BYTES_MAX, SEGMENTS_MAX};
use crate::event::StreamKey;
use crate::node::NodeCore;
use crate::numbers::Refused;
use crate::segment::{Segment, control_bytes};
use crate::waiters::Waiter;

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) redo_bytes: u64,
    pub(crate) refusals: Refused,
    pub(crate) gossip_batches: u64,
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Checks what a creation says of itself; the reason when it makes no sense on this node.
fn check(create: &CreateSegment, node: NodeId) -> Result<(), &'static str> {
    let page_bytes = create.manifest.parameters.page_bytes as usize;
    if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) {
        return Err("the page size is none");
    }
    let Some(entry) = create
        .manifest
        .pg(create.pg)
        .filter(|entry| entry.pg == create.pg)
    else {
        return Err("the manifest has no such protection group");
    };
    let members = entry.members();
    if !members
        .iter()
        .any(|member| member.segment == create.segment && member.node == node)
    {
        return Err("the manifest does not give this segment to this node");
    }
    Ok(())
}

impl NodeCore {
    /// Makes a segment, or finds that it was made (idempotent while nobody opened the volume).
    pub(crate) fn on_create(&mut self, now: Duration, stream: StreamKey, create: CreateSegment) {
        if let Err(reason) = check(&create, self.node) {
            return self.refuse_malformed(stream, reason);
        }
        let identity = (create.pg, create.manifest.volume);
        if let Some((ticket, pg, volume)) = self.creating.get(&create.segment).copied() {
            return if (pg, volume) == identity {
                self.wait(now, ticket, Waiter::Create { stream });
            } else {
                self.refuse(stream, Refusal::Exists);
            };
        }
        if let Some(segment) = self.segments.get(&create.segment) {
            // A volume is created until somebody opened it; a segment of a later step whenever its writer asks again.
            let creates_volume = create.manifest.version.volume_epoch == VolumeEpoch::CREATION;
            let repeated = segment.guard.claim == VolumeEpoch::CREATION || !creates_volume;
            return if (segment.pg, segment.volume) == identity && repeated {
                self.answer(stream, Message::Done);
            } else {
                self.refuse(stream, Refusal::Exists);
            };
        }
        if let Err(refusal) = self.check_new(&create) {
            return self.refuse(stream, refusal);
        }
        if self.segments.len() + self.creating.len() >= SEGMENTS_MAX {
            return self.refuse(stream, Refusal::Overloaded);
        }
        let bytes = control_bytes(&History::creation(), &create.manifest);
        if let Err(refusal) = self.check_room_for_state(None, bytes) {
            return self.refuse(stream, refusal);
        }
        let CreateSegment {
            segment,
            pg,
            manifest,
        } = create;
        match self.append(Entry::Created {
            segment,
            pg,
            manifest,
        }) {
            Ok(ticket) => {
                self.creating_bytes += bytes;
                self.creating
                    .insert(segment, (ticket, identity.0, identity.1));
                self.wait(now, ticket, Waiter::Create { stream });
            }
            Err(refusal) => self.refuse(stream, refusal),
        }
    }

    /// Bytes that the states of all segments take at the head of a hot-log file, but for their catalogs.
    fn control_bytes(&self) -> usize {
        let held = self.segments.values().map(|segment| segment.control_bytes);
        held.sum::<usize>() + self.gone.bytes() + self.creating_bytes
    }

    /// Whether a state of so many bytes may take the place of a segment's, or come new. The head of a hot-log file holds all of
    /// them (F6): a quarter of a file is for them, another one for the catalogs, so that the rest is left for batches. What does
    /// not grow is never refused.
    pub(crate) fn check_room_for_state(
        &self,
        of: Option<&Segment>,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let before = of.map_or(0, |segment| segment.control_bytes);
        let bytes_max = self.log.heads_bytes_max();
        let all = self.control_bytes() - before + bytes;
        if bytes <= before || all <= bytes_max && bytes <= CONTROL_BYTES_MAX {
            return Ok(());
        }
        let reason = format!(
            "the states of all segments would take {all} bytes, this one {bytes}: a hot-log file of {} bytes holds {bytes_max}",
            self.log.file_bytes()
        );
        Err(Refusal::Malformed { reason })
    }

    /// The ledger: what is in memory, each under its own bound.
    fn memory(&self) -> NodeMemory {
        NodeMemory {
            limit_bytes: self.bounds.memory_bytes_max(),
            index_bytes: self.index_bytes() as u64,
            redo_bytes: self.resident_bytes as u64,
            queued_bytes: self.log.queued_bytes() as u64,
            page_bytes: self.cache.bytes() as u64,
            block_bytes: self.layer_cache.block_bytes() as u64,
            layer_index_bytes: self.layer_cache.index_bytes() as u64,
            work_bytes: self.reads.work_bytes() as u64,
        }
    }

    /// Whether a segment that is not here may be made: its identity is not gone, no newer manifest is known here, and the node hosts
    /// no other member of the group.
    fn check_new(&self, create: &CreateSegment) -> Result<(), Refusal> {
        let id = create.segment;
        if self.gone.contains(id) {
            return Err(match self.why_not(id) {
                Refusal::UnknownSegment => Refusal::Exists,
                removed => removed,
            });
        }
        let newest = self
            .manifests_of(create.manifest.volume)
            .max_by_key(|manifest| manifest.version);
        if let Some(newest) = newest.filter(|newest| newest.version > create.manifest.version) {
            if create.manifest.version.volume_epoch == VolumeEpoch::CREATION {
                // The volume has been opened before.
                return Err(Refusal::Exists);
            }
            return Err(Refusal::StaleMembership {
                manifest: Box::new(newest.clone()),
            });
        }
        if let Some(entry) = newest.and_then(|newest| newest.pg(create.pg))
            && entry.removed.contains(&id)
        {
            return Err(Refusal::StaleMembership {
                manifest: Box::new(newest.expect("it has an entry").clone()),
            });
        }
        if self.hosts((create.pg, create.manifest.volume)) {
            return Err(Refusal::Exists);
        }
        Ok(())
    }

    fn hosts(&self, identity: (PgId, VolumeId)) -> bool {
        let segments = self.segments.values();
        let here = segments
            .filter(|segment| !segment.is_removed())
            .map(|segment| (segment.pg, segment.volume));
        let coming = self.creating.values().map(|(_, pg, volume)| (*pg, *volume));
        here.chain(coming).any(|held| held == identity)
    }

    pub(crate) fn on_ask_status(&mut self, stream: StreamKey) {
        self.answer(stream, Message::NodeStatus(self.status()));
    }

    /// How the node is.
    pub(crate) fn status(&self) -> NodeStatus {
        let status = |(id, segment): (&SegmentId, &Segment)| SegmentStatus {
            segment: *id,
            volume: segment.volume,
            pg: segment.pg,
            claim: segment.guard.claim,
            history_epoch: segment.history_epoch(),
            scl: segment.scl(),
            highest: segment.chain.highest(),
            vdl_seen: segment.vdl_seen,
            unfolded_bytes: segment.unfolded_bytes,
            damaged: segment.is_damaged(),
            folded_through: segment.layers.folded_through(),
            horizon: segment.layers.horizon(),
            log_start: segment.chain.log_start(),
            layer_count: count(segment.layers.catalog().layers.len()),
            run_count: count(segment.layers.runs().len()),
            layer_bytes: segment.layers.catalog().file_bytes(),
        };
        NodeStatus {
            node: self.node,
            az: self.az.clone(),
            hot_log_bytes: self.log.used_bytes(),
            group_writes: self.log.group_writes,
            redo_bytes: self.counters.redo_bytes,
            refused: self.counters.refusals.total(),
            gossip_batches: self.counters.gossip_batches,
            upkeep: Box::new(NodeUpkeep {
                freezes: self.upkeep.freezes,
                merges: self.upkeep.merges,
                files_freed: self.upkeep.files_freed,
                scrub_bytes: self.scrub.bytes,
                scrub_rounds: self.scrub.rounds,
                damage_found: self.scrub.damage_found,
                damage_healed: self.scrub.healed,
                full: self.segments.values().any(|held| self.is_full_for(held))
                    || !self.log.takes_batches(),
                pressed: self.pressed,
                memory: self.memory(),
            }),
            segments: self.segments.iter().map(status).collect(),
        }
    }
}
