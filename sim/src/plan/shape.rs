//! The shape of a run: bounds and sizes, small on purpose, so that splits, misses, evictions and back-pressure meet crashes.

use super::members::MemberShape;
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
    /// Bounds of layers.
    pub(crate) layers: LayerShape,
    /// Kinds of work.
    pub(crate) work: Work,
    /// Watches beside the writers.
    pub(crate) watches: usize,
    /// What a writer keeps for its watches.
    pub(crate) watch_bytes: usize,
    /// One client of each writer holds its read points for long (R17).
    pub(crate) holds: bool,
    /// The volume has a token, which strangers do not have.
    pub(crate) token: bool,
    /// Standbys are all that is left to open the volume, and nothing is in their way: they must do so in time.
    pub(crate) prompt: bool,
    /// Spare nodes, and what is done with them.
    pub(crate) members: MemberShape,
}

/// Kinds of work beside plain reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    /// Commits with tokens, and second tries (T3).
    pub(crate) tokens: bool,
    /// Values that expire (T5).
    pub(crate) deadlines: bool,
    /// Range clears.
    pub(crate) clears: bool,
    /// Numbers that are modified at the tip (T6).
    pub(crate) numbers: bool,
    /// Reads at past LSNs (R29).
    pub(crate) past: bool,
}

impl Work {
    const ALL: Work = Work {
        tokens: true,
        deadlines: true,
        clears: true,
        numbers: true,
        past: true,
    };
}

/// Bounds of layers, of trimming and of retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerShape {
    pub(crate) index_bytes: usize,
    pub(crate) unfolded_bytes: u64,
    pub(crate) freeze_bytes: u64,
    pub(crate) cache_bytes: usize,
    pub(crate) layer_bytes: u64,
    pub(crate) chain_records: usize,
    pub(crate) chain_bytes: usize,
    pub(crate) memory_chain: usize,
    pub(crate) runs: usize,
    pub(crate) window_files: u64,
    pub(crate) log_files: u64,
    pub(crate) background_bytes: u64,
    pub(crate) scrub_bytes: usize,
    pub(crate) retention_ms: u64,
    pub(crate) retention_bytes: u64,
}

impl LayerShape {
    /// Bounds that nothing meets.
    fn plain() -> LayerShape {
        LayerShape {
            index_bytes: 64 << 20,
            unfolded_bytes: 64 << 20,
            freeze_bytes: 1 << 20,
            cache_bytes: 1 << 20,
            layer_bytes: 1 << 20,
            chain_records: 64,
            chain_bytes: 4 << 10,
            memory_chain: 1 << 20,
            runs: 24,
            window_files: 4,
            log_files: 512,
            background_bytes: 0,
            scrub_bytes: 8 << 10,
            retention_ms: 3_600_000,
            retention_bytes: 0,
        }
    }

    fn draw(rng: &mut Rng) -> LayerShape {
        LayerShape {
            index_bytes: rng.pick(&[128 << 10, 512 << 10, 4 << 20]),
            unfolded_bytes: rng.pick(&[256 << 10, 256 << 10, 1 << 20]),
            freeze_bytes: rng.pick(&[2 << 10, 4 << 10, 16 << 10]),
            cache_bytes: rng.pick(&[2 << 10, 8 << 10, 64 << 10]),
            layer_bytes: rng.pick(&[2 << 10, 8 << 10, 64 << 10]),
            chain_records: rng.pick(&[1, 2, 4, 16]),
            chain_bytes: rng.pick(&[128, 512, 2 << 10]),
            memory_chain: rng.pick(&[2, 4, 8, 64]),
            runs: rng.pick(&[2, 4, 8]),
            window_files: rng.pick(&[0, 0, 1, 3]),
            log_files: rng.pick(&[8, 32]),
            background_bytes: rng.pick(&[0, 0, 1 << 20, 4 << 20]),
            scrub_bytes: rng.pick(&[2 << 10, 16 << 10]),
            retention_ms: rng.pick(&[0, 30, 400, 3_600_000, 3_600_000]),
            retention_bytes: rng.pick(&[0, 0, 2 << 10, 32 << 10]),
        }
    }
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
            layers: LayerShape::plain(),
            work: Work::ALL,
            watches: 0,
            watch_bytes: 64 << 10,
            holds: false,
            token: false,
            prompt: false,
            members: MemberShape::PLAIN,
        }
    }
}

impl Shape {
    /// Draws who watches, from a stream of its own.
    pub(super) fn draw_watches(&mut self, rng: &mut Rng) {
        self.watches = rng.pick(&[0, 1, 2, 3]);
        self.watch_bytes = rng.pick(&[1 << 10, 4 << 10, 64 << 10]);
    }

    /// Draws who holds a read point for long while next to nothing is retained, from a stream of its own.
    pub(super) fn draw_holders(&mut self, rng: &mut Rng) {
        self.holds = rng.chance(1, 6);
        if self.holds {
            self.layers.retention_ms = rng.pick(&[0, 30]);
            self.layers.freeze_bytes = rng.pick(&[2 << 10, 4 << 10]);
            self.layers.runs = 2;
            self.cache_pages = rng.pick(&[2, 4]);
            self.clients = self.clients.max(4);
            self.think_us = self.think_us.min(3_000);
        }
    }

    /// What layers are bounded by, from a stream of its own.
    pub(super) fn draw_layers(&mut self, rng: &mut Rng) {
        self.layers = LayerShape::draw(rng);
        if rng.chance(1, 2) && self.lal <= 256 {
            // Files are filled, and go.
            self.file_bytes = 64 << 10;
            self.group_bytes = self.group_bytes.min(16 << 10);
        }
    }

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
        with(&|shape| shape.layers = LayerShape::plain());
        with(&|shape| shape.clients = 1);
        with(&|shape| shape.clients = shape.clients.div_ceil(2));
        with(&|shape| shape.key_count = shape.key_count.min(2));
        with(&|shape| shape.key_count = shape.key_count.min(12));
        with(&|shape| shape.operations_max = 1);
        with(&|shape| shape.operations_max = shape.operations_max.min(3));
        with(&|shape| shape.watches = 0);
        with(&|shape| shape.watches = shape.watches.min(1));
        with(&|shape| shape.work.tokens = false);
        with(&|shape| shape.work.deadlines = false);
        with(&|shape| shape.work.clears = false);
        with(&|shape| shape.work.numbers = false);
        with(&|shape| shape.work.past = false);
        with(&|shape| shape.holds = false);
        with(&|shape| shape.members.repair_ms = None);
        with(&|shape| shape.members.refence_ms = None);
        with(&|shape| shape.members.grow_below = None);
        with(&|shape| shape.watch_bytes = 64 << 10);
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
