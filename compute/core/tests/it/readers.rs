//! Reading without writing (R23): one point, whatever other writers do meanwhile.

use std::time::Duration;

use sixfold_compute_core::{FetchError, FetchKey, FetchTicket, ReaderAction, ReaderCore};
use sixfold_log_format::wire::{Message, PageAnswer, Pages, ReadPages, Refusal};
use sixfold_log_format::{AnnulledRange, Lsn, NodeId, PageId, SegmentId, VolumeEpoch};
use sixfold_recovery::machine::survey::Surveyed;

use crate::cluster::fleet::opened_with_fleet;
use crate::cluster::{Cluster, FetchResult, bounds, put, segment_id};

const PAGE_BYTES: usize = 512;
const PATIENCE: Duration = Duration::from_secs(5);

/// A reader beside a volume that a writer has filled.
struct Beside {
    cluster: Cluster,
    reader: ReaderCore,
    now: Duration,
    surveyed: Surveyed,
    last_ticket: u64,
}

fn beside() -> Beside {
    let mut cluster = Cluster::with(bounds(), opened_with_fleet(6, 1));
    for number in 0..60 {
        cluster
            .commit(put(&format!("key {number:03}"), "a value of some bytes"))
            .unwrap();
    }
    let opened = opened_with_fleet(6, 1);
    let lsn = cluster.core.shared().vdl();
    let surveyed = Surveyed {
        lsn,
        settled: true,
        history: opened.history,
        manifest: opened.manifest,
        pg_last: vec![(sixfold_log_format::PgId::ROOT, lsn)],
        scls: (0..6).map(|index| (segment_id(index), lsn)).collect(),
    };
    let now = Duration::from_secs(7);
    Beside {
        reader: ReaderCore::new(surveyed.clone(), 1 << 20, now),
        cluster,
        now,
        surveyed,
        last_ticket: 0,
    }
}

/// What was asked of whom.
struct Asked {
    fetch: FetchKey,
    node: NodeId,
    read: ReadPages,
}

impl Beside {
    fn fetch(&mut self, page: PageId, lsn: Lsn) -> FetchTicket {
        self.last_ticket += 1;
        let ticket = FetchTicket(self.last_ticket);
        let deadline = self.now + PATIENCE;
        self.reader.fetch(self.now, ticket, &[page], lsn, deadline);
        ticket
    }

    /// What the reader does now.
    fn actions(&mut self) -> (Vec<Asked>, Vec<(FetchTicket, FetchResult)>) {
        let (mut asked, mut fetched) = (Vec::new(), Vec::new());
        while let Some(action) = self.reader.poll_action() {
            match action {
                ReaderAction::Ask {
                    fetch,
                    node,
                    message: Message::ReadPages(read),
                } => asked.push(Asked { fetch, node, read }),
                ReaderAction::Fetched { ticket, result } => fetched.push((ticket, result)),
                other => panic!("{other:?}"),
            }
        }
        (asked, fetched)
    }

    fn one_ask(&mut self) -> Asked {
        let (mut asked, fetched) = self.actions();
        assert!(asked.len() == 1 && fetched.is_empty(), "{fetched:?}");
        asked.remove(0)
    }

    fn one_result(&mut self, ticket: FetchTicket) -> FetchResult {
        let (asked, mut fetched) = self.actions();
        assert!(asked.is_empty() && fetched.len() == 1, "{fetched:?}");
        let (told, result) = fetched.remove(0);
        assert_eq!(told, ticket);
        result
    }

    /// The segment has what it is asked for.
    fn serve(&mut self, asked: &Asked) {
        let index = self.cluster.index_of(asked.read.segment);
        let segment = &self.cluster.segments[index];
        let pages = asked.read.pages.iter();
        let pages = pages.map(|request| {
            let page = segment.page(request.page, request.lsn, PAGE_BYTES);
            PageAnswer::Page(page.encode().into())
        });
        let answer = Message::Pages(Pages {
            pages: pages.collect(),
        });
        self.reader.answered(self.now, asked.fetch, Some(answer));
    }

