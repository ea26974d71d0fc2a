//! The fleet: which nodes there are, what they carry, and which of them may be given a segment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sixfold_log_format::{Manifest, Member, NodeId, PgEntry, PgId, SegmentId};
use sixfold_recovery::membership::{Load, PlacementError, place_replacement};

use crate::link::Link;

/// A node that could not make a segment gets none for this long.
const SHUNNED: Duration = Duration::from_secs(60);
/// Segments of a group in one zone.
const PER_ZONE_MAX: usize = 2;

/// Nodes that get no segment for now.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// They were emptied by wish, and stay so until they are added again.
    emptied: BTreeSet<NodeId>,
    shunned: BTreeMap<NodeId, Duration>,
}

impl Fleet {
    /// The node is being emptied.
    pub(crate) fn empty(&mut self, node: NodeId) {
        self.emptied.insert(node);
    }

    /// The node may be given segments again.
    pub(crate) fn welcome(&mut self, node: NodeId) -> bool {
        self.shunned.remove(&node);
        self.emptied.remove(&node)
    }

    /// The node could not make a segment.
    pub(crate) fn shun(&mut self, node: NodeId, now: Duration) {
        self.shunned.retain(|_, until| *until > now);
        self.shunned.insert(node, now + SHUNNED);
    }

    /// What each node carries. A node that holds segments of which none is heard is of no use; of one that holds none nothing
    /// is known, and it is tried.
    pub(crate) fn loads(
        &self,
        manifest: &Manifest,
        links: &[Link],
        coming: impl Iterator<Item = (PgId, Member)>,
        now: Duration,
    ) -> Vec<Load> {
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for member in manifest.pgs.iter().flat_map(PgEntry::members) {
            *counts.entry(member.node).or_default() += 1;
        }
        for (_, member) in coming {
            *counts.entry(member.node).or_default() += 1;
        }
        let mut is_up: BTreeMap<NodeId, bool> = BTreeMap::new();
        for link in links.iter().filter(|link| !link.is_gone()) {
            *is_up.entry(link.node).or_default() |= link.is_up();
        }
        let load = |hint: &sixfold_log_format::manifest::NodeHint| Load {
            node: hint.node,
            az: hint.az.clone(),
            segments: counts.get(&hint.node).copied().unwrap_or(0),
            usable: !self.emptied.contains(&hint.node)
                && self
                    .shunned
                    .get(&hint.node)
                    .is_none_or(|&until| until <= now)
                && is_up.get(&hint.node).copied().unwrap_or(true),
        };
        manifest.hints.iter().map(load).collect()
    }
}

/// Where the segment goes that takes the place of `out`: to `object`, if that is given and possible. `others`: nodes that are
/// about to get a segment of this group.
pub(crate) fn place(
    loads: &[Load],
    entry: &PgEntry,
    others: &[Member],
    out: &Member,
    object: Option<NodeId>,
) -> Result<NodeId, String> {
    let mut members = entry.members();
    members.extend(others);
    let Some(node) = object else {
        let chosen = place_replacement(loads, &members, out);
        return chosen.map_err(|error| refusal(&error));
    };
    let Some(load) = loads.iter().find(|load| load.node == node) else {
        return Err(format!("node {node} is not in the fleet of this volume"));
    };
    let (pg, segment) = (entry.pg, out.segment);
    let stays = |member: &&Member| member.segment != segment;
    if members
        .iter()
        .filter(stays)
        .any(|member| member.node == node)
    {
        return Err(format!(
            "node {node} hosts a segment of protection group {pg} already"
        ));
    }
    let az_of = |node: NodeId| loads.iter().find(|load| load.node == node);
    let in_zone = |member: &&Member| az_of(member.node).is_some_and(|other| other.az == load.az);
    let home = az_of(out.node).map(|home| &home.az);
    // While other segments of the group are being replaced a zone has more of them, for a time.
    let leaves_zone = home != Some(&load.az);
    if leaves_zone && members.iter().filter(stays).filter(in_zone).count() >= PER_ZONE_MAX {
        return Err(format!(
            "availability zone {} holds {PER_ZONE_MAX} other segments of protection group {pg}",
            load.az
        ));
    }
    // Whether it answers shows when it is asked to make the segment.
    Ok(node)
}

fn refusal(error: &PlacementError) -> String {
    error.to_string()
}

/// Where a segment stands in the manifest.
pub(crate) fn find(manifest: &Manifest, segment: SegmentId) -> Option<(PgId, Member)> {
    manifest.pgs.iter().find_map(|entry| {
        let mut members = entry.sets.iter().flat_map(|set| &set.members);
        let member = members.find(|member| member.segment == segment)?;
        Some((entry.pg, *member))
    })
}
