//! What `sixfold top` and the console show: one picture of a cluster, as far as whoever made it can see.
//!
//! A node sees itself, a writer sees itself and what it asks its nodes, an operator sees all nodes and, where it is told its address, the
//! writer. The picture is the JSON of `/api/status`: what it lacks is absent, never zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sixfold_log_format::{Lsn, PgEntry, QuorumModel, SegmentId, SegmentSet};
use sixfold_recovery::quorum::{is_write_quorum_of_all, pgcl, write_count};

/// A cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Picture {
    /// Who made it: `node`, `writer` or `operator`.
    pub(crate) seen_by: String,
    /// Version of the program that made it.
    pub(crate) version: String,
    /// When, wall clock, milliseconds.
    pub(crate) unix_ms: u64,
    /// The volume, if it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<String>,
    /// The writer, if it can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) writer: Option<WriterView>,
    /// Protection groups, by number.
    pub(crate) groups: Vec<GroupView>,
    /// The nodes, in the cluster's order.
    pub(crate) nodes: Vec<NodeView>,
    /// Replacements under way.
    pub(crate) moves: Vec<MoveView>,
    /// What somebody should look at, worst first.
    pub(crate) notes: Vec<Note>,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Commits are stopped or data is damaged, not merely that something is behind.
    pub(crate) is_grave: bool,
    /// What it is, and of whom.
    pub(crate) text: String,
}

/// The writer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WriterView {
    /// `open`, `no quorum` or `fenced`.
    pub(crate) state: String,
    pub(crate) volume_epoch: u64,
    pub(crate) membership_epoch: u64,
    pub(crate) last: u64,
    pub(crate) vcl: u64,
    pub(crate) vdl: u64,
    pub(crate) read_point_min: u64,
    pub(crate) read_points: u64,
    pub(crate) read_point_age_ms: u64,
    pub(crate) unacknowledged_bytes: u64,
    pub(crate) waiting_commits: u64,
    pub(crate) commits_per_second: f64,
    pub(crate) conflicts_per_second: f64,
    pub(crate) redo_bytes_per_second: f64,
    pub(crate) sent_bytes_per_second: f64,
    pub(crate) fetches_per_second: f64,
    pub(crate) hedged_per_second: f64,
    /// Of the last moments: `commit`, then its parts.
    pub(crate) latencies: Vec<LatencyView>,
    /// Why it did not do what was wanted of late, the newest first.
    #[serde(default)]
    pub(crate) refusals: Vec<String>,
}

/// A latency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LatencyView {
    pub(crate) stage: String,
    /// Absent when nothing happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_us: Option<u64>,
}

/// A protection group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupView {
    pub(crate) pg: u32,
    /// The highest LSN that any segment holds.
    pub(crate) highest: u64,
    /// A write quorum of every set in force holds everything up to here, as far as nodes were heard. Absent where nobody told the sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pgcl: Option<u64>,
    /// Segments that were heard.
    pub(crate) heard: u32,
    /// What a commit needs: `4 of 6`; `4 of 6 and 3 of 4` while one set replaces another. Absent where nobody told the sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<String>,
    /// Whether those that were heard suffice for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_writable: Option<bool>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeView {
    pub(crate) node: String,
    pub(crate) az: String,
    pub(crate) address: String,
    /// Whether it answered; why not, if it did not.
    pub(crate) is_up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
    pub(crate) is_full: bool,
    pub(crate) is_pressed: bool,
    pub(crate) redo_bytes_per_second: f64,
    pub(crate) writes_per_second: f64,
    pub(crate) gossip_batches: u64,
    pub(crate) refused: u64,
    pub(crate) hot_log_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) scrub_bytes: u64,
    pub(crate) scrub_rounds: u64,
    pub(crate) damage_found: u64,
    pub(crate) damage_healed: u64,
    pub(crate) segments: Vec<SegmentView>,
}

/// A segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentView {
    pub(crate) segment: String,
    pub(crate) volume: String,
    pub(crate) pg: u32,
    pub(crate) scl: u64,
    pub(crate) highest: u64,
    pub(crate) vdl_seen: u64,
    pub(crate) horizon: u64,
    /// What it lacks of what its group holds, LSNs.
    pub(crate) lag_lsns: u64,
    /// The same in time, where the writer is seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lag_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ack_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_attached: Option<bool>,
    pub(crate) is_joining: bool,
    pub(crate) is_damaged: bool,
    pub(crate) unfolded_bytes: u64,
    pub(crate) layers: u32,
    pub(crate) runs: u32,
    pub(crate) layer_bytes: u64,
}

/// A replacement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MoveView {
    pub(crate) pg: u32,
    pub(crate) out: String,
    pub(crate) into: String,
    pub(crate) node: String,
    pub(crate) phase: String,
    pub(crate) scl: u64,
    pub(crate) needed: u64,
}