    fn refuse(&mut self, asked: &Asked, refusal: Refusal) {
        let answer = Some(Message::Refused(refusal));
        self.reader.answered(self.now, asked.fetch, answer);
    }

    fn other_history(&mut self, asked: &Asked) {
        let history_epoch = VolumeEpoch::new(9);
        self.refuse(asked, Refusal::OtherHistory { history_epoch });
    }

    /// Another writer has opened the volume and annulled what is above `after`.
    fn opened_anew(&self, after: Lsn) -> Surveyed {
        let mut surveyed = self.surveyed.clone();
        let volume_epoch = VolumeEpoch::new(9);
        let through = after.plus(1_000);
        surveyed.history.volume_epoch = volume_epoch;
        surveyed.history.ranges.push(AnnulledRange {
            after,
            through,
            volume_epoch,
        });
        surveyed.lsn = through;
        surveyed
    }

    /// Lets time pass; reads that are asked again are not answered.
    fn pass(&mut self, time: Duration) -> Vec<(FetchTicket, FetchResult)> {
        let until = self.now + time;
        let mut ended = Vec::new();
        while let Some(due) = self.reader.poll_timeout().filter(|&due| due <= until) {
            self.now = self.now.max(due);
            self.reader.tick(self.now);
            ended.extend(self.actions().1);
        }
        self.now = until;
        ended
    }
}

#[test]
fn a_page_is_asked_for_once_and_serves_whoever_waits_and_comes_later() {
    let mut beside = beside();
    let (page, lsn) = (PageId::META, beside.surveyed.lsn);
    let first = beside.fetch(page, lsn);
    let asked = beside.one_ask();
    assert_eq!(
        asked.read.history_epoch,
        beside.surveyed.history.volume_epoch
    );
    assert_eq!(asked.read.pages.len(), 1);
    let request = &asked.read.pages[0];
    assert_eq!(
        (request.page, request.lsn, request.pg_last),
        (page, lsn, lsn)
    );
    let second = beside.fetch(page, lsn);
    assert!(beside.actions().0.is_empty());
    beside.serve(&asked);
    let (more, fetched) = beside.actions();
    assert!(more.is_empty());
    let tickets: Vec<FetchTicket> = fetched.iter().map(|&(ticket, _)| ticket).collect();
    assert_eq!(tickets, [first, second]);
    for (_, result) in fetched {
        assert_eq!(result.unwrap()[0].id(), page);
    }
    let third = beside.fetch(page, lsn);
    assert_eq!(beside.one_result(third).unwrap()[0].id(), page);
}

#[test]
fn what_lies_above_the_point_or_outside_the_volume_is_refused_at_once() {
    let mut beside = beside();
    let lsn = beside.surveyed.lsn;
    let above = beside.fetch(PageId::META, lsn.next());
    let error = beside.one_result(above).unwrap_err();
    assert!(matches!(error, FetchError::Unavailable { .. }), "{error:?}");
    for page in [PageId::new(64), PageId::NONE] {
        let outside = beside.fetch(page, lsn);
        let error = beside.one_result(outside).unwrap_err();
        assert!(matches!(error, FetchError::Corrupt { .. }), "{error:?}");
    }
}

#[test]
fn a_refused_read_goes_to_other_segments_and_ends_at_its_deadline() {
    let mut beside = beside();
    let lsn = beside.surveyed.lsn;
    let ticket = beside.fetch(PageId::META, lsn);
    let first = beside.one_ask();
    beside.refuse(&first, Refusal::Behind { scl: Lsn::new(1) });
    let second = beside.one_ask();
    assert_ne!(first.node, second.node);
    beside.serve(&second);
    assert!(beside.one_result(ticket).is_ok());
    // Nobody answers.
    let ticket = beside.fetch(PageId::new(2), lsn);
    beside.actions();
    assert!(beside.pass(PATIENCE - Duration::from_millis(1)).is_empty());
    let ended = beside.pass(Duration::from_millis(1));
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].0, ticket);
    assert!(matches!(ended[0].1, Err(FetchError::Unavailable { .. })));
}

