//! Tests of the page cache: intervals (R27), eviction and pins (R30).

use std::borrow::Cow;
use std::sync::Arc;

use sixfold_log_format::{Lsn, Op, Page, PageId, PageKind, Record, apply};

use crate::page_cache::CacheKeeper;
use crate::shared::Shared;
use crate::tip::TipPage;

const PAGE_BYTES: usize = 512;

/// The page `id` as record `lsn` left it.
fn page(id: u64, lsn: u64) -> Arc<Page> {
    let id = PageId::new(id);
    let mut page = Page::new(id, PAGE_BYTES);
    let init = Op::Init {
        kind: PageKind::Overflow,
        level: 0,
    };
    let write = Op::WriteBytes {
        offset: 0,
        bytes: Cow::Owned(lsn.to_le_bytes().to_vec()),
    };
    let first = lsn.max(2) - 1;
    for (lsn, page_prev, op) in [(first, 0, init), (lsn.max(2), first, write)] {
        let lsn = Lsn::new(lsn);
        let record = Record {
            lsn,
            page: id,
            page_prev: Lsn::new(page_prev),
            cpl: lsn,
            user_visible: false,
            op,
        };
        apply(&mut page, &record).unwrap();
    }
    Arc::new(page)
}

struct World {
    shared: Arc<Shared>,
    keeper: CacheKeeper,
}

impl World {
    fn new(vdl: u64, page_count_max: usize) -> World {
        let shared = Arc::new(Shared::new(Lsn::new(vdl)));
        let keeper = CacheKeeper::new(Arc::clone(&shared), PAGE_BYTES, page_count_max * PAGE_BYTES);
        World { shared, keeper }
    }

    fn seal(&mut self, point: u64, pages: &[(u64, u64)]) {
        let tip = |&(id, lsn): &(u64, u64)| TipPage {
            page: page(id, lsn),
            first: Lsn::new(lsn),
        };
        self.keeper.seal(
            Lsn::new(point),
            pages.iter().map(tip).collect::<Vec<_>>().into_iter(),
        );
    }

    fn durable(&mut self, vdl: u64) {
        self.shared.publish_vdl(Lsn::new(vdl));
        let read_point_min = self.shared.read_point_min();
        self.keeper.durable(Lsn::new(vdl), read_point_min);
    }

    fn arrives(&mut self, id: u64, lsn: u64, through: u64, open: bool) {
        self.keeper.arrived(&page(id, lsn), Lsn::new(through), open);
    }

    /// The page LSN found at a read point.
    fn at(&self, id: u64, read_point: u64) -> Option<u64> {
        let found = self.shared.cache.get(PageId::new(id), Lsn::new(read_point));
        found.map(|page| page.lsn().get())
    }
}

#[test]
fn a_page_fetched_at_100_is_no_answer_at_110() {
    let mut world = World::new(130, 64);
    world.arrives(5, 120, 130, true);
    world.arrives(5, 90, 100, false);
    assert_eq!(world.at(5, 100), Some(90));
    assert_eq!(world.at(5, 95), Some(90));
    assert_eq!(
        world.at(5, 110),
        None,
        "what was written at 105 is not known here"
    );
    assert_eq!(world.at(5, 120), Some(120));
    assert_eq!(world.at(5, 1_000), Some(120));
    assert_eq!(world.at(5, 89), None);
}

#[test]
fn an_arrival_never_replaces_a_newer_version() {
    let mut world = World::new(150, 64);
    world.seal(160, &[(5, 160)]);
    world.arrives(5, 120, 150, false);
    assert_eq!(
        world.shared.cache.newest(PageId::new(5)).unwrap().lsn(),
        Lsn::new(160)
    );
    assert_eq!(world.at(5, 150), Some(120));
    assert_eq!(world.at(5, 155), None);
    // Said to be the newest, by mistake: it is not believed.
    assert!(world.keeper.contradicts(&page(5, 130), Lsn::new(150)));
    assert!(!world.keeper.contradicts(&page(5, 120), Lsn::new(150)));
    world.arrives(5, 130, 150, true);
    assert_eq!(
        world.shared.cache.newest(PageId::new(5)).unwrap().lsn(),
        Lsn::new(160)
    );
}

