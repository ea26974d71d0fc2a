//! What an operation would do: which segments would go where. The placement is the writer's own (`sixfold_recovery::membership`), on what
//! can be seen from outside: a writer that empties a node by an earlier wish, or has just seen one fail, knows more.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;
use sixfold::{Operation, Subject};
use sixfold_log_format::{Manifest, Member, NodeId, PgEntry};
use sixfold_recovery::membership::{Load, place_group, place_replacement, replacements};

use super::hands::View;

/// A segment that would be moved, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Move {
    pub(crate) pg: u32,
    /// The segment that leaves; none in a new protection group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) segment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    pub(crate) to: String,
    pub(crate) az: String,
}

impl Move {
    /// For people.
    pub(crate) fn line(&self) -> String {
        match (&self.segment, &self.from) {
            (Some(segment), Some(from)) => format!(
                "pg {} segment {segment} from node {from} to node {} in {}",
                self.pg, self.to, self.az
            ),
            _ => format!("pg {} to node {} in {}", self.pg, self.to, self.az),
        }
    }
}

/// The fleet as it looks from outside.
fn loads(manifest: &Manifest, view: &View, emptied: Option<NodeId>) -> Vec<Load> {
    let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
    for member in manifest.pgs.iter().flat_map(PgEntry::members) {
        *counts.entry(member.node).or_default() += 1;
    }
    let answers = |node: NodeId| {
        let mut nodes = view.nodes.iter();
        nodes.any(|view| view.node.node == node && view.status.is_ok())
    };
    let load = |hint: &sixfold_log_format::manifest::NodeHint| Load {
        node: hint.node,
        az: hint.az.clone(),
        segments: counts.get(&hint.node).copied().unwrap_or(0),
        usable: emptied != Some(hint.node) && answers(hint.node),
    };
    manifest.hints.iter().map(load).collect()
}

fn az_of(loads: &[Load], node: NodeId) -> String {
    let load = loads.iter().find(|load| load.node == node);
    load.map(|load| load.az.clone()).unwrap_or_default()
}

/// What an operation would move, or why it would be refused.
pub(crate) fn plan(view: &View, operation: &Operation) -> Result<Vec<Move>> {
    let manifest = view.manifest()?;
    match operation {
        Operation::Grow | Operation::GrowTo { .. } => {
            let loads = loads(manifest, view, None);
            let nodes = place_group(&loads)?;
            let pg = u32::try_from(manifest.pgs.len())?;
            let to = |node: &NodeId| Move {
                pg,
                segment: None,
                from: None,
                to: node.to_string(),
                az: az_of(&loads, *node),
            };
            Ok(nodes.iter().map(to).collect())
        }
        Operation::Replace { subject, onto } => {
            let mut loads = loads(manifest, view, None);
            let found = members_of(manifest, subject);
            if found.is_empty() {
                bail!("{} holds nothing of the volume", subject_text(subject));
            }
            found
                .into_iter()
                .map(|(entry, member)| place(&mut loads, entry, &member, *onto))
                .collect()
        }
        Operation::Drain { node } => {
            let mut loads = loads(manifest, view, Some(*node));
            if !loads.iter().any(|load| load.node == *node) {
                bail!("node {node} is not in the fleet of this volume");
            }
            members_of(manifest, &Subject::Node(*node))
                .into_iter()
                .map(|(entry, member)| place(&mut loads, entry, &member, None))
                .collect()
        }
        Operation::Restore { subject } => {
            let moves: Vec<Move> = running(manifest)
                .into_iter()
                .filter(|(_, out, into)| is_of(subject, out) || is_of(subject, into))
                .map(|(entry, out, into)| Move {
                    pg: entry.pg.get(),
                    segment: Some(into.segment.to_string()),
                    from: Some(into.node.to_string()),
                    to: out.node.to_string(),
                    az: String::new(),
                })
                .collect();
            if moves.is_empty() {
                bail!("{} is not being replaced", subject_text(subject));
            }
            Ok(moves)
        }
        Operation::ForgetNode { node } => {
            let held = members_of(manifest, &Subject::Node(*node)).len();
            if held > 0 {
                bail!("node {node} holds {held} segments of the volume: drain it first");
            }
            if !manifest.hints.iter().any(|hint| hint.node == *node) {
                bail!("node {node} is not in the fleet of this volume");
            }
            Ok(Vec::new())
        }
        _ => Ok(Vec::new()),
    }
}