#[test]
fn a_point_that_another_writer_kept_is_read_on_under_its_history() {
    let mut beside = beside();
    let lsn = beside.surveyed.lsn;
    let ticket = beside.fetch(PageId::META, lsn);
    let asked = beside.one_ask();
    assert!(!beside.reader.is_outdated());
    beside.other_history(&asked);
    assert!(beside.reader.is_outdated());
    // No survey now: it waits, and the next refusal asks for another.
    beside.reader.not_renewed();
    assert!(!beside.reader.is_outdated());
    let (mut asked, _) = beside.actions();
    while asked.is_empty() {
        beside.now += Duration::from_millis(20);
        beside.reader.tick(beside.now);
        asked = beside.actions().0;
    }
    beside.other_history(&asked[0]);
    assert!(beside.reader.is_outdated());
    beside.actions();
    let surveyed = beside.opened_anew(lsn);
    assert!(beside.reader.renew(beside.now, surveyed));
    assert!(!beside.reader.is_outdated());
    let again = beside.one_ask();
    assert_eq!(again.read.history_epoch, VolumeEpoch::new(9));
    assert_eq!(again.read.pages[0].lsn, lsn, "its point stays");
    // An answer to what was asked under the old history comes too late to count for anything.
    beside.serve(&asked[0]);
    assert!(beside.actions().1.is_empty());
    beside.serve(&again);
    assert!(beside.one_result(ticket).is_ok());
}

#[test]
fn a_point_that_was_annulled_is_read_no_more_not_even_from_memory() {
    let mut beside = beside();
    let lsn = beside.surveyed.lsn;
    let cached = beside.fetch(PageId::META, lsn);
    let asked = beside.one_ask();
    beside.serve(&asked);
    assert!(beside.one_result(cached).is_ok());
    let waiting = beside.fetch(PageId::new(2), lsn);
    let asked = beside.one_ask();
    beside.other_history(&asked);
    beside.actions();
    let before = Lsn::new(lsn.get() - 1);
    let surveyed = beside.opened_anew(before);
    assert!(!beside.reader.renew(beside.now, surveyed));
    let volume_epoch = VolumeEpoch::new(9);
    let fenced = Err(FetchError::Fenced { volume_epoch });
    assert_eq!(beside.one_result(waiting).map(|_| ()), fenced);
    let later = beside.fetch(PageId::META, lsn);
    assert_eq!(beside.one_result(later).map(|_| ()), fenced);
    assert!(!beside.reader.is_outdated(), "no survey brings it back");
}

/// What a segment that was replaced says makes the reader ask who took its place.
#[test]
fn a_removed_segment_leads_to_those_that_are_members_now() {
    let mut beside = beside();
    let lsn = beside.surveyed.lsn;
    let ticket = beside.fetch(PageId::META, lsn);
    let asked = beside.one_ask();
    let mut surveyed = beside.surveyed.clone();
    let members = &mut surveyed.manifest.pgs[0].sets[0].members;
    members.retain(|member| member.segment != asked.read.segment);
    let manifest = Box::new(surveyed.manifest.clone());
    beside.refuse(&asked, Refusal::StaleMembership { manifest });
    assert!(beside.reader.is_outdated());
    beside.actions();
    assert!(beside.reader.renew(beside.now, surveyed));
    let mut told: Vec<SegmentId> = Vec::new();
    for _ in 0..4 {
        let next = beside.one_ask();
        told.push(next.read.segment);
        beside.refuse(&next, Refusal::Behind { scl: Lsn::NONE });
    }
    assert!(!told.contains(&asked.read.segment), "{told:?}");
    let last = beside.one_ask();
    beside.serve(&last);
    assert!(beside.one_result(ticket).is_ok());
}