#[test]
fn a_version_ends_where_the_next_seal_first_touched_the_page() {
    let mut world = World::new(100, 64);
    world.seal(110, &[(5, 110)]);
    world.durable(110);
    let reader = world.shared.announce();
    let tip = TipPage {
        page: page(5, 130),
        first: Lsn::new(121),
    };
    world.keeper.seal(Lsn::new(130), std::iter::once(tip));
    world.durable(130);
    assert_eq!(world.at(5, 120), Some(110));
    assert_eq!(
        world.at(5, 121),
        None,
        "between the first and the last record of a seal nothing is known"
    );
    assert_eq!(world.at(5, 130), Some(130));
    drop(reader);
    world.durable(140);
    assert_eq!(world.at(5, 120), None, "no announced read point needs it");
}

#[test]
fn two_arrivals_of_one_version_join_their_intervals() {
    let mut world = World::new(200, 64);
    world.arrives(5, 90, 100, false);
    world.arrives(5, 90, 120, false);
    assert_eq!((world.at(5, 120), world.at(5, 121)), (Some(90), None));
    world.arrives(5, 90, 110, false);
    assert_eq!(world.at(5, 120), Some(90));
    world.arrives(5, 90, 200, true);
    assert_eq!(world.at(5, 500), Some(90));
    assert_eq!(world.keeper.charged_bytes(), PAGE_BYTES);
}

#[test]
fn eviction_never_takes_a_version_above_vdl() {
    let mut world = World::new(100, 4);
    let pages: Vec<(u64, u64)> = (0..20).map(|number| (10 + number, 101 + number)).collect();
    world.seal(120, &pages);
    assert_eq!(world.keeper.charged_bytes(), 0);
    assert_eq!(world.keeper.above_bytes(), 20 * PAGE_BYTES);
    for number in 0..8 {
        world.arrives(200 + number, 50, 100, true);
    }
    assert!(world.keeper.charged_bytes() <= 4 * PAGE_BYTES);
    assert!(
        pages
            .iter()
            .all(|&(id, lsn)| world.at(id, 120) == Some(lsn))
    );
    world.durable(120);
    assert!(world.keeper.charged_bytes() <= 4 * PAGE_BYTES);
    assert_eq!(world.keeper.above_bytes(), 0);
}

#[test]
fn a_pinned_page_stays_and_a_used_page_gets_a_second_chance() {
    let mut world = World::new(100, 4);
    for id in 1..=4 {
        world.arrives(id, 50, 100, true);
    }
    world.keeper.pin(PageId::new(1));
    assert_eq!(world.at(2, 100), Some(50));
    world.arrives(5, 50, 100, true);
    assert_eq!(world.at(1, 100), Some(50), "pinned");
    assert_eq!(
        world
            .shared
            .cache
            .newest(PageId::new(2))
            .map(|page| page.lsn().get()),
        Some(50)
    );
    assert_eq!(world.at(3, 100), None);
    world.keeper.unpin(PageId::new(1));
    assert!(!world.keeper.is_over_pinned());
}

#[test]
fn a_long_snapshot_does_not_pile_up_versions_of_a_hot_page() {
    let mut world = World::new(100, 64);
    world.seal(110, &[(5, 110)]);
    world.durable(110);
    let _snapshot = world.shared.announce();
    let mut others = Vec::new();
    for point in (120..1_000).step_by(10) {
        world.seal(point, &[(5, point)]);
        world.durable(point);
        if [300, 550, 800].contains(&point) {
            others.push(world.shared.announce());
        }
    }
    for reader in &others {
        assert_eq!(
            world.at(5, reader.lsn().get()),
            Some(reader.lsn().get()),
            "announced later"
        );
    }
    assert_eq!(world.at(5, 110), Some(110), "what the snapshot reads");
    assert_eq!(world.at(5, 990), Some(990));
    assert!(world.keeper.charged_bytes() <= 9 * PAGE_BYTES);
}
