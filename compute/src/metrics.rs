//! The database's metrics as one snapshot: the library serves nothing by itself, an application takes a snapshot when it is asked for
//! one. Names are the library's interface: docs/OPERATIONS.md lists them, and a test compares.

use sixfold_compute_core::{Relation, WriterStats};
use sixfold_metrics::{Kind, Snapshot};

use crate::database::Database;
use crate::driver::meters::Meters;
use crate::error::Error;
use crate::read_only::ReadOnly;
use crate::stats::{StageLatencies, Stats};

impl ReadOnly {
    /// The reader's metrics, as [`Database::metrics`]. Nobody is asked for them.
    pub fn metrics(&self) -> Snapshot {
        let mut into = Snapshot::default();
        let as_of = self.as_of();
        let volume = self.volume().to_string();
        into.gauge(
            "sixfold_reader_info",
            "The volume that is read; always 1.",
            &[("volume", &volume)],
            1,
        );
        into.gauge(
            "sixfold_reader_point_lsn",
            "The point that is shown.",
            &[],
            as_of.lsn.get(),
        );
        into.gauge(
            "sixfold_reader_settled",
            "What is shown can vanish no more: no reopening of unknown outcome stands behind the point.",
            &[],
            u64::from(as_of.settled),
        );
        into.seconds(
            "sixfold_reader_open_seconds",
            "How long finding the point took.",
            &[],
            as_of.open,
        );
        into
    }
}

impl Database {
    /// The database's metrics. Prometheus' text of them is [`Snapshot::text`]:
    ///
    /// ```no_run
    /// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
    /// let body = database.metrics().await?.text(); // for GET /metrics of your own server
    /// # drop(body);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It asks the writer's thread once and no storage node: those have endpoints of their own.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn metrics(&self) -> Result<Snapshot, Error> {
        let stats = self.stats().await?;
        let mut into = Snapshot::default();
        let opened = self.open_report();
        let volume = self.volume().to_string();
        into.gauge(
            "sixfold_writer_info",
            "The volume that is open; always 1.",
            &[("volume", &volume)],
            1,
        );
        into.gauge(
            "sixfold_writer_volume_epoch",
            "The volume epoch that it was opened with.",
            &[],
            opened.volume_epoch.get(),
        );
        into.seconds(
            "sixfold_writer_open_seconds",
            "How long opening took, without the wait for the old lease.",
            &[],
            opened.open,
        );
        into.seconds(
            "sixfold_writer_open_lease_wait_seconds",
            "How long the read lease of the writer before was waited for.",
            &[],
            opened.lease_wait,
        );
        into.gauge(
            "sixfold_writer_fenced",
            "Another writer holds the volume.",
            &[],
            u64::from(self.is_fenced()),
        );
        put_points(&mut into, &stats);
        put_memory(&mut into, &stats);
        put_counts(&mut into, &stats);
        put_membership(&mut into, &stats.writer);
        declare_segments(&mut into);
        for relation in &stats.writer.relations {
            put_segment(&mut into, relation);
        }
        put_latencies(&mut into, &self.stage_latencies());
        Ok(into)
    }

    /// How long the parts of commits took, since the database was opened.
    pub fn stage_latencies(&self) -> StageLatencies {
        StageLatencies::of(&self.inner.state.meters)
    }
}

impl StageLatencies {
    fn of(meters: &Meters) -> StageLatencies {
        StageLatencies {
            commit: meters.commit.counted(),
            seal: meters.seal.counted(),
            ship: meters.ship.counted(),
            quorum: meters.quorum.counted(),
            wake: meters.wake.counted(),
            fetch: meters.fetch.counted(),
        }
    }
}

