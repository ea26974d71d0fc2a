//! The shipper: one log stream per segment, the same bytes to all, each with a bounded queue (R15).
//!
//! A stream that is full is skipped and goes on from what is retained when room returns; what was released meanwhile is
//! within PGCL and left to gossip. A stream that is lost is attached again, and resumes from the segment's SCL.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sixfold_log_format::wire::{Append, Attach, Attached, Heartbeat, Message, Refusal};
use sixfold_log_format::{
    Lsn, Manifest, Member, MembershipEpoch, NodeId, PgEntry, PgId, SegmentId, VolumeEpoch,
};
use sixfold_recovery::machine::Opened;

use crate::due::Due;
use crate::event::{AttachKey, WriterAction};
use crate::link::{Link, LinkState, Stream};
use crate::retained::RetainedBatches;

/// Before a segment is asked again that heard of a newer manifest of this writer's while an attach was on its way.
const RACED_PAUSE: Duration = Duration::from_millis(20);
/// Before a segment is asked again that refused for a reason that time may heal.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// A segment that received everything and made no progress for this long is sent again what it lacks.
const STALL: Duration = Duration::from_secs(1);
/// How long a PGMRPL holds without being said again.
const PGMRPL_LEASE_MS: u32 = 10_000;
/// Unanswered messages on a stream at which heartbeats are left out: a peer that is stopped piles up none.
const HEARTBEATS_UNANSWERED_MAX: usize = 256;

/// A segment's place in the list of links. It names the same segment as long as the writer lives: places are not used again.
pub(crate) type LinkIndex = usize;

/// What every message to a protection group says beside its batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) now: Duration,
    /// Lowest read point in use.
    pub(crate) pgmrpl: Lsn,
    /// The PG's last sealed LSN.
    pub(crate) pg_last: Lsn,
    pub(crate) vdl: Lsn,
}

/// What an ack said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AckNews {
    pub(crate) link: LinkIndex,
    /// When the newest message that it answers was sent; `None` when it answers no new one.
    pub(crate) sent: Option<Duration>,
    /// Whether the segment takes batches now and did not before.
    pub(crate) writable_changed: bool,
}

/// What a message on a stream meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing: of an earlier life, or no sense.
    Nothing,
    /// The stream is up.
    Up(LinkIndex),
    /// Acknowledged.
    Acked(AckNews),
    /// The stream is given up for now.
    Lost,
    /// The segment accepted a higher claim.
    Fenced(VolumeEpoch),
}

/// One attempt at a log stream.
#[derive(Debug, Clone, Copy)]
struct Life {
    link: LinkIndex,
    /// The manifest that its attach message carried.
    told: MembershipEpoch,
}

/// All links. Invariants: a life's link is not gone; every message says the newest manifest of this writer.
#[derive(Debug)]
pub(crate) struct Shipper {
    links: Vec<Link>,
    lives: BTreeMap<AttachKey, Life>,
    next_attach: u64,
    hello: Hello,
    stream_bytes_max: usize,
    due: Due,
}

/// What an attach message says, but for the segment.
#[derive(Debug)]
struct Hello {
    template: Attach,
    membership_epoch: MembershipEpoch,
}

impl Hello {
    fn new(opened: &Opened) -> Hello {
        Hello {
            template: Attach {
                segment: SegmentId::default(),
                volume_epoch: opened.volume_epoch,
                writer: opened.writer,
                history: opened.history.clone(),
                manifest: opened.manifest.clone(),
            },
            membership_epoch: opened.manifest.version.membership_epoch,
        }
    }
}

impl Shipper {
    /// Links to every member of every PG, all down and due at once.
    pub(crate) fn new(opened: &Opened, stream_bytes_max: usize, now: Duration) -> Shipper {
        let mut links = Vec::new();
        for entry in &opened.manifest.pgs {
            let scl_of = |segment| opened.scls.iter().find(|&&(known, _)| known == segment);
            for member in linked(entry, &entry.removed) {
                let scl = scl_of(member.segment).map_or(Lsn::NONE, |&(_, scl)| scl);
                links.push(Link::new(entry.pg, member, scl, now));
            }
        }
        let mut due = Due::default();
        due.sooner(now);
        Shipper {
            links,
            lives: BTreeMap::new(),
            next_attach: 1,
            hello: Hello::new(opened),
            stream_bytes_max,
            due,
        }
    }

    /// The links.
    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    /// The node of a stream.
    pub(crate) fn node_of(&self, attach: AttachKey) -> Option<NodeId> {
        let life = self.lives.get(&attach)?;
        Some(self.links[life.link].node)
    }

