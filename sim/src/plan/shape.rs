//! The shape of a run: bounds and sizes, small on purpose, so that splits, misses, evictions and back-pressure meet crashes.

use crate::rng::Rng;

/// Bounds and sizes of one run. Small, so that everything is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub(crate) pg_count: u32,
    pub(crate) lal: u64,
    pub(crate) page_bytes: u32,
    pub(crate) pages_per_pg: u64,
    pub(crate) cache_pages: usize,
    pub(crate) seals_in_flight: usize,
    pub(crate) unacknowledged_bytes: usize,
    pub(crate) stream_bytes: usize,
    pub(crate) waiting_commits: usize,
    pub(crate) remembered_keys: usize,
    pub(crate) group_bytes: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) resident_bytes: usize,
    pub(crate) node_cache_bytes: usize,
    pub(crate) reads_in_flight: usize,
    pub(crate) gossip_ms: u64,
    pub(crate) file_bytes: u64,
    /// Messages are encoded and decoded on the way.
    pub(crate) encodes: bool,
    pub(crate) disk_us: u64,
    pub(crate) link_us: u64,
    /// Longest pause of a client between transactions.
    pub(crate) think_us: u64,
    pub(crate) clients: usize,
    pub(crate) key_count: u64,
    /// Transactions that begin before the faults end; the rest of the run has those that prove that it is alive.
    pub(crate) transactions_max: u64,
    /// Operations of a transaction; what is drawn beyond is left out.
    pub(crate) operations_max: usize,
    /// The disk that may forget (R12).
    pub(crate) forgetful: usize,
}

impl Shape {
    pub(super) fn draw(rng: &mut Rng) -> Shape {
        let pg_count = rng.pick(&[1, 1, 2, 3, 4]);
        let page_bytes = rng.pick(&[512, 512, 1_024]);
        Shape {
            pg_count: u32::try_from(pg_count).expect("a few"),
            // One put may need 27 records, and an MTR may have a quarter of it.
            lal: rng.pick(&[128, 128, 160, 200, 256, 1_000]),
            page_bytes,
            pages_per_pg: if pg_count == 1 {
                4_096
            } else {
                rng.pick(&[16, 24, 40])
            },
            cache_pages: rng.pick(&[2, 4, 8, 16, 64]),
            seals_in_flight: rng.pick(&[2, 3, 4]),
            unacknowledged_bytes: rng.pick(&[8 << 10, 32 << 10, 96 << 10, 96 << 10]),
            stream_bytes: rng.pick(&[1 << 10, 4 << 10, 64 << 10]),
            waiting_commits: rng.pick(&[3, 16, 64]),
            remembered_keys: rng.pick(&[8, 64, 4_096]),
            group_bytes: rng.pick(&[2 << 10, 16 << 10, 64 << 10]),
            queued_bytes: rng.pick(&[128 << 10, 1 << 20]),
            resident_bytes: rng.pick(&[2 << 10, 16 << 10, 1 << 20]),
            node_cache_bytes: rng.pick(&[1 << 10, 8 << 10, 256 << 10]),
            reads_in_flight: rng.pick(&[2, 8, 64]),
            gossip_ms: rng.pick(&[20, 100, 200]),
            file_bytes: rng.pick(&[128 << 10, 128 << 10, 256 << 10]),
            encodes: rng.chance(1, 8),
            disk_us: rng.pick(&[60, 200, 1_000]),
            link_us: rng.pick(&[50, 150, 600]),
            think_us: rng.pick(&[500, 3_000, 12_000]),
            clients: rng.pick(&[1, 2, 4, 6, 12]),
            key_count: rng.pick(&[12, 60, 150]),
            transactions_max: u64::MAX,
            operations_max: usize::MAX,
            forgetful: rng.index(6),
        }
    }
}

impl Shape {
    /// Makes it one in which somebody always commits.
    pub(super) fn keep_busy(&mut self) {
        self.clients = self.clients.max(4);
        self.think_us = self.think_us.min(3_000);
        self.waiting_commits = self.waiting_commits.max(16);
    }

    /// Makes it one in which a seal spans several groups and gathers several commits.
    pub(super) fn spread_out(&mut self) {
        if self.pg_count == 1 {
            self.pg_count = 2;
        }
        self.pages_per_pg = 16;
        self.page_bytes = 512;
        self.key_count = self.key_count.max(60);
        self.keep_busy();
        self.clients = self.clients.max(6);
        self.lal = self.lal.max(256);
    }

    /// Shapes that are plainer than this one in one respect each, for cutting a failing run down: no bound is met that need not be
    /// met, and the load is less.
    pub(crate) fn plainer(&self) -> Vec<Shape> {
        let mut plainer = Vec::new();
        let mut with = |change: &dyn Fn(&mut Shape)| {
            let mut shape = self.clone();
            change(&mut shape);
            if shape != *self {
                plainer.push(shape);
            }
        };
        with(&|shape| {
            shape.pg_count = 1;
            shape.pages_per_pg = 4_096;
        });
        with(&|shape| shape.pg_count = shape.pg_count.min(2));
        with(&|shape| shape.clients = 1);
        with(&|shape| shape.clients = shape.clients.div_ceil(2));
        with(&|shape| shape.key_count = shape.key_count.min(2));
        with(&|shape| shape.key_count = shape.key_count.min(12));
        with(&|shape| shape.operations_max = 1);
        with(&|shape| shape.operations_max = shape.operations_max.min(3));
        with(&|shape| shape.think_us = 12_000);
        with(&|shape| shape.encodes = false);
        with(&|shape| shape.lal = 1_000);
        with(&|shape| shape.cache_pages = 64);
        with(&|shape| shape.seals_in_flight = 2);
        with(&|shape| shape.unacknowledged_bytes = 96 << 10);
        with(&|shape| shape.stream_bytes = 64 << 10);
        with(&|shape| shape.waiting_commits = 64);
        with(&|shape| shape.remembered_keys = 4_096);
        with(&|shape| shape.group_bytes = 64 << 10);
        with(&|shape| shape.queued_bytes = 1 << 20);
        with(&|shape| shape.resident_bytes = 1 << 20);
        with(&|shape| shape.node_cache_bytes = 256 << 10);
        with(&|shape| shape.reads_in_flight = 64);
        with(&|shape| shape.file_bytes = 256 << 10);
        plainer
    }
}
