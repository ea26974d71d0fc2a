//! Gossip between the segments of a protection group: it only pulls.
//!
//! ```text
//!   each interval, each segment: Gossip -> one peer at random
//!     the peer's history or manifest is newer: take it, durable first (R3, R4)
//!     same history, and the peer was ahead for a whole round: ReadLog -> batches, again and again while there are more
//! ```
//! A segment that is only a few messages behind its writer pulls nothing: a peer's SCL counts when it is still not reached a
//! round later, or when no writer feeds this segment. Peers remember the highest SCL that they were told, so that a segment
//! that lost acknowledged records learns of it (R12).

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::hot_log::Entry;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Gossip, GossipAnswer, Message, Refusal};
use sixfold_log_format::{
    History, Lsn, Manifest, ManifestVersion, Member, MembershipEpoch, PgEntry, SegmentId,
    VolumeEpoch,
};

use crate::action::{Action, Severity};
use crate::bounds::PEER_PATIENCE;
use crate::event::{PeerToken, StreamKey};
use crate::node::NodeCore;
use crate::pulls::Pull;
use crate::removed::names;
use crate::segment::control_bytes;

/// One round in so many says where the node is, while the manifest says something else.
const HINT_ROUNDS: usize = 4;

/// What a segment knows of its peers.
#[derive(Debug, Default)]
pub(crate) struct GossipState {
    /// The PG's last LSN, as the writer's heartbeats say.
    pub(crate) pg_last: Lsn,
    /// The highest SCL that a peer had in an earlier round, under which history.
    ahead: (VolumeEpoch, Lsn),
    /// The highest membership epoch of its writer for which it has asked a peer out of turn.
    pub(crate) membership_heard: MembershipEpoch,
    /// The highest SCL that each peer told, under which history.
    told: BTreeMap<SegmentId, (VolumeEpoch, Lsn)>,
    /// The request in flight.
    pub(crate) asked: Option<(PeerToken, Duration)>,
    pub(crate) pull: Option<Pull>,
    /// The history and manifest for which there was no room last.
    no_room_for: Option<(VolumeEpoch, ManifestVersion)>,
    /// The manifest of a removed peer by which another one was asked out of turn in this round.
    led_by: Option<ManifestVersion>,
}

impl GossipState {
    /// The segment is no member any more: what it does with its peers ends, and nothing that they told counts.
    pub(crate) fn stop(&mut self) {
        *self = GossipState::default();
    }
}

/// Requests to peers in flight, and when the next round is due.
#[derive(Debug)]
pub(crate) struct Asking {
    asks: BTreeMap<PeerToken, (SegmentId, Member)>,
    last_token: u64,
    next_round: Duration,
    random: u64,
}

impl Asking {
    pub(crate) fn new(seed: u64, first_round: Duration) -> Asking {
        Asking {
            asks: BTreeMap::new(),
            last_token: 0,
            next_round: first_round,
            random: seed,
        }
    }

    /// When the next round is due.
    pub(crate) fn next_round(&self) -> Duration {
        self.next_round
    }

    /// The next number of a splitmix64 sequence.
    pub(crate) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.draw() % count as u64).expect("below a usize")
    }
}

impl NodeCore {
    /// Asks one peer for each segment.
    pub(crate) fn gossip_round(&mut self, now: Duration) {
        // Nodes that started together spread out.
        let interval = self.bounds.gossip_interval;
        let jitter = interval / 256 * u32::from(self.asking.draw().to_le_bytes()[0]) / 4;
        self.asking.next_round = now + interval + jitter;
        let ids: Vec<SegmentId> = self.segments.keys().copied().collect();
        for id in ids {
            self.ask_a_peer(now, id);
        }
    }

    pub(crate) fn ask_a_peer(&mut self, now: Duration, id: SegmentId) {
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        if let Some((token, since)) = segment.gossip.asked {
            if now.saturating_sub(since) < PEER_PATIENCE {
                return;
            }
            self.asking.asks.remove(&token);
            segment.gossip.asked = None;
            segment.gossip.pull = None;
            self.retry_copy(now, id, "it does not answer");
        }
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        if segment.gossip.pull.is_some() {
            return;
        }
        if let Some(copy) = &segment.copy {
            if copy.paused && copy.busy == 0 {
                self.copy_on(now, id);
            }
            return;
        }
        if segment.is_removed() {
            // A writer that wants it back says so itself.
            return;
        }
        let peers = segment.peers();
        if peers.is_empty() {
            return;
        }
        let peer = peers[self.asking.pick(peers.len())];
        // Now and then it says where it is, until the manifest says it too.
        let says = self.asking.pick(HINT_ROUNDS) == 0;
        if let Some(moved) = says
            .then(|| self.moved_hint(&self.segments[&id].manifest))
            .flatten()
        {
            return self.ask(now, id, peer, Message::LeaveHint(Box::new(moved)));
        }
        let message = self.gossip_to(id, &peer);
        self.ask(now, id, peer, message);
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        segment.gossip.led_by = None;
    }