    /// Adds a link, down and due at once. A segment whose link was given up may get another one, at a place of its own: a step that
    /// was proposed and not found by a reopening in place is proposed again.
    pub(crate) fn add(&mut self, pg: PgId, member: Member, now: Duration) -> LinkIndex {
        assert!(
            !self
                .links
                .iter()
                .any(|link| link.segment == member.segment && !link.is_gone()),
            "segment {} has a link already",
            member.segment
        );
        self.links.push(Link::new(pg, member, Lsn::NONE, now));
        self.due.sooner(now);
        self.links.len() - 1
    }

    /// Gives a link up for good: nothing that its segment says counts any more.
    pub(crate) fn remove(&mut self, index: LinkIndex, actions: &mut VecDeque<WriterAction>) {
        self.end_lives(|life| life.link == index, actions);
        self.links[index].state = LinkState::Gone;
    }

    /// Whether a segment is being brought up to the others (R20).
    pub(crate) fn set_joining(&mut self, index: LinkIndex, joining: bool) {
        self.links[index].joining = joining;
    }

    /// A segment answered an install of this writer's manifest.
    pub(crate) fn told(&mut self, index: LinkIndex, membership_epoch: MembershipEpoch) {
        let link = &mut self.links[index];
        link.told = link.told.max(membership_epoch);
    }

    /// What is sent from now on says this manifest.
    pub(crate) fn set_manifest(&mut self, manifest: &Manifest) {
        self.hello.membership_epoch = manifest.version.membership_epoch;
        self.hello.template.manifest = manifest.clone();
    }

    /// What segments are told when they attach.
    pub(crate) fn hello(&self) -> &Attach {
        &self.hello.template
    }

    /// Nothing was heard of anybody for this long because this process stood still: that tells nothing of the segments.
    pub(crate) fn stood_still(&mut self, gap: Duration) {
        for link in &mut self.links {
            link.heard_at += gap;
        }
    }

    /// Gives up every stream and attaches nothing until [`Shipper::reopened`].
    pub(crate) fn suspend(&mut self, actions: &mut VecDeque<WriterAction>) {
        self.end_lives(|_| true, actions);
        self.due.clear();
        let kept = |link: &&mut Link| !link.is_gone();
        for link in self.links.iter_mut().filter(kept) {
            link.state = LinkState::Down {
                retry_at: Duration::MAX,
            };
        }
    }

    /// The volume was opened again by this very writer: everything is attached anew, under the new epoch.
    pub(crate) fn reopened(&mut self, opened: &Opened, now: Duration) {
        self.hello = Hello::new(opened);
        self.due.sooner(now);
        let kept = |link: &&mut Link| !link.is_gone();
        for link in self.links.iter_mut().filter(kept) {
            link.state = LinkState::Down { retry_at: now };
            link.told = MembershipEpoch::default();
            link.heard_at = now;
            let scl = opened.scls.iter().find(|(known, _)| *known == link.segment);
            if let Some(&(_, scl)) = scl {
                link.said(scl);
            }
        }
    }

    fn end_lives(&mut self, over: impl Fn(&Life) -> bool, actions: &mut VecDeque<WriterAction>) {
        self.lives.retain(|&attach, life| {
            let ends = over(life);
            if ends {
                actions.push_back(WriterAction::Detach { attach });
            }
            !ends
        });
    }

    /// Attaches what is down and due.
    pub(crate) fn attach_due(&mut self, now: Duration, actions: &mut VecDeque<WriterAction>) {
        for (index, link) in self.links.iter_mut().enumerate() {
            let LinkState::Down { retry_at } = link.state else {
                continue;
            };
            if retry_at > now {
                continue;
            }
            let attach = AttachKey(self.next_attach);
            self.next_attach += 1;
            let told = self.hello.membership_epoch;
            self.lives.insert(attach, Life { link: index, told });
            link.state = LinkState::Attaching;
            let message = Attach {
                segment: link.segment,
                ..self.hello.template.clone()
            };
            actions.push_back(WriterAction::Attach {
                attach,
                node: link.node,
                segment: link.segment,
                message: Message::Attach(Box::new(message)),
            });
        }
    }

    /// The answer to an attach message. `pg_last`: the highest LSN that a segment of the PG can hold.
    pub(crate) fn attached(
        &mut self,
        attach: AttachKey,
        message: &Message,
        now: Duration,
        pg_last: impl Fn(PgId) -> Lsn,
        actions: &mut VecDeque<WriterAction>,
    ) -> News {
        let Some(&Life { link: index, told }) = self.lives.get(&attach) else {
            return News::Nothing;
        };
        let ours = self.hello.template.volume_epoch;
        let link = &mut self.links[index];
        if !matches!(message, Message::Refused(_)) {
            link.heard_at = now;
        }
        match message {
            Message::Attached(Attached {
                scl, history_epoch, ..
            }) if *history_epoch == ours
                && *scl <= pg_last(link.pg)
                && matches!(link.state, LinkState::Attaching) =>
            {
                link.said(*scl);
                link.told = link.told.max(told);
                link.state = LinkState::Up(Stream::new(attach, *scl, now));
                News::Up(index)
            }
            Message::Refused(refusal) => self.refused(attach, refusal, now, actions),
            _ => self.give_up(attach, REFUSED_PAUSE, now, actions),
        }
    }