/// How many of a set's segments make a commit durable, for people.
fn rule_of(set: &SegmentSet) -> String {
    let by_count = format!("{} of {}", write_count(set.model), set.members.len());
    match set.model {
        QuorumModel::FullTail => format!("{by_count} or all full ones"),
        QuorumModel::FourOfSix | QuorumModel::ThreeOfFour | QuorumModel::TwoOfThree => by_count,
    }
}

impl Picture {
    /// Works out what follows from nodes and writer: groups, lags that the writer did not tell, notes. `entries` are the groups of the
    /// manifest, as far as whoever makes the picture knows it; of others stays what was told of them.
    pub(crate) fn settle(&mut self, entries: &[PgEntry]) {
        self.groups = self.groups_seen(entries);
        for node in &mut self.nodes {
            for segment in &mut node.segments {
                let group = self.groups.iter().find(|group| group.pg == segment.pg);
                let highest = group.map_or(segment.scl, |group| group.highest);
                segment.lag_lsns = segment.lag_lsns.max(highest.saturating_sub(segment.scl));
            }
        }
        self.notes = self.notes_due();
    }

    fn groups_seen(&self, entries: &[PgEntry]) -> Vec<GroupView> {
        let segments = || self.nodes.iter().flat_map(|node| &node.segments);
        let mut numbers: BTreeSet<u32> = segments().map(|segment| segment.pg).collect();
        numbers.extend(entries.iter().map(|entry| entry.pg.get()));
        numbers.extend(self.groups.iter().map(|group| group.pg));
        let view = |pg| {
            let heard: BTreeMap<&str, u64> = segments()
                .filter(|segment| segment.pg == pg)
                .map(|segment| (segment.segment.as_str(), segment.scl))
                .collect();
            let all = segments().filter(|segment| segment.pg == pg);
            let entry = entries.iter().find(|entry| entry.pg.get() == pg);
            let told = self.groups.iter().find(|group| group.pg == pg);
            let of_told = GroupView {
                pg,
                highest: all.map(|segment| segment.highest).max().unwrap_or(0),
                heard: u32::try_from(heard.len()).unwrap_or(u32::MAX),
                ..told.cloned().unwrap_or_default()
            };
            let Some(entry) = entry else { return of_told };
            let scl = |segment: SegmentId| heard.get(segment.to_string().as_str()).copied();
            let rules: Vec<String> = entry.sets.iter().map(rule_of).collect();
            GroupView {
                pgcl: Some(pgcl(entry, &|id| scl(id).map_or(Lsn::NONE, Lsn::new)).get()),
                rule: Some(rules.join(" and ")),
                is_writable: Some(is_write_quorum_of_all(entry, &|id| scl(id).is_some())),
                ..of_told
            }
        };
        numbers.into_iter().map(view).collect()
    }

    fn notes_due(&self) -> Vec<Note> {
        let mut notes = self.notes.clone();
        let mut say = |is_grave, text: String| notes.push(Note { is_grave, text });
        if let Some(writer) = &self.writer {
            match writer.state.as_str() {
                "open" => {}
                "no quorum" => say(
                    true,
                    "the writer has no write quorum: commits wait".to_owned(),
                ),
                state => say(true, format!("the writer is {state}")),
            }
        }
        for refusal in self.writer.iter().flat_map(|writer| &writer.refusals) {
            say(false, format!("the writer: {refusal}"));
        }
        for group in &self.groups {
            if let (Some(false), Some(rule)) = (group.is_writable, &group.rule) {
                let (pg, heard) = (group.pg, group.heard);
                say(
                    true,
                    format!("group {pg} has {heard} segments that answer: commits need {rule}"),
                );
            }
        }
        for node in &self.nodes {
            let name = format!("node {} in {}", short(&node.node), node.az);
            if !node.is_up {
                let why = node.trouble.as_deref().unwrap_or("no answer");
                say(false, format!("{name} is silent: {why}"));
            }
            if node.is_full {
                say(
                    true,
                    format!("{name} takes no batches: its disk or hot log is full"),
                );
            } else if node.is_pressed {
                say(
                    false,
                    format!("{name} is near a bound: writers are slowed down"),
                );
            }
            for segment in node.segments.iter().filter(|segment| segment.is_damaged) {
                say(
                    true,
                    format!(
                        "segment {} of group {} on {name} is damaged and heals from its peers",
                        short(&segment.segment),
                        segment.pg
                    ),
                );
            }
        }
        notes.sort_by_key(|note| !note.is_grave);
        notes
    }
}

/// The first digits of an id: enough for people.
pub(crate) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

#[cfg(test)]
#[path = "picture_tests.rs"]
mod picture_tests;
