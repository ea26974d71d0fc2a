//! From sealed batches to segments, and from acks to answers.

use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Batch, Lsn, PgId, VolumeEpoch};
use sixfold_recovery::quorum;

use super::group::Group;
use super::{Life, WriterCore};
use crate::event::{AttachKey, WriterAction};
use crate::heartbeat::{HEARTBEAT, LeaseKeeper};
use crate::link::Link;
use crate::shipper::{AckNews, Envelope, LinkIndex, News};

impl WriterCore {
    /// Seals all open batches together, if few enough seals lack their write quorum (F2).
    pub(super) fn seal_if_due(&mut self) {
        if !self.boxcar.has_open()
            || self.durability.unacknowledged_seals() >= self.bounds.seals_in_flight_max.max(1)
        {
            return;
        }
        let sealed = self.boxcar.seal(self.vdl());
        assert!(sealed.point == self.last, "a seal ends at the last CPL");
        for batch in &sealed.batches {
            self.retain(batch);
        }
        self.watch.seal(sealed.point);
        self.cache.seal(sealed.point, self.tip.take());
        let pgs: Vec<PgId> = sealed.parts.iter().map(|&(pg, _)| pg).collect();
        self.durability.sealed(sealed.point, sealed.parts);
        for pg in pgs {
            self.ship_to_all(pg);
            if planted(Mutant::BatchDroppedEarly) {
                let group = &mut self.groups[pg.get() as usize];
                group.retained.release_through(group.last_sealed);
            }
        }
    }

    /// Keeps a sealed batch until it is within PGCL (R15).
    pub(super) fn retain(&mut self, batch: &Batch) {
        let group = &mut self.groups[batch.header().pg.get() as usize];
        group.retained.push(batch);
        self.watch.push(batch);
        group.last_sealed = batch.header().last;
        self.counters.batches += 1;
        self.counters.redo_bytes += batch.bytes().len() as u64;
    }

    /// Sends to each segment of a PG what it has not been sent.
    pub(super) fn ship_to_all(&mut self, pg: PgId) {
        self.read_point_min = self.shared.read_point_min();
        for place in 0..self.groups[pg.get() as usize].links.len() {
            self.ship(self.groups[pg.get() as usize].links[place]);
        }
    }

    pub(super) fn ship(&mut self, index: LinkIndex) {
        let pg = self.shipper.links()[index].pg;
        let envelope = self.envelope(pg);
        let retained = &self.groups[pg.get() as usize].retained;
        self.shipper
            .ship(index, retained, envelope, &mut self.actions);
    }

    fn envelope(&self, pg: PgId) -> Envelope {
        Envelope {
            now: self.now,
            pgmrpl: self.read_point_min,
            pg_last: self.groups[pg.get() as usize].last_sealed,
            vdl: self.vdl(),
        }
    }

    /// Attaches what is down and due.
    pub(super) fn attach_due(&mut self) {
        if self.shipper.due().is_due(self.now) {
            self.shipper.attach_due(self.now, &mut self.actions);
            self.shipper.rearm();
        }
    }

    pub(super) fn attached(&mut self, attach: AttachKey, message: &Message) {
        let groups = &self.groups;
        let pg_last = |pg: PgId| groups[pg.get() as usize].last_sealed;
        let news = self
            .shipper
            .attached(attach, message, self.now, pg_last, &mut self.actions);
        self.on_news(news);
    }

    pub(super) fn arrived(&mut self, attach: AttachKey, message: &Message) {
        let groups = &self.groups;
        let pg_last = |pg: PgId| groups[pg.get() as usize].last_sealed;
        let news = self
            .shipper
            .arrived(attach, message, self.now, pg_last, &mut self.actions);
        if let (Message::Ack(ack), News::Acked(_)) = (message, news)
            && !ack.wishes.is_empty()
        {
            self.take_wishes(attach, &ack.wishes);
        }
        self.on_news(news);
    }

    pub(super) fn lost(&mut self, attach: AttachKey) {
        let news = self.shipper.lost(attach, self.now);
        self.on_news(news);
    }

    pub(super) fn stream_drained(&mut self, attach: AttachKey, bytes: usize) {
        if let Some(index) = self.shipper.drained(attach, bytes) {
            self.ship(index);
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Nothing => {}
            News::Up(index) => {
                self.ship(index);
                // Says at once where the volume stands, and asks for an answer that renews the lease.
                self.heartbeat(index, self.now);
                self.scl_moved(self.shipper.links()[index].pg);
                self.writable_moved();
            }
            News::Acked(ack) => self.acked(ack),
            News::Lost => self.writable_moved(),
            News::Fenced(volume_epoch) => {
                self.writable_moved();
                self.fence_if_lost(volume_epoch);
            }
        }
    }