    /// What a segment tells a peer of itself.
    pub(crate) fn gossip_to(&self, id: SegmentId, peer: &Member) -> Message {
        let segment = &self.segments[&id];
        Message::Gossip(Gossip {
            segment: peer.segment,
            from: id,
            history_epoch: segment.history_epoch(),
            manifest_version: segment.manifest.version,
            scl: segment.scl(),
            vdl_seen: segment.vdl_seen,
        })
    }

    pub(crate) fn ask(&mut self, now: Duration, id: SegmentId, peer: Member, message: Message) {
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        let left = self.wishes.address_of(segment.volume, peer.node);
        let Some(address) = left.or_else(|| segment.address_of(&peer)) else {
            segment.gossip.pull = None;
            return self.end_copy(id, "its address is not known");
        };
        self.ask_at(now, id, peer, address, message);
    }

    fn ask_at(
        &mut self,
        now: Duration,
        id: SegmentId,
        peer: Member,
        address: String,
        message: Message,
    ) {
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        self.asking.last_token += 1;
        let token = PeerToken(self.asking.last_token);
        segment.gossip.asked = Some((token, now));
        self.asking.asks.insert(token, (id, peer));
        self.actions.push_back(Action::AskPeer {
            token,
            node: peer.node,
            address,
            message,
        });
    }

    /// A peer asks.
    pub(crate) fn on_gossip(&mut self, stream: StreamKey, gossip: &Gossip) {
        if let Err(refusal) = self.serving(gossip.segment) {
            return self.refuse(stream, refusal);
        }
        let segment = self.segments.get_mut(&gossip.segment);
        let segment = segment.expect("it serves");
        if !names(&segment.manifest, segment.pg, gossip.from) {
            return self.answer_stranger(stream, gossip);
        }
        let told = segment.gossip.told.entry(gossip.from).or_default();
        let same = told.0 == gossip.history_epoch;
        let asker_scl_max = if same { told.1 } else { Lsn::NONE };
        if gossip.history_epoch >= told.0 {
            *told = (gossip.history_epoch, asker_scl_max.max(gossip.scl));
        }
        let older = gossip.history_epoch < segment.history_epoch()
            || gossip.manifest_version < segment.manifest.version;
        let answer = GossipAnswer {
            segment: segment.id,
            history_epoch: segment.history_epoch(),
            scl: segment.scl(),
            vdl_seen: segment.vdl_seen,
            asker_scl_max,
            newer: older.then(|| (segment.history.clone(), segment.manifest.clone())),
        };
        self.answer(stream, Message::GossipAnswer(Box::new(answer)));
    }

    /// One that is no member here asks: it was removed, or never was one, and learns that; or its membership is newer, and this segment
    /// learns that by asking.
    fn answer_stranger(&mut self, stream: StreamKey, gossip: &Gossip) {
        let segment = &self.segments[&gossip.segment];
        if gossip.manifest_version >= segment.manifest.version {
            return self.refuse(stream, Refusal::UnknownSegment);
        }
        let answer = GossipAnswer {
            segment: segment.id,
            history_epoch: segment.history_epoch(),
            scl: segment.scl(),
            vdl_seen: segment.vdl_seen,
            asker_scl_max: Lsn::NONE,
            newer: Some((segment.history.clone(), segment.manifest.clone())),
        };
        self.answer(stream, Message::GossipAnswer(Box::new(answer)));
    }