/// Where the segment would go; it counts as there for what follows.
fn place(loads: &mut [Load], entry: &PgEntry, out: &Member, onto: Option<NodeId>) -> Result<Move> {
    let members = entry.members();
    let node = match onto {
        None => place_replacement(loads, &members, out)?,
        Some(node) => {
            let Some(load) = loads.iter().find(|load| load.node == node) else {
                bail!("node {node} is not in the fleet of this volume");
            };
            if members.iter().any(|member| member.node == node) {
                bail!(
                    "node {node} hosts a segment of protection group {} already",
                    entry.pg
                );
            }
            if !load.usable {
                bail!("node {node} does not answer");
            }
            node
        }
    };
    if let Some(load) = loads.iter_mut().find(|load| load.node == node) {
        load.segments += 1;
    }
    Ok(Move {
        pg: entry.pg.get(),
        segment: Some(out.segment.to_string()),
        from: Some(out.node.to_string()),
        to: node.to_string(),
        az: az_of(loads, node),
    })
}

fn is_of(subject: &Subject, member: &Member) -> bool {
    match subject {
        Subject::Segment(segment) => member.segment == *segment,
        Subject::Node(node) => member.node == *node,
    }
}

/// Segments of the subject that are not on their way out already.
pub(crate) fn members_of<'a>(
    manifest: &'a Manifest,
    subject: &Subject,
) -> Vec<(&'a PgEntry, Member)> {
    let leaving: Vec<_> = manifest.pgs.iter().flat_map(replacements).collect();
    let of_entry = |entry: &'a PgEntry| {
        let members = entry.members().into_iter();
        members.map(move |member| (entry, member))
    };
    let all = manifest.pgs.iter().flat_map(of_entry);
    all.filter(|(_, member)| is_of(subject, member))
        .filter(|(_, member)| !leaving.iter().any(|change| change.out == member.segment))
        .collect()
}

/// Replacements under way: who leaves, who joins.
pub(crate) fn running(manifest: &Manifest) -> Vec<(&PgEntry, Member, Member)> {
    let mut found = Vec::new();
    for entry in &manifest.pgs {
        let members = entry.members();
        let member = |segment| members.iter().find(|member| member.segment == segment);
        for change in replacements(entry) {
            if let (Some(out), Some(into)) = (member(change.out), member(change.into)) {
                found.push((entry, *out, *into));
            }
        }
    }
    found
}

/// What changed from one manifest to the next.
pub(crate) fn difference(before: &Manifest, after: &Manifest) -> Vec<Move> {
    let mut moves = Vec::new();
    let az = |node: NodeId| {
        let hint = after.hints.iter().find(|hint| hint.node == node);
        hint.map(|hint| hint.az.clone()).unwrap_or_default()
    };
    for entry in &after.pgs {
        let old = before.pg(entry.pg);
        let old_members = old.map(PgEntry::members).unwrap_or_default();
        let new_members = entry.members();
        let lacks = |members: &[Member], wanted: &Member| {
            !members
                .iter()
                .any(|member| member.segment == wanted.segment)
        };
        let gone: Vec<&Member> = old_members
            .iter()
            .filter(|member| lacks(&new_members, member))
            .collect();
        let come = new_members
            .iter()
            .filter(|member| lacks(&old_members, member));
        let mut left = gone;
        for into in come {
            // A replacement stays in its zone, mostly.
            let place = left
                .iter()
                .position(|member| az(member.node) == az(into.node))
                .or(if left.is_empty() { None } else { Some(0) });
            let out = place.map(|place| left.remove(place));
            moves.push(Move {
                pg: entry.pg.get(),
                segment: out.map(|member| member.segment.to_string()),
                from: out.map(|member| member.node.to_string()),
                to: into.node.to_string(),
                az: az(into.node),
            });
        }
    }
    moves
}

/// For people.
pub(crate) fn subject_text(subject: &Subject) -> String {
    match subject {
        Subject::Segment(segment) => format!("segment {segment}"),
        Subject::Node(node) => format!("node {node}"),
    }
}
