//! Makes pictures and metrics: of a node, of a writer, of a whole cluster. Rates and latencies are those since the picture before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use sixfold::{
    Cluster, ClusterNode, Counted, Database, NodeStatus, ReadOnly, StageLatencies, Stats,
};
use sixfold_log_format::Manifest;
use sixfold_log_format::wire::{Message, Probe, SegmentStatus};
use sixfold_transport::Connection;

use super::client;
use super::picture::{LatencyView, MoveView, NodeView, Note, Picture, SegmentView, WriterView};
use crate::status::Operator;

/// How long one node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often nodes are asked for the manifest.
const MANIFEST_INTERVAL: Duration = Duration::from_secs(3);
/// Refusals of the writer that are shown.
const REFUSALS_MAX: usize = 4;

/// What a process has open.
#[derive(Debug, Clone)]
enum Opened {
    Writer(Database),
    Reader(ReadOnly),
}

/// What a process has open, which may not be the writer yet, or no longer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Opened>>>);

impl Slot {
    /// Of a process that is the writer.
    pub(crate) fn holding(database: &Database) -> Slot {
        let slot = Slot::default();
        slot.set(Some(database.clone()));
        slot
    }

    /// It is the writer now, or not any more.
    pub(crate) fn set(&self, database: Option<Database>) {
        self.put(database.map(Opened::Writer));
    }

    /// It reads.
    pub(crate) fn set_reader(&self, reader: &ReadOnly) {
        self.put(Some(Opened::Reader(reader.clone())));
    }

    fn put(&self, opened: Option<Opened>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = opened;
    }

    fn opened(&self) -> Option<Opened> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// The database of the writer.
    pub(crate) fn get(&self) -> Option<Database> {
        match self.opened() {
            Some(Opened::Writer(database)) => Some(database),
            _ => None,
        }
    }

    /// What is read.
    pub(crate) fn reader(&self) -> Option<ReadOnly> {
        match self.opened() {
            Some(Opened::Reader(reader)) => Some(reader),
            _ => None,
        }
    }
}

/// Readings of counters, and what they were before.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    before: BTreeMap<String, (Instant, u64)>,
    latencies: Option<StageLatencies>,
}

impl Rates {
    /// How fast a counter rises, a second, since it was read before; 0 the first time, and when it began anew.
    fn rate(&mut self, name: String, value: u64) -> f64 {
        let now = Instant::now();
        let before = self.before.insert(name, (now, value));
        let Some((at, then)) = before else { return 0.0 };
        let seconds = now.duration_since(at).as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
        let risen = value.saturating_sub(then) as f64;
        risen / seconds
    }

    /// The latencies since they were read before; all of them the first time, and when nothing happened since.
    fn latencies(&mut self, now: &StageLatencies) -> Vec<LatencyView> {
        let before = self.latencies.replace(now.clone());
        let view = |stage: &str, now: &Counted, then: Option<&Counted>| {
            let news = then.map_or(now.clone(), |then| now.since(then));
            let shown = if news.total() > 0 { &news } else { now };
            LatencyView {
                stage: stage.to_owned(),
                p50_us: shown.quantile_us(500),
                p99_us: shown.quantile_us(990),
            }
        };
        let before = before.as_ref();
        vec![
            view("commit", &now.commit, before.map(|then| &then.commit)),
            view("seal", &now.seal, before.map(|then| &then.seal)),
            view("ship", &now.ship, before.map(|then| &then.ship)),
            view("quorum", &now.quorum, before.map(|then| &then.quorum)),
            view("wake", &now.wake, before.map(|then| &then.wake)),
            view("fetch", &now.fetch, before.map(|then| &then.fetch)),
        ]
    }
}

