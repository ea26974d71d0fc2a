//! Scrub: every block of the layers and every batch of the hot log is read and verified again, at a pace.
//!
//! Each round of gossip one segment gets a turn of [`Bounds::scrub_bytes`](crate::Bounds::scrub_bytes). What is found damaged is
//! read once more, since a cable may have been to blame; then it is said once, counted, and healed from a peer.

use std::sync::Arc;

use sixfold_log_format::layer::{LayerIndex, LayerNumber};
use sixfold_log_format::{Lsn, SegmentId, VolumeEpoch};

use crate::action::Severity;
use crate::chain::Identity;
use crate::jobs::{BackgroundStep, Work};
use crate::layers::cache::{Decoded, LayerPart};
use crate::node::NodeCore;
use crate::parts::{Damage, Fetched, Located, Part};
use crate::segment::Segment;

/// Parts that are verified.
#[derive(Debug)]
pub(crate) struct ScrubWork {
    parts: Vec<Located>,
    asked: bool,
    /// The segment is through with them.
    last: bool,
}

impl ScrubWork {
    /// Reads; those that came are sound.
    pub(crate) fn step(&mut self, segment: &Segment, fetched: &mut Fetched) -> BackgroundStep {
        let is_there = |part: &Located| match part.part {
            Part::Batch(id) => segment.chain.find_held(id).is_some_and(|held| {
                held.place
                    .is_some_and(|place| (place.offset, place.bytes) == (part.offset, part.bytes))
            }),
            Part::Layer(layer, _) => segment.layers.layer(layer).is_some(),
        };
        self.parts.retain(is_there);
        if std::mem::replace(&mut self.asked, true) || self.parts.is_empty() {
            return BackgroundStep::End;
        }
        fetched.clear();
        BackgroundStep::Fetch(self.parts.clone())
    }
}

/// Where the scrub is.
#[derive(Debug, Default)]
pub(crate) struct Scrubbing {
    running: bool,
    segment: SegmentId,
    at: Option<ScrubAt>,
    /// The index of the layer that it is at, read from the disk for this.
    index: Option<(SegmentId, LayerNumber, Arc<LayerIndex>)>,
    /// Everything of the segment was read and was sound since it began with it.
    sound: bool,
    /// Rounds over everything that ended.
    pub(crate) rounds: u64,
    pub(crate) bytes: u64,
    pub(crate) damage_found: u64,
    pub(crate) healed: u64,
}

#[derive(Debug, Clone, Copy)]
enum ScrubAt {
    Layer(LayerNumber, u32),
    /// The next batch, by its identity.
    Log(Identity),
}

impl NodeCore {
    /// A turn of the scrub.
    pub(crate) fn scrub_turn(&mut self) {
        if self.scrub.running || self.bounds.scrub_bytes == 0 {
            return;
        }
        // What is doubted goes first, wherever the scrub is: until it is read once more, nobody heals it.
        let mut segments = self.segments.values();
        let again = segments.find_map(|segment| {
            let parts = doubted(segment);
            (!parts.is_empty()).then_some((segment.id, parts))
        });
        if let Some((id, parts)) = again {
            return self.start_scrub(id, parts, false);
        }
        let from = self.scrub.segment;
        let next = self.segments.range(from..).next();
        let Some((id, segment)) = next else {
            if !self.segments.is_empty() {
                self.scrub.rounds += 1;
            }
            self.scrub.segment = SegmentId::default();
            self.scrub.at = None;
            return;
        };
        let id = *id;
        if id != from {
            self.scrub.at = None;
        }
        if self.scrub.at.is_none() {
            self.scrub.sound = true;
        }
        let bytes_max = self.bounds.scrub_bytes;
        let (parts, at) = next_parts(segment, self.scrub.index.as_ref(), self.scrub.at, bytes_max);
        let last = at.is_none();
        self.scrub.segment = if last { after(id) } else { id };
        self.scrub.at = at;
        if !parts.is_empty() {
            return self.start_scrub(id, parts, last);
        }
        if last {
            self.scrubbed(id);
        }
    }

    fn start_scrub(&mut self, id: SegmentId, parts: Vec<Located>, last: bool) {
        self.scrub.bytes += parts.iter().map(|part| u64::from(part.bytes)).sum::<u64>();
        self.scrub.running = true;
        let work = ScrubWork {
            parts,
            asked: false,
            last,
        };
        self.start_background(id, Work::Scrub(work));
    }

    /// A turn found damage, or was cut short.
    pub(crate) fn scrub_stopped(&mut self) {
        self.scrub.running = false;
    }

    /// A turn ended well. What was read again and was sound was misread before.
    pub(crate) fn scrub_ended(&mut self, id: SegmentId, work: &ScrubWork, fetched: &Fetched) {
        self.scrub_stopped();
        let Some(segment) = self.segments.get_mut(&id) else {
            return;
        };
        for part in &work.parts {
            let came = match part.part {
                Part::Batch(batch) => fetched.batches.contains_key(&batch),
                Part::Layer(layer, at) => fetched.layers.contains_key(&(layer, at)),
            };
            if came {
                segment.doubts.remove(&part.part);
            }
            self.scrub.sound &= came;
            if let Part::Layer(layer, LayerPart::Index) = part.part
                && let Some(Decoded::Index(index)) = fetched.layers.get(&(layer, LayerPart::Index))
            {
                self.scrub.index = Some((id, layer, Arc::clone(index)));
            }
        }
        if work.last {
            self.scrubbed(id);
        }
    }

