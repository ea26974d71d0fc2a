//! A node's metrics, made of one report. Names are the node's interface: docs/OPERATIONS.md lists them, and a test compares.

use sixfold_log_format::wire::{NodeMemory, SegmentStatus};
use sixfold_metrics::{Kind, Snapshot};
use sixfold_storage_node_core::{HorizonHolder, SegmentNumbers};

use crate::probe::NodeReport;

impl NodeReport {
    /// All of it as metrics.
    pub fn snapshot(&self) -> Snapshot {
        let mut into = Snapshot::default();
        self.put_node(&mut into);
        self.put_counts(&mut into);
        self.put_memory(&mut into);
        self.put_scrub(&mut into);
        declare_segments(&mut into);
        let segments = self.numbers.status.segments.iter();
        for (status, numbers) in segments.zip(&self.numbers.segments) {
            self.put_segment(&mut into, status, numbers);
        }
        into
    }

    fn put_node(&self, into: &mut Snapshot) {
        let numbers = &self.numbers;
        let status = &numbers.status;
        let node = status.node.to_string();
        into.gauge(
            "sixfold_node_info",
            "Which node this is; always 1.",
            &[("node", &node), ("az", &status.az)],
            1,
        );
        let gauges: [(&'static str, &'static str, u64); 13] = [
            (
                "sixfold_node_ready",
                "The hot log was read and requests are answered.",
                u64::from(numbers.is_ready),
            ),
            (
                "sixfold_node_full",
                "No new batch is taken: the disk is full, or the hot log at its limit.",
                u64::from(status.upkeep.full),
            ),
            (
                "sixfold_node_pressed",
                "A bound is near: writers are asked to slow down.",
                u64::from(status.upkeep.pressed),
            ),
            (
                "sixfold_node_segments",
                "Segments that the node holds.",
                count(status.segments.len()),
            ),
            (
                "sixfold_node_hot_log_bytes",
                "Bytes of hot-log files.",
                numbers.hot_log_files_bytes,
            ),
            (
                "sixfold_node_hot_log_limit_bytes",
                "Bytes that hot-log files may take.",
                numbers.hot_log_limit_bytes,
            ),
            (
                "sixfold_node_unfolded_bytes",
                "Redo that no layer holds: what a restart reads.",
                numbers.unfolded_bytes,
            ),
            (
                "sixfold_node_unfolded_limit_bytes",
                "Redo without layers at which batches are refused.",
                numbers.unfolded_limit_bytes,
            ),
            (
                "sixfold_node_connections",
                "Open QUIC connections.",
                count(self.connections),
            ),
            (
                "sixfold_node_streams",
                "Open streams of all connections.",
                count(self.streams),
            ),
            (
                "sixfold_node_log_streams",
                "Log streams of writers.",
                count(numbers.log_streams),
            ),
            (
                "sixfold_node_queued_answer_bytes",
                "Answers that peers have not read yet.",
                count(self.queued_bytes),
            ),
            (
                "sixfold_node_waiting_answers",
                "Answers that wait for a write to be durable.",
                count(numbers.waiters),
            ),
        ];
        for (name, help, value) in gauges {
            into.gauge(name, help, &[], value);
        }
        into.gauge(
            "sixfold_node_jobs",
            "Page reads and background jobs that are not done.",
            &[],
            count(numbers.jobs),
        );
    }

    fn put_counts(&self, into: &mut Snapshot) {
        let status = &self.numbers.status;
        let counters: [(&'static str, &'static str, u64); 6] = [
            (
                "sixfold_node_redo_bytes_total",
                "Redo appended to the hot log.",
                status.redo_bytes,
            ),
            (
                "sixfold_node_hot_log_writes_total",
                "Group writes to the hot log.",
                status.group_writes,
            ),
            (
                "sixfold_node_gossip_batches_total",
                "Batches that gossip brought from peers.",
                status.gossip_batches,
            ),
            (
                "sixfold_node_freezes_total",
                "Times that redo in memory became layers.",
                status.upkeep.freezes,
            ),
            (
                "sixfold_node_merges_total",
                "Merges of runs of layers.",
                status.upkeep.merges,
            ),
            (
                "sixfold_node_hot_log_files_freed_total",
                "Hot-log files freed.",
                status.upkeep.files_freed,
            ),
        ];
        for (name, help, value) in counters {
            into.counter(name, help, &[], value);
        }
        for (reason, count) in self.numbers.refused.by_reason() {
            into.counter(
                "sixfold_node_refused_total",
                "Messages refused, by reason.",
                &[("reason", reason)],
                count,
            );
        }
        let gate = &self.gate;
        let handshakes = [
            ("entered", gate.entered),
            ("retried", gate.retried),
            ("refused", gate.refused),
            ("failed", gate.failed),
        ];
        for (result, count) in handshakes {
            into.counter(
                "sixfold_node_handshakes_total",
                "Newcomers by what came of them: entered a handshake, were told to prove their address, were turned away; handshakes that failed.",
                &[("result", result)],
                count,
            );
        }
        into.counter(
            "sixfold_node_certificate_renewals_total",
            "Times that renewed certificates were taken up from their files.",
            &[],
            self.renewals,
        );
        into.histogram(
            "sixfold_node_hot_log_write_seconds",
            "Time that a group write takes to be durable: the disk's part of a commit.",
            &[],
            self.hot_log_writes.clone(),
        );
    }