/// An empty picture of now.
fn blank(seen_by: &str) -> Picture {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Picture {
        seen_by: seen_by.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        unix_ms: ms(since),
        ..Picture::default()
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A node's picture of itself.
pub(crate) fn of_node(rates: &mut Rates, status: &NodeStatus, address: &str) -> Picture {
    let mut picture = blank("node");
    let segments = status.segments.iter();
    picture.nodes = vec![node_view(rates, status, address, segments)];
    // It has an entry of its own groups, but sees no other segment: nothing is said of quorums.
    picture.settle(&[]);
    picture
}

/// A writer's picture of its volume.
pub(crate) async fn of_writer(
    rates: &mut Rates,
    database: &Database,
    cluster: &Cluster,
) -> Option<Picture> {
    let status = database.status().await.ok()?;
    let mut picture = blank("writer");
    picture.volume = Some(status.volume.to_string());
    for (node, answered) in &status.nodes {
        let known = cluster.nodes.iter().find(|known| known.node == *node);
        let address = known.map(|known| known.address.to_string());
        let view = match answered {
            Some(answered) => {
                let own = answered
                    .segments
                    .iter()
                    .filter(|segment| segment.volume == status.volume);
                node_view(rates, answered, &address.unwrap_or_default(), own)
            }
            None => NodeView {
                node: node.to_string(),
                az: known.map(|known| known.az.clone()).unwrap_or_default(),
                address: address.unwrap_or_default(),
                trouble: Some("no answer".to_owned()),
                ..NodeView::default()
            },
        };
        picture.nodes.push(view);
    }
    put_writer(rates, database, &status.stats, &mut picture);
    picture.settle(&status.stats.writer.membership.groups);
    Some(picture)
}

fn put_writer(rates: &mut Rates, database: &Database, stats: &Stats, picture: &mut Picture) {
    let writer = &stats.writer;
    let state = match (database.is_fenced(), writer.is_writable) {
        (true, _) => "fenced",
        (false, true) => "open",
        (false, false) => "no quorum",
    };
    picture.writer = Some(WriterView {
        state: state.to_owned(),
        volume_epoch: database.open_report().volume_epoch.get(),
        membership_epoch: writer.membership.version.membership_epoch.get(),
        last: writer.last.get(),
        vcl: writer.vcl.get(),
        vdl: writer.vdl.get(),
        read_point_min: writer.read_point_min.get(),
        read_points: writer.read_points as u64,
        read_point_age_ms: ms(writer.read_point_age),
        unacknowledged_bytes: writer.unacknowledged_bytes,
        waiting_commits: writer.waiting_commits as u64,
        commits_per_second: rates.rate("commits".to_owned(), writer.commits),
        conflicts_per_second: rates.rate("conflicts".to_owned(), writer.conflicts),
        redo_bytes_per_second: rates.rate("redo".to_owned(), writer.redo_bytes),
        sent_bytes_per_second: rates.rate("sent".to_owned(), stats.wire.sent_bytes),
        fetches_per_second: rates.rate("fetches".to_owned(), writer.fetches),
        hedged_per_second: rates.rate("hedged".to_owned(), writer.hedged),
        latencies: rates.latencies(&database.stage_latencies()),
        refusals: {
            let newest = writer.membership.refusals.iter().rev();
            newest.take(REFUSALS_MAX).cloned().collect()
        },
    });
    for relation in &writer.relations {
        let id = relation.segment.to_string();
        let views = picture.nodes.iter_mut().flat_map(|node| &mut node.segments);
        for view in views.filter(|view| view.segment == id) {
            view.lag_lsns = relation.lag_lsns;
            // Nodes were asked before the writer was: what it heard since is newer.
            view.scl = view.scl.max(relation.scl.get());
            view.highest = view.highest.max(view.scl);
            view.lag_ms = Some(ms(relation.lag));
            view.ack_us = Some(relation.ack_us);
            view.is_attached = Some(relation.attached);
            view.is_joining = relation.joining;
        }
    }
    let moves = writer.membership.replacements.iter();
    picture.moves = moves
        .map(|step| MoveView {
            pg: step.pg.get(),
            out: step.out.to_string(),
            into: step.into.to_string(),
            node: step.node.to_string(),
            phase: format!("{:?}", step.phase).to_lowercase(),
            scl: step.scl.get(),
            needed: step.needed.get(),
        })
        .collect();
}

fn node_view<'a>(
    rates: &mut Rates,
    status: &NodeStatus,
    address: &str,
    segments: impl Iterator<Item = &'a SegmentStatus>,
) -> NodeView {
    let memory = &status.upkeep.memory;
    let node = status.node.to_string();
    NodeView {
        az: status.az.clone(),
        address: address.to_owned(),
        is_up: true,
        trouble: None,
        is_full: status.upkeep.full,
        is_pressed: status.upkeep.pressed,
        redo_bytes_per_second: rates.rate(format!("{node} redo"), status.redo_bytes),
        writes_per_second: rates.rate(format!("{node} writes"), status.group_writes),
        gossip_batches: status.gossip_batches,
        refused: status.refused,
        hot_log_bytes: status.hot_log_bytes,
        memory_bytes: memory.index_bytes
            + memory.redo_bytes
            + memory.queued_bytes
            + memory.page_bytes
            + memory.block_bytes
            + memory.layer_index_bytes
            + memory.work_bytes,
        memory_limit_bytes: memory.limit_bytes,
        scrub_bytes: status.upkeep.scrub_bytes,
        scrub_rounds: status.upkeep.scrub_rounds,
        damage_found: status.upkeep.damage_found,
        damage_healed: status.upkeep.damage_healed,
        segments: segments.map(segment_view).collect(),
        node,
    }
}

fn segment_view(segment: &SegmentStatus) -> SegmentView {
    SegmentView {
        segment: segment.segment.to_string(),
        volume: segment.volume.to_string(),
        pg: segment.pg.get(),
        scl: segment.scl.get(),
        highest: segment.highest.get(),
        vdl_seen: segment.vdl_seen.get(),
        horizon: segment.horizon.get(),
        is_damaged: segment.damaged,
        unfolded_bytes: segment.unfolded_bytes,
        layers: segment.layer_count,
        runs: segment.run_count,
        layer_bytes: segment.layer_bytes,
        ..SegmentView::default()
    }
}

/// An operator's view of a cluster: asks every node, and the writer where it is told its address. Lives on one thread.
pub(crate) struct ClusterEye {
    cluster: Cluster,
    operator: Operator,
    /// Kept from picture to picture.
    connections: BTreeMap<String, Connection>,
    /// Where the writer serves its metrics.
    writer: Option<String>,
    rates: Rates,
    /// The newest that any node told, and when nodes were asked last.
    manifest: Option<Box<Manifest>>,
    asked_manifest: Option<Instant>,
}

impl ClusterEye {
    /// Connects to nobody yet.
    pub(crate) fn new(cluster: Cluster, writer: Option<String>) -> anyhow::Result<ClusterEye> {
        Ok(ClusterEye {
            operator: Operator::new(&cluster, "operator")?,
            cluster,
            connections: BTreeMap::new(),
            writer,
            rates: Rates::default(),
            manifest: None,
            asked_manifest: None,
        })
    }

    /// Asks all at once.
    pub(crate) async fn look(&mut self) -> Picture {
        let mut picture = blank("operator");
        picture.volume = Some(self.cluster.volume.to_string());
        let asked = self.asked_manifest;
        let wanted = asked.is_none_or(|at| at.elapsed() >= MANIFEST_INTERVAL);
        if wanted {
            self.asked_manifest = Some(Instant::now());
        }
        let probe = wanted.then_some(Message::Probe(Probe {
            volume: self.cluster.volume,
        }));
        let asked = self.cluster.nodes.iter().map(|node| {
            let connection = self.connections.remove(&node.node.to_string());
            ask(&self.operator, node, connection, probe.as_ref())
        });
        let answers = join_all(asked).await;
        for (node, answer) in self.cluster.nodes.iter().zip(answers) {
            let view = match answer {
                Ok((connection, status, manifest)) => {
                    self.connections.insert(node.node.to_string(), connection);
                    let version = |held: &Manifest| held.version;
                    if manifest.as_deref().map(version) > self.manifest.as_deref().map(version) {
                        self.manifest = manifest;
                    }
                    let volume = self.cluster.volume;
                    let own = status
                        .segments
                        .iter()
                        .filter(|segment| segment.volume == volume);
                    node_view(&mut self.rates, &status, &node.address.to_string(), own)
                }
                Err(trouble) => NodeView {
                    node: node.node.to_string(),
                    az: node.az.clone(),
                    address: node.address.to_string(),
                    trouble: Some(crate::in_one_line(&trouble)),
                    ..NodeView::default()
                },
            };
            picture.nodes.push(view);
        }
        if let Some(address) = &self.writer {
            match client::status(address).await {
                Ok(told) => put_told(&mut picture, told),
                Err(error) => picture.notes.push(Note {
                    is_grave: true,
                    text: format!(
                        "the writer's address {address}: {}",
                        crate::in_one_line(&error)
                    ),
                }),
            }
        }
        let entries = self.manifest.as_ref().map(|manifest| &manifest.pgs[..]);
        picture.settle(entries.unwrap_or_default());
        picture
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        self.operator.close().await;
    }
}

/// Asks over the connection of last time, else over a new one; for the manifest, too, with `probe`.
async fn ask(
    operator: &Operator,
    node: &ClusterNode,
    kept: Option<Connection>,
    probe: Option<&Message>,
) -> anyhow::Result<(Connection, NodeStatus, Option<Box<Manifest>>)> {
    let told_by = async |connection: &Connection| {
        // Whoever tells none, an older one for example, may tell his status all the same.
        match connection.call(probe?).await {
            Ok(Message::ProbeAnswer(answer)) => answer.manifest,
            _ => None,
        }
    };
    let work = async {
        if let Some(connection) = kept
            && let Ok(Message::NodeStatus(status)) = connection.call(&Message::AskStatus).await
        {
            let manifest = told_by(&connection).await;
            return Ok((connection, status, manifest));
        }
        let connection = operator.connect(node).await?;
        match connection.call(&Message::AskStatus).await? {
            Message::NodeStatus(status) => {
                let manifest = told_by(&connection).await;
                Ok((connection, status, manifest))
            }
            Message::Refused(refusal) => anyhow::bail!("refused: {refusal}"),
            _ => anyhow::bail!("answered with something else"),
        }
    };
    match tokio::time::timeout(ANSWER_LIMIT, work).await {
        Ok(answer) => answer,
        Err(_) => anyhow::bail!("no answer in time"),
    }
}

/// What the writer said beside what nodes did.
fn put_told(picture: &mut Picture, told: Picture) {
    for view in picture.nodes.iter_mut().flat_map(|node| &mut node.segments) {
        let told = told.nodes.iter().flat_map(|node| &node.segments);
        for other in told.filter(|other| other.segment == view.segment) {
            if other.is_attached == Some(true) {
                // Of the same moment as its VDL: a node that was asked later would seem to be ahead of that.
                view.scl = other.scl;
                view.highest = other.highest;
            } else {
                view.scl = view.scl.max(other.scl);
                view.highest = view.highest.max(other.highest);
            }
            view.lag_ms = other.lag_ms;
            view.ack_us = other.ack_us;
            view.is_attached = other.is_attached;
            view.is_joining = other.is_joining;
        }
    }
    picture.writer = told.writer;
    picture.moves = told.moves;
    // What it says of quorums counts until a node has told the manifest.
    picture.groups = told.groups;
}

#[cfg(test)]
mod tests {
    use super::super::picture::GroupView;
    use super::*;

    #[test]
    fn a_counter_that_began_anew_has_no_rate() {
        let mut rates = Rates::default();
        assert_eq!(rates.rate("a".to_owned(), 100), 0.0);
        assert!(rates.rate("a".to_owned(), 200) > 0.0);
        assert_eq!(rates.rate("a".to_owned(), 5), 0.0);
    }

    #[test]
    fn segments_that_are_attached_stand_where_the_writer_saw_them_with_its_vdl() {
        let with = |scl, is_attached| {
            let segment = SegmentView {
                segment: "a".to_owned(),
                scl,
                highest: scl,
                is_attached,
                ..SegmentView::default()
            };
            let mut picture = blank("operator");
            picture.nodes = vec![NodeView {
                segments: vec![segment],
                ..NodeView::default()
            }];
            picture
        };
        for (is_attached, expected) in [(Some(true), 10), (Some(false), 30)] {
            let mut picture = with(30, None);
            put_told(&mut picture, with(10, is_attached));
            assert_eq!(picture.nodes[0].segments[0].scl, expected);
        }
    }

    #[test]
    fn what_the_writer_told_of_itself_and_its_groups_is_in_the_operators_picture() {
        let mut told = blank("writer");
        told.writer = Some(WriterView {
            state: "open".to_owned(),
            refusals: vec!["az2 has no spare".to_owned()],
            ..WriterView::default()
        });
        told.groups = vec![GroupView {
            rule: Some("3 of 4".to_owned()),
            is_writable: Some(true),
            ..GroupView::default()
        }];
        let mut picture = blank("operator");
        put_told(&mut picture, told);
        picture.settle(&[]);
        assert_eq!(picture.groups[0].rule.as_deref(), Some("3 of 4"));
        assert_eq!(picture.notes[0].text, "the writer: az2 has no spare");
    }
}