    /// The scrub is through with a segment.
    fn scrubbed(&mut self, id: SegmentId) {
        let sound = std::mem::take(&mut self.scrub.sound);
        if let Some(segment) = self.segments.get_mut(&id)
            && sound
            && segment.doubts.is_empty()
        {
            segment.unreadable = false;
        }
    }

    /// Something is damaged: the first time it is doubted, the second time it is so.
    pub(crate) fn damaged(&mut self, id: SegmentId, damage: &Damage) {
        let Some(segment) = self.segments.get_mut(&id) else {
            return;
        };
        self.scrub.sound = false;
        let mut is_known = true;
        if damage.parts.is_empty() {
            is_known = std::mem::replace(&mut segment.unreadable, true);
        }
        for at in &damage.parts {
            // What went while it was read is missed by nobody.
            if segment.is_bad(at.part) || !segment.holds(at.part) {
                continue;
            }
            if segment.doubts.remove(&at.part).is_none() {
                segment.doubts.insert(at.part, *at);
                is_known = false;
                continue;
            }
            self.scrub.damage_found += 1;
            match at.part {
                Part::Batch(batch) => segment.chain.set_bad(batch),
                Part::Layer(layer, _) => {
                    segment.bad_layers.insert(layer);
                    // All of it will be copied.
                    let other = |part: &Part| !matches!(part, Part::Layer(of, _) if *of == layer);
                    segment.doubts.retain(|part, _| other(part));
                }
            }
        }
        if !is_known {
            self.log_line(Severity::Error, format!("segment {id}: {damage}"));
        }
    }
}

/// Parts that were found damaged once.
fn doubted(segment: &Segment) -> Vec<Located> {
    let parts = segment.doubts.values().filter_map(|at| match at.part {
        // It may have been written again since.
        Part::Batch(id) => {
            let held = segment.chain.find_held(id)?;
            held.place.map(|_| Located::batch(&segment.chain, id))
        }
        Part::Layer(layer, _) => segment.layers.layer(layer).map(|_| *at),
    });
    parts.collect()
}

/// The next parts of a segment, and where the turn after goes on; `None` when the segment is through.
fn next_parts(
    segment: &Segment,
    index: Option<&(SegmentId, LayerNumber, Arc<LayerIndex>)>,
    at: Option<ScrubAt>,
    bytes_max: usize,
) -> (Vec<Located>, Option<ScrubAt>) {
    let mut at = at.unwrap_or(ScrubAt::Layer(LayerNumber(0), 0));
    if let ScrubAt::Layer(number, block) = at {
        // What is known to be bad is not read again: a copy will take its place.
        let mut layers = segment.layers.catalog().layers.iter();
        let is_next = |number_at: LayerNumber| {
            number_at >= number && !segment.bad_layers.contains(&number_at)
        };
        let Some(layer) = layers.find(|layer| is_next(layer.number)) else {
            at = ScrubAt::Log((Lsn::NONE, VolumeEpoch::new(0), 0));
            return (Vec::new(), Some(at));
        };
        let same = layer.number == number;
        let block = if same { block } else { 0 };
        let is_its = |(id, of, _): &&(SegmentId, LayerNumber, Arc<LayerIndex>)| {
            (*id, *of) == (segment.id, layer.number)
        };
        let Some((_, _, index)) = index.filter(is_its) else {
            // The turn after has it, whatever the cache keeps.
            let parts = vec![Located::index(segment.id, layer)];
            return (parts, Some(ScrubAt::Layer(layer.number, block)));
        };
        let mut parts = Vec::new();
        let (mut bytes, mut next) = (0, block);
        while next < index.block_count() && bytes < bytes_max {
            let located = Located::block(segment.id, layer.number, &index.block(next));
            bytes += located.bytes as usize;
            parts.push(located);
            next += 1;
        }
        let at = if next == index.block_count() {
            ScrubAt::Layer(layer.number.next(), 0)
        } else {
            ScrubAt::Layer(layer.number, next)
        };
        return (parts, Some(at));
    }
    let ScrubAt::Log(from) = at else {
        unreachable!("layers were dealt with");
    };
    let mut parts = Vec::new();
    let mut bytes = 0;
    for (identity, id) in segment.chain.durable_from(from) {
        if bytes >= bytes_max {
            return (parts, Some(ScrubAt::Log(identity)));
        }
        let located = Located::batch(&segment.chain, id);
        bytes += located.bytes as usize;
        parts.push(located);
    }
    (parts, None)
}

/// The id after this one.
fn after(id: SegmentId) -> SegmentId {
    let number = u128::from_be_bytes(*id.as_bytes()).wrapping_add(1);
    SegmentId::from_bytes(number.to_be_bytes())
}