    /// A peer answered, or could not be reached.
    pub(crate) fn on_peer_answer(
        &mut self,
        now: Duration,
        token: PeerToken,
        answer: Option<Message>,
    ) {
        let Some((id, peer)) = self.asking.asks.remove(&token) else {
            return;
        };
        let Some(segment) = self.segments.get_mut(&id) else {
            return;
        };
        segment.gossip.asked = None;
        match answer {
            Some(Message::GossipAnswer(answer)) if answer.segment == peer.segment => {
                if segment.copy.is_some() {
                    self.on_copy_told(now, id, *answer);
                } else {
                    self.on_gossip_answer(now, id, peer, *answer);
                }
            }
            Some(Message::LogPiece(piece)) => self.on_log_piece(now, id, piece),
            Some(Message::LayerPiece(piece)) => self.on_layer_piece(now, id, &piece),
            // The peer is busy: it is asked for the same again a little later.
            Some(Message::Refused(Refusal::Overloaded)) => self.wait_for_busy(now, id),
            // It was removed, and knows by which manifest.
            Some(Message::Refused(Refusal::StaleMembership { manifest })) => {
                segment.gossip.pull = None;
                self.end_copy(id, "it is no member any more");
                self.on_removed_peer(now, id, *manifest);
            }
            // Its log does not reach down to here: its layers do, also to a batch that is damaged here.
            Some(Message::Refused(Refusal::Forgotten { .. })) if segment.gossip.pull.is_some() => {
                if let Some(pull) = segment.gossip.pull.take() {
                    self.begin_copy(now, id, peer, (pull.history_epoch, pull.theirs));
                }
            }
            // It merged since its catalog was read.
            Some(Message::Refused(Refusal::Forgotten { .. })) if segment.copy.is_some() => {
                self.renew_copy(now, id);
            }
            None if segment.copy.is_some() => {
                self.wishes.unreached(segment.volume, peer.node);
                self.retry_copy(now, id, "it does not answer");
            }
            // Unreachable, refused or senseless: another round, another peer.
            answer => {
                segment.gossip.pull = None;
                if answer.is_none() {
                    self.wishes.unreached(segment.volume, peer.node);
                }
                if segment.copy.is_some() {
                    self.end_copy(id, "it does not answer");
                }
            }
        }
    }

    fn on_gossip_answer(
        &mut self,
        now: Duration,
        id: SegmentId,
        peer: Member,
        answer: GossipAnswer,
    ) {
        if let Some((history, manifest)) = answer.newer {
            // Whether it is taken or held by now: the question was asked under an older one, and so was what is said of this segment's SCL.
            self.take_newer(id, history, manifest);
            return;
        }
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        if answer.history_epoch != segment.history_epoch() || segment.is_removed() {
            return;
        }
        let scl = segment.scl();
        if answer.asker_scl_max > scl && segment.missing_below < Some(answer.asker_scl_max) {
            segment.missing_below = Some(answer.asker_scl_max);
            let text = format!(
                "segment {id} has SCL {scl}, its peer {} was told {} before: acknowledged records are lost here",
                peer.segment, answer.asker_scl_max
            );
            self.log_line(Severity::Error, text);
        }
        self.take_proof(id, &peer, answer.scl);
        let epoch = answer.history_epoch;
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let ahead = if segment.gossip.ahead.0 == epoch {
            segment.gossip.ahead.1
        } else {
            Lsn::NONE
        };
        segment.gossip.ahead = (epoch, ahead.max(answer.scl));
        // A stream is in order: what its writer has sent is pending here or was lost on an earlier stream.
        let lost = segment.stream.is_none()
            || (segment.pending.is_empty() && segment.gossip.pg_last > scl);
        // At a bound it takes nothing more; damage may be what keeps it there.
        let heals_first = self.at_bound && segment.has_damaged_parts();
        let behind = answer.scl > scl && !heals_first;
        if behind && scl < segment.history.floor {
            // What was annulled below the floor is forgotten: the layers know, the log does not.
            self.begin_copy(now, id, peer, (epoch, answer.scl));
        } else if behind && (lost || ahead > scl) && !planted(Mutant::GossipMute) {
            segment.gossip.pull = Some(Pull {
                peer,
                history_epoch: epoch,
                after: scl,
                through: answer.scl,
                theirs: answer.scl,
                paused: false,
                busy: 0,
                heals: false,
            });
            self.pull_on(now, id);
        } else {
            self.heal(now, id, peer, (epoch, answer.scl));
        }
    }

    /// What is damaged here and whole at a peer is fetched.
    fn heal(
        &mut self,
        now: Duration,
        id: SegmentId,
        peer: Member,
        (history_epoch, theirs): (VolumeEpoch, Lsn),
    ) {
        self.forget_folded_damage(id);
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        if segment.copy.is_some() {
            return;
        }
        if !segment.bad_layers.is_empty() {
            return self.begin_copy(now, id, peer, (history_epoch, theirs));
        }
        let Some((_, held)) = segment.chain.first_bad() else {
            return;
        };
        let after = held.first.checked_minus(1).unwrap_or(Lsn::NONE);
        let through = held.last;
        segment.gossip.pull = Some(Pull {
            peer,
            history_epoch,
            after,
            through,
            theirs,
            paused: false,
            busy: 0,
            heals: true,
        });
        self.pull_on(now, id);
    }