    /// A message on a log stream that is up. `pg_last`: the highest LSN that the segment can hold.
    pub(crate) fn arrived(
        &mut self,
        attach: AttachKey,
        message: &Message,
        now: Duration,
        pg_last: impl Fn(PgId) -> Lsn,
        actions: &mut VecDeque<WriterAction>,
    ) -> News {
        let Some(&Life { link: index, .. }) = self.lives.get(&attach) else {
            return News::Nothing;
        };
        let ours = self.hello.template.volume_epoch;
        match message {
            Message::Ack(ack) => {
                let link = &mut self.links[index];
                link.heard_at = now;
                let credible = ack.history_epoch == ours && ack.scl <= pg_last(link.pg);
                match link.acked(ack, now).filter(|_| credible) {
                    Some((sent, writable_changed)) => {
                        link.said(ack.scl);
                        News::Acked(AckNews {
                            link: index,
                            sent,
                            writable_changed,
                        })
                    }
                    None => self.give_up(attach, REFUSED_PAUSE, now, actions),
                }
            }
            Message::Refused(refusal) => self.refused(attach, refusal, now, actions),
            _ => self.give_up(attach, REFUSED_PAUSE, now, actions),
        }
    }

    fn refused(
        &mut self,
        attach: AttachKey,
        refusal: &Refusal,
        now: Duration,
        actions: &mut VecDeque<WriterAction>,
    ) -> News {
        let ours = self.hello.template.volume_epoch;
        self.heard_refusal(attach, refusal, now);
        let higher = match refusal {
            Refusal::StaleEpoch { volume_epoch } if *volume_epoch >= ours => *volume_epoch,
            // Only the holder of a higher volume epoch makes a manifest that this writer does not know (R21).
            Refusal::StaleMembership { manifest } if is_newer(manifest, ours) => {
                manifest.version.volume_epoch
            }
            // It has heard of a step meanwhile that this attach did not carry, and is a member still.
            Refusal::StaleMembership { manifest }
                if manifest.version.volume_epoch == ours && self.is_named(attach, manifest) =>
            {
                return self.give_up(attach, RACED_PAUSE, now, actions);
            }
            Refusal::DiskFull => {
                if let Some(life) = self.lives.get(&attach) {
                    self.links[life.link].full = true;
                }
                return self.give_up(attach, REFUSED_PAUSE, now, actions);
            }
            _ => return self.give_up(attach, REFUSED_PAUSE, now, actions),
        };
        let life = self.lives.remove(&attach);
        let index = life.expect("a life that was refused").link;
        self.links[index].state = LinkState::Fenced;
        actions.push_back(WriterAction::Detach { attach });
        News::Fenced(higher)
    }

    /// A refusal is a sign of life, for as long as the segment is not asked again because of it. But a node that lost the segment does
    /// not speak for it (R12).
    fn heard_refusal(&mut self, attach: AttachKey, refusal: &Refusal, now: Duration) {
        let is_silence = matches!(
            refusal,
            Refusal::UnknownSegment | Refusal::StaleMembership { .. }
        );
        if let Some(life) = self.lives.get(&attach)
            && !is_silence
        {
            self.links[life.link].heard_at = now + REFUSED_PAUSE;
        }
    }

    /// Whether a manifest names the segment of this stream.
    fn is_named(&self, attach: AttachKey, manifest: &Manifest) -> bool {
        let link = self.lives.get(&attach).map(|life| &self.links[life.link]);
        let entry = link.and_then(|link| manifest.pg(link.pg));
        let mut members = entry.into_iter().flat_map(|entry| &entry.sets);
        members.any(|set| {
            let mut members = set.members.iter();
            members.any(|member| link.is_some_and(|link| link.segment == member.segment))
        })
    }

    fn give_up(
        &mut self,
        attach: AttachKey,
        pause: Duration,
        now: Duration,
        actions: &mut VecDeque<WriterAction>,
    ) -> News {
        let Some(Life { link: index, .. }) = self.lives.remove(&attach) else {
            return News::Nothing;
        };
        self.links[index].state = LinkState::Down {
            retry_at: now + pause,
        };
        self.due.sooner(now + pause);
        actions.push_back(WriterAction::Detach { attach });
        News::Lost
    }