    fn put_memory(&self, into: &mut Snapshot) {
        let NodeMemory {
            limit_bytes,
            index_bytes,
            redo_bytes,
            queued_bytes,
            page_bytes,
            block_bytes,
            layer_index_bytes,
            work_bytes,
        } = self.numbers.status.upkeep.memory;
        let used = [
            ("page_index", index_bytes),
            ("redo", redo_bytes),
            ("queued_writes", queued_bytes),
            ("page_cache", page_bytes),
            ("layer_blocks", block_bytes),
            ("layer_indexes", layer_index_bytes),
            ("jobs", work_bytes),
        ];
        for (part, bytes) in used {
            into.gauge(
                "sixfold_node_memory_bytes",
                "What the node's memory ledger holds, by part.",
                &[("part", part)],
                bytes,
            );
        }
        into.gauge(
            "sixfold_node_memory_limit_bytes",
            "What all parts of the memory ledger may hold.",
            &[],
            limit_bytes,
        );
    }

    fn put_scrub(&self, into: &mut Snapshot) {
        let upkeep = &self.numbers.status.upkeep;
        let counters: [(&'static str, &'static str, u64); 4] = [
            (
                "sixfold_node_scrub_bytes_total",
                "Bytes that the scrub has verified.",
                upkeep.scrub_bytes,
            ),
            (
                "sixfold_node_scrub_rounds_total",
                "Times that the scrub has been through everything.",
                upkeep.scrub_rounds,
            ),
            (
                "sixfold_node_damage_found_total",
                "Damaged places found.",
                upkeep.damage_found,
            ),
            (
                "sixfold_node_damage_healed_total",
                "Damaged places healed from peers.",
                upkeep.damage_healed,
            ),
        ];
        for (name, help, value) in counters {
            into.counter(name, help, &[], value);
        }
    }

    fn put_segment(&self, into: &mut Snapshot, status: &SegmentStatus, numbers: &SegmentNumbers) {
        let (volume, pg, segment) = (
            status.volume.to_string(),
            status.pg.to_string(),
            status.segment.to_string(),
        );
        let labels: &[(&'static str, &str)] =
            &[("volume", &volume), ("pg", &pg), ("segment", &segment)];
        let values = [
            status.scl.get(),
            status.highest.get(),
            status.vdl_seen.get(),
            numbers.pgmrpl.get(),
            status.folded_through.get(),
            status.horizon.get(),
            status.log_start.get(),
            status.unfolded_bytes,
            count(numbers.chain_records),
            u64::from(status.layer_count),
            u64::from(status.run_count),
            status.layer_bytes,
            u64::from(status.damaged),
        ];
        for ((name, help), value) in SEGMENT_GAUGES.into_iter().zip(values) {
            into.gauge(name, help, labels, value);
        }
        for holder in HorizonHolder::ALL {
            let mut labels = labels.to_vec();
            labels.push(("by", holder.word()));
            let is_it = u64::from(holder == numbers.held_by);
            into.gauge(HELD_BY.0, HELD_BY.1, &labels, is_it);
        }
    }
}

/// Gauges of a segment, in the order in which their values are put.
const SEGMENT_GAUGES: [(&str, &str); 13] = [
    (
        "sixfold_segment_scl_lsn",
        "Segment complete LSN: it holds everything up to here.",
    ),
    (
        "sixfold_segment_highest_lsn",
        "Highest LSN held, behind holes too.",
    ),
    (
        "sixfold_segment_vdl_seen_lsn",
        "Highest volume durable LSN that it was told.",
    ),
    (
        "sixfold_segment_pgmrpl_lsn",
        "Lowest read point in use, as the writer said last.",
    ),
    (
        "sixfold_segment_folded_lsn",
        "Layers hold everything valid up to here.",
    ),
    (
        "sixfold_segment_horizon_lsn",
        "Pages cannot be read below this point.",
    ),
    (
        "sixfold_segment_log_start_lsn",
        "Batches up to here are not kept any more.",
    ),
    (
        "sixfold_segment_unfolded_bytes",
        "Redo of the segment that no layer holds.",
    ),
    (
        "sixfold_segment_chain_records",
        "Records folded for the page with the longest chain in memory.",
    ),
    ("sixfold_segment_layers", "Layers of the segment."),
    (
        "sixfold_segment_runs",
        "Runs of layers: what a page read looks at, at most.",
    ),
    ("sixfold_segment_layer_bytes", "Bytes of its layers."),
    (
        "sixfold_segment_damaged",
        "Damage was found and is not healed yet.",
    ),
];

/// What keeps the past.
const HELD_BY: (&str, &str) = (
    "sixfold_segment_horizon_held",
    "1 for what keeps the segment from collecting more of the past: retention, read_point, no_writer, claim.",
);

/// A node without segments has the same families.
fn declare_segments(into: &mut Snapshot) {
    for (name, help) in SEGMENT_GAUGES.into_iter().chain([HELD_BY]) {
        into.declare(Kind::Gauge, name, help);
    }
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