    /// A damaged batch of which the layers hold everything, or that was annulled for good, is cut: nobody needs it.
    fn forget_folded_damage(&mut self, id: SegmentId) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        while let Some((batch, held)) = segment.chain.first_bad()
            && segment.is_folded(held)
        {
            segment.chain.forget(batch, &segment.history);
            segment.doubts.remove(&crate::parts::Part::Batch(batch));
            segment.parts_generation += 1;
            self.scrub.healed += 1;
        }
    }

    /// A batch that is damaged on disk and came again is written again.
    pub(crate) fn heal_batch(&mut self, id: SegmentId, bytes: &bytes::Bytes) {
        let segment = &self.segments[&id];
        let Ok(batch) = sixfold_log_format::Batch::decode(bytes.clone(), segment.volume) else {
            return;
        };
        let header = batch.header();
        let identity = (header.first, header.volume_epoch, header.checksum);
        let held = segment.chain.find(&identity);
        if let Some(held) = held.filter(|held| segment.is_bad(crate::parts::Part::Batch(*held))) {
            self.write_again(id, held, bytes.clone());
        }
    }

    /// After damage: whether what three peers hold is held here too.
    fn take_proof(&mut self, id: SegmentId, peer: &Member, theirs: Lsn) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        // One that joins may hold nothing of what was acknowledged before (R20).
        if segment.unproven == 0 || peer.joining {
            return;
        }
        let peers = segment.peers();
        segment
            .proofs
            .retain(|id, _| peers.iter().any(|peer| peer.segment == *id));
        segment.unproven = segment.unproven.min(segment.proofs_needed());
        segment.proofs.insert(peer.segment, theirs);
        let needed = segment.proofs.values().max().copied().unwrap_or(Lsn::NONE);
        if segment.proofs.len() >= segment.unproven && segment.scl() >= needed {
            segment.unproven = 0;
            segment.proofs.clear();
            self.scrub.healed += 1;
            self.log_line(
                Severity::Info,
                format!("segment {id} holds everything that its peers do, up to LSN {needed}"),
            );
        }
    }

    /// A peer has a newer history or manifest. It must be durable before anything of it counts (R3).
    pub(crate) fn take_newer(&mut self, id: SegmentId, history: History, manifest: Manifest) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        if manifest.volume != segment.volume {
            return;
        }
        let mut guard = segment.guard;
        let newer_history = guard.take_from_peer(history.volume_epoch);
        // A manifest of a lower epoch than the claim is taken from nobody (R4, R21).
        let newer_manifest = manifest.version > segment.manifest.version
            && manifest.version.volume_epoch >= segment.guard.claim
            && history.volume_epoch == segment.guard.history_epoch;
        if !newer_history && !newer_manifest {
            return;
        }
        let bytes = control_bytes(&history, &manifest);
        if let Err(refusal) = self.check_room_for_state(self.segments.get(&id), bytes) {
            let segment = self.segments.get_mut(&id).expect("looked at above");
            let found = (history.volume_epoch, manifest.version);
            // Said once: a peer tells it each round.
            if segment.gossip.no_room_for.replace(found) != Some(found) {
                let text = format!("segment {id} cannot take what its peer told: {refusal:?}");
                self.log_line(Severity::Error, text);
            }
            return;
        }
        let entry = Entry::Install {
            segment: id,
            volume_epoch: guard.claim,
            writer: guard.writer,
            history,
            manifest,
        };
        let Ok(ticket) = self.append(entry) else {
            return;
        };
        self.accept_guard(id, guard, ticket);
        let segment = self.segments.get_mut(&id).expect("looked at above");
        segment.control_bytes = bytes;
    }

    /// A peer was removed, by this manifest, which comes without its history. It is taken where it removes this segment as well, or is of
    /// the history in force; otherwise one of its members is asked, who brings the history with it (R3).
    fn on_removed_peer(&mut self, now: Duration, id: SegmentId, manifest: Manifest) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let is_ours = manifest.volume == segment.volume;
        if !is_ours || manifest.version <= segment.manifest.version {
            return;
        }
        let of_history = manifest.version.volume_epoch <= segment.history_epoch();
        if of_history || !names(&manifest, segment.pg, id) {
            let history = segment.history.clone();
            self.take_newer(id, history, manifest);
            return;
        }
        if segment.gossip.led_by >= Some(manifest.version) {
            return;
        }
        segment.gossip.led_by = Some(manifest.version);
        let members = manifest.pg(segment.pg).map(PgEntry::members);
        let mut members = members.unwrap_or_default();
        members.retain(|member| member.segment != id);
        let hint = |member: &Member| manifest.hints.iter().find(|hint| hint.node == member.node);
        members.retain(|member| hint(member).is_some());
        if members.is_empty() {
            return;
        }
        let peer = members[self.asking.pick(members.len())];
        let address = hint(&peer).expect("kept above").address.clone();
        let message = self.gossip_to(id, &peer);
        self.ask_at(now, id, peer, address, message);
    }
}