    fn acked(&mut self, ack: AckNews) {
        let link = &self.shipper.links()[ack.link];
        let (pg, segment) = (link.pg, link.segment);
        if let (PgId::ROOT, Some(sent)) = (pg, ack.sent) {
            let entry = &self.groups[0].entry;
            let leased = self.lease.answered(segment, sent, entry, self.now);
            self.shared.publish_lease(self.lease.until());
            let held = |ticket| WriterAction::Leased { ticket, held: true };
            self.actions.extend(leased.into_iter().map(held));
        }
        self.scl_moved(pg);
        if ack.writable_changed {
            self.writable_moved();
            self.ship(ack.link);
        }
    }

    /// An SCL moved: PGCL, VCL, VDL, answers.
    pub(super) fn scl_moved(&mut self, pg: PgId) {
        let links = self.shipper.links();
        let group = &mut self.groups[pg.get() as usize];
        let pgcl = quorum::pgcl(&group.entry, &|segment| group.scl_of(links, segment));
        if pgcl <= group.pgcl {
            return;
        }
        group.pgcl = pgcl;
        group.retained.release_through(pgcl);
        if let Some(vdl) = self.durability.advance(pg, pgcl) {
            self.vdl_moved(vdl);
        }
        self.advance_line();
    }

    /// VDL is published to readers first, then commits are answered (R28).
    fn vdl_moved(&mut self, vdl: Lsn) {
        self.publish(vdl);
        if let Life::Creating(cpl) = self.life
            && cpl <= vdl
        {
            self.life = Life::Open;
        }
    }

    pub(super) fn publish(&mut self, vdl: Lsn) {
        self.shared.publish_vdl(vdl);
        self.vdl_moved_at = self.now;
        self.watch.publish(vdl);
        self.answer_durable();
        self.read_point_min = self.shared.read_point_min();
        self.cache.durable(vdl, self.read_point_min);
        self.recent.trim(self.read_point_min);
    }

    /// Whether every PG that takes records has a write quorum of segments that take batches.
    pub(super) fn writable_moved(&mut self) {
        let links = self.shipper.links();
        let is_writable = |group: &Group| group.is_write_quorum(links, Link::is_writable);
        self.writable = self.groups[..self.geometry.groups].iter().all(is_writable);
        self.advance_line();
    }

    /// A writer refused by some segments goes on while every PG still gives it a write quorum (R8).
    fn fence_if_lost(&mut self, volume_epoch: VolumeEpoch) {
        let links = self.shipper.links();
        let may_take = |link: &Link| !link.is_fenced();
        let can_write = |group: &Group| group.is_write_quorum(links, may_take);
        if self.is_alive() && !self.groups[..self.geometry.groups].iter().all(can_write) {
            self.fenced(volume_epoch);
        }
    }

    /// Another writer holds the volume: everything ends.
    pub(super) fn fenced(&mut self, volume_epoch: VolumeEpoch) {
        self.life = Life::Fenced(volume_epoch);
        self.refuse_commits(volume_epoch);
        self.refuse_reads(Some(volume_epoch));
        self.refuse_log_reads(Some(volume_epoch));
        self.refuse_roundings(Some(volume_epoch));
        self.shipper.detach_all(&mut self.actions);
        self.actions
            .push_back(WriterAction::Fenced { volume_epoch });
    }

    /// Heartbeats where nothing was sent for too long (R16), and what else is looked at now and then.
    pub(super) fn beat(&mut self) {
        if !self.lease.take_beat(self.now) {
            return;
        }
        if self.shared.take_reads_served() {
            self.lease.reads(self.now);
        }
        self.read_point_min = self.shared.read_point_min();
        self.cache.trim(self.read_point_min);
        self.recent.trim(self.read_point_min);
        self.ages.sample(self.now, self.vdl());
        self.members_beat();
        for index in 0..self.shipper.links().len() {
            if self.shipper.links()[index].is_gone() {
                continue;
            }
            let pg = self.shipper.links()[index].pg;
            let renews = pg == PgId::ROOT && self.lease.is_reading(self.now);
            let interval = if renews { self.lease.beat() } else { HEARTBEAT };
            self.heartbeat(index, self.now.saturating_sub(LeaseKeeper::quiet(interval)));
            let retained = &self.groups[pg.get() as usize].retained;
            self.shipper.resend_if_stalled(index, retained, self.now);
            self.ship(index);
        }
    }

    /// Asks PG 0 for a lease, once for all who want it now (T1).
    pub(super) fn lease_round(&mut self) {
        if !self.lease.take_round() {
            return;
        }
        // What was sent at this very time was sent after the wants that came with it.
        let just_before = self.now.saturating_sub(Duration::from_nanos(1));
        for place in 0..self.groups[0].links.len() {
            self.heartbeat(self.groups[0].links[place], just_before);
        }
    }

    fn heartbeat(&mut self, index: LinkIndex, quiet_since: Duration) {
        let envelope = self.envelope(self.shipper.links()[index].pg);
        self.shipper
            .heartbeat(index, quiet_since, envelope, &mut self.actions);
    }
}