fn put_points(into: &mut Snapshot, stats: &Stats) {
    let writer = &stats.writer;
    let gauges: [(&'static str, &'static str, u64); 7] = [
        (
            "sixfold_writer_writable",
            "Commits are taken, and every group has its write quorum.",
            u64::from(writer.is_writable),
        ),
        (
            "sixfold_writer_last_lsn",
            "Last LSN minted.",
            writer.last.get(),
        ),
        (
            "sixfold_writer_vcl_lsn",
            "Volume complete LSN.",
            writer.vcl.get(),
        ),
        (
            "sixfold_writer_vdl_lsn",
            "Volume durable LSN.",
            writer.vdl.get(),
        ),
        (
            "sixfold_writer_read_point_min_lsn",
            "Lowest announced read point: PGMRPL.",
            writer.read_point_min.get(),
        ),
        (
            "sixfold_writer_read_points",
            "Announced read points: snapshots, transactions, watches.",
            count(writer.read_points),
        ),
        (
            "sixfold_writer_held_records",
            "Records that storage keeps for the lowest read point.",
            writer.held_records,
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[], value);
    }
    into.seconds(
        "sixfold_writer_read_point_age_seconds",
        "How long ago VDL passed the lowest announced read point, about.",
        &[],
        writer.read_point_age,
    );
}

fn put_memory(into: &mut Snapshot, stats: &Stats) {
    let writer = &stats.writer;
    let gauges: [(&'static str, &'static str, u64); 8] = [
        (
            "sixfold_writer_unacknowledged_bytes",
            "Sealed redo that lacks its write quorum.",
            writer.unacknowledged_bytes,
        ),
        (
            "sixfold_writer_waiting_commits",
            "Commits that wait for admission.",
            count(writer.waiting_commits),
        ),
        (
            "sixfold_writer_waiting_commit_bytes",
            "Keys and values of commits that wait for the writer or for their answer.",
            count(stats.waiting_commit_bytes),
        ),
        (
            "sixfold_writer_waiting_commit_limit_bytes",
            "What waiting commits may have; others wait with their caller.",
            count(stats.waiting_commit_bytes_max),
        ),
        (
            "sixfold_writer_held_cache_bytes",
            "Older versions of pages in the cache, kept for read points.",
            count(writer.held_cache_bytes),
        ),
        (
            "sixfold_writer_conflict_entries",
            "Keys and ranges remembered for validation.",
            count(writer.conflict_entries),
        ),
        (
            "sixfold_writer_conflict_bytes",
            "Memory of what is remembered for validation.",
            count(writer.conflict_bytes),
        ),
        (
            "sixfold_writer_conflict_floor_lsn",
            "Read points below are too old to be validated.",
            writer.conflict_floor.get(),
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[], value);
    }
}

fn put_counts(into: &mut Snapshot, stats: &Stats) {
    let (writer, wire) = (&stats.writer, &stats.wire);
    let counters: [(&'static str, &'static str, u64); 13] = [
        (
            "sixfold_writer_commits_total",
            "Commits answered.",
            writer.commits,
        ),
        (
            "sixfold_writer_conflicts_total",
            "Commits refused for a conflict.",
            writer.conflicts,
        ),
        (
            "sixfold_writer_chores_total",
            "MTRs of the writer's own: clock, expiry, old tokens, dropped pages.",
            writer.chores,
        ),
        (
            "sixfold_writer_batches_total",
            "Batches sealed.",
            writer.batches,
        ),
        (
            "sixfold_writer_redo_bytes_total",
            "Bytes of sealed batches, each once.",
            writer.redo_bytes,
        ),
        (
            "sixfold_writer_user_bytes_total",
            "Keys and values of answered commits.",
            writer.user_bytes,
        ),
        (
            "sixfold_writer_fetches_total",
            "Pages fetched from segments.",
            writer.fetches,
        ),
        (
            "sixfold_writer_hedged_reads_total",
            "Page reads that were asked of a second segment.",
            writer.hedged,
        ),
        (
            "sixfold_writer_reopenings_total",
            "Times that the volume was opened again in place.",
            writer.membership.refences,
        ),
        (
            "sixfold_writer_sent_bytes_total",
            "UDP payload sent.",
            wire.sent_bytes,
        ),
        (
            "sixfold_writer_sent_datagrams_total",
            "Datagrams sent.",
            wire.sent_datagrams,
        ),
        (
            "sixfold_writer_received_bytes_total",
            "UDP payload received.",
            wire.received_bytes,
        ),
        (
            "sixfold_writer_received_datagrams_total",
            "Datagrams received.",
            wire.received_datagrams,
        ),
    ];
    for (name, help, value) in counters {
        into.counter(name, help, &[], value);
    }
}