    /// The shell lost a stream, or could not have it.
    pub(crate) fn lost(&mut self, attach: AttachKey, now: Duration) -> News {
        let Some(Life { link: index, .. }) = self.lives.remove(&attach) else {
            return News::Nothing;
        };
        let retry_at = self.links[index].lost(now);
        self.due.sooner(retry_at);
        News::Lost
    }

    /// Room in a stream's queue; the link whose stream it is.
    pub(crate) fn drained(&mut self, attach: AttachKey, bytes: usize) -> Option<LinkIndex> {
        let index = self.lives.get(&attach)?.link;
        let LinkState::Up(stream) = &mut self.links[index].state else {
            return None;
        };
        stream.undrained_bytes = stream.undrained_bytes.saturating_sub(bytes);
        Some(index)
    }

    /// Sends to one segment what it has not been sent, as far as its queue has room.
    pub(crate) fn ship(
        &mut self,
        index: LinkIndex,
        retained: &RetainedBatches,
        envelope: Envelope,
        actions: &mut VecDeque<WriterAction>,
    ) {
        let link = &mut self.links[index];
        if link.full {
            return;
        }
        let LinkState::Up(stream) = &mut link.state else {
            return;
        };
        while let Some(batch) = retained.after(stream.sent_through.max(link.scl)) {
            let message = Message::Append(Append {
                sequence: stream.sequence + 1,
                membership_epoch: self.hello.membership_epoch,
                pgmrpl: envelope.pgmrpl,
                pgmrpl_lease_ms: PGMRPL_LEASE_MS,
                batch: batch.bytes.clone(),
            });
            if !stream.send(message, envelope.now, self.stream_bytes_max, actions) {
                break;
            }
            stream.sent_through = batch.last;
        }
    }

    /// Says that nothing is new (R16), when nothing was sent since `quiet_since`.
    pub(crate) fn heartbeat(
        &mut self,
        index: LinkIndex,
        quiet_since: Duration,
        envelope: Envelope,
        actions: &mut VecDeque<WriterAction>,
    ) {
        let LinkState::Up(stream) = &mut self.links[index].state else {
            return;
        };
        let spoke = stream.sequence > 0 && stream.last_sent > quiet_since;
        if spoke || stream.marks.len() >= HEARTBEATS_UNANSWERED_MAX {
            return;
        }
        let message = Message::Heartbeat(Heartbeat {
            sequence: stream.sequence + 1,
            membership_epoch: self.hello.membership_epoch,
            pg_last: envelope.pg_last,
            vdl: envelope.vdl,
            pgmrpl: envelope.pgmrpl,
            pgmrpl_lease_ms: PGMRPL_LEASE_MS,
        });
        // Where the queue is full, what is in it says that the writer lives as well as a heartbeat does.
        let _sent = stream.send(message, envelope.now, self.stream_bytes_max, actions);
    }

    /// A segment that received all and holds too little is sent again what is retained, if that begins where it ends: one that
    /// lacks more gets it from its peers first.
    pub(crate) fn resend_if_stalled(
        &mut self,
        index: LinkIndex,
        retained: &RetainedBatches,
        now: Duration,
    ) {
        let link = &mut self.links[index];
        let LinkState::Up(stream) = &mut link.state else {
            return;
        };
        if stream.marks.is_empty()
            && stream.sent_through > link.scl
            && stream.progress_at + STALL <= now
            && retained.reaches(link.scl)
        {
            stream.sent_through = link.scl;
            stream.progress_at = now;
        }
    }

    /// Gives every stream up: the writer ends.
    pub(crate) fn detach_all(&mut self, actions: &mut VecDeque<WriterAction>) {
        self.end_lives(|_| true, actions);
        self.due.clear();
        let kept = |link: &&mut Link| !link.is_gone();
        for link in self.links.iter_mut().filter(kept) {
            link.state = LinkState::Fenced;
        }
    }

    /// When something is down and due.
    pub(crate) fn due(&self) -> Due {
        self.due
    }

    /// Sets the bound anew after [`Shipper::attach_due`].
    pub(crate) fn rearm(&mut self) {
        self.due.clear();
        for link in &self.links {
            if let LinkState::Down { retry_at } = link.state
                && retry_at < Duration::MAX
            {
                self.due.sooner(retry_at);
            }
        }
    }
}

/// The members that are spoken to. One that was declared lost stands in a set until it is replaced, and neither hears nor counts
/// (R19): it is among `removed`, what the manifest in force says. A step that is not in force yet removes nobody.
pub(crate) fn linked(entry: &PgEntry, removed: &[SegmentId]) -> Vec<Member> {
    let mut members = entry.members();
    members.retain(|member| !removed.contains(&member.segment));
    members
}

fn is_newer(manifest: &Manifest, ours: VolumeEpoch) -> bool {
    manifest.version.volume_epoch > ours
}