fn put_membership(into: &mut Snapshot, writer: &WriterStats) {
    let membership = &writer.membership;
    let gauges: [(&'static str, &'static str, u64); 6] = [
        (
            "sixfold_writer_membership_epoch",
            "Membership epoch of the manifest in force.",
            membership.version.membership_epoch.get(),
        ),
        (
            "sixfold_writer_replacements",
            "Segments that are being replaced.",
            count(membership.replacements.len()),
        ),
        (
            "sixfold_writer_replacements_waiting",
            "Segments whose replacement waits for its turn.",
            count(membership.waiting),
        ),
        (
            "sixfold_writer_short_groups",
            "Protection groups with fewer than six segments since copies were declared lost.",
            count(membership.short.len()),
        ),
        (
            "sixfold_writer_stragglers",
            "Members that have not accepted a step that is in force.",
            count(membership.stragglers),
        ),
        (
            "sixfold_writer_leaving_segments",
            "Removed segments that were not dropped yet.",
            count(membership.leaving),
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[], value);
    }
}

/// Gauges of a segment, in the order in which their values are put.
const SEGMENT_GAUGES: [(&str, &str); 4] = [
    (
        "sixfold_writer_segment_attached",
        "The segment's log stream is up.",
    ),
    (
        "sixfold_writer_segment_joining",
        "It is brought up to the others, and counts in no read quorum.",
    ),
    (
        "sixfold_writer_segment_scl_lsn",
        "Its SCL as it acknowledged last.",
    ),
    (
        "sixfold_writer_segment_lag_lsns",
        "LSNs that its group has sealed and it has not acknowledged.",
    ),
];
const SEGMENT_LAG: (&str, &str) = (
    "sixfold_writer_segment_lag_seconds",
    "For how long what it lacks has been durable elsewhere, about; 0 when it is complete.",
);
const SEGMENT_ACK: (&str, &str) = (
    "sixfold_writer_segment_ack_seconds",
    "Smoothed time from sending to the segment's acknowledgment.",
);

fn declare_segments(into: &mut Snapshot) {
    for (name, help) in SEGMENT_GAUGES.into_iter().chain([SEGMENT_LAG, SEGMENT_ACK]) {
        into.declare(Kind::Gauge, name, help);
    }
}

fn put_segment(into: &mut Snapshot, relation: &Relation) {
    let (pg, segment, node) = (
        relation.pg.to_string(),
        relation.segment.to_string(),
        relation.node.to_string(),
    );
    let labels: &[(&'static str, &str)] = &[("pg", &pg), ("segment", &segment), ("node", &node)];
    let values = [
        u64::from(relation.attached),
        u64::from(relation.joining),
        relation.scl.get(),
        relation.lag_lsns,
    ];
    for ((name, help), value) in SEGMENT_GAUGES.into_iter().zip(values) {
        into.gauge(name, help, labels, value);
    }
    into.seconds(SEGMENT_LAG.0, SEGMENT_LAG.1, labels, relation.lag);
    let ack = std::time::Duration::from_micros(relation.ack_us);
    into.seconds(SEGMENT_ACK.0, SEGMENT_ACK.1, labels, ack);
}

fn put_latencies(into: &mut Snapshot, latencies: &StageLatencies) {
    into.histogram(
        "sixfold_writer_commit_seconds",
        "Time of an answered commit, from the call to the caller's running again.",
        &[],
        latencies.commit.clone(),
    );
    let stages = [
        ("seal", &latencies.seal),
        ("ship", &latencies.ship),
        ("quorum", &latencies.quorum),
        ("wake", &latencies.wake),
    ];
    for (stage, counted) in stages {
        into.histogram(
            "sixfold_writer_commit_stage_seconds",
            "Parts of a commit: seal (until its batch is sealed), quorum (until VDL passes), wake (until its caller runs); ship is the part of quorum until QUIC has a batch, for each segment.",
            &[("stage", stage)],
            counted.clone(),
        );
    }
    into.histogram(
        "sixfold_writer_fetch_seconds",
        "Time of a page fetch, from the miss to the pages.",
        &[],
        latencies.fetch.clone(),
    );
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
