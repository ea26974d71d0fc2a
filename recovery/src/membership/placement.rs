//! Which nodes hold a new segment: two in each of three availability zones, at most two in any, least loaded first.
//!
//! It knows nodes and counts only. Who is usable, and how loaded, is the caller's word.

use std::collections::BTreeMap;

use sixfold_log_format::limits::SEGMENTS_PER_SET_MAX;
use sixfold_log_format::{Member, NodeId};

/// Availability zones that a group is spread over.
const ZONES: usize = 3;
/// Segments of a group in each of them.
const SEGMENTS_PER_ZONE: usize = SEGMENTS_PER_SET_MAX / ZONES;

/// A node of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The node.
    pub node: NodeId,
    /// Its availability zone.
    pub az: String,
    /// Segments that it holds or is about to hold, of all groups.
    pub segments: usize,
    /// Whether it may be given another one: it answers and is not being emptied.
    pub usable: bool,
}

/// Why no node can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Fewer than three zones have two usable nodes.
    #[error("{zones} availability zones have {SEGMENTS_PER_ZONE} usable nodes, {ZONES} are needed")]
    TooFewZones {
        /// How many do.
        zones: usize,
    },
    /// The node of the segment that leaves is not in the fleet, so its zone is not known.
    #[error("node {node} is not in the fleet of this volume")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// Too few nodes for a group that lost copies: others are needed that answer, hold none of it, and are in a zone that holds
    /// at most one of it.
    #[error(
        "{found} nodes are usable, hold nothing of the group and are in an availability zone that lacks a copy, {needed} are needed"
    )]
    TooFewNodes {
        /// How many there are.
        found: usize,
        /// How many must be.
        needed: usize,
    },
    /// Every usable node of the zone hosts a segment of the group.
    #[error("no spare node in availability zone {az}")]
    NoSpare {
        /// The zone.
        az: String,
    },
}

/// Nodes for a new group: two in each of three zones, zone by zone. In a zone the least loaded go first, ties by id. With more
/// than three zones those whose two nodes carry least are taken, ties by name.
///
/// Each zone gives one of its two nodes an even place in the answer, so that a full/tail group has a full segment in each.
///
/// # Errors
/// [`PlacementError::TooFewZones`].
pub fn place_group(fleet: &[Load]) -> Result<[NodeId; SEGMENTS_PER_SET_MAX], PlacementError> {
    let mut zones: BTreeMap<&str, Vec<&Load>> = BTreeMap::new();
    for load in fleet.iter().filter(|load| load.usable) {
        let zone = zones.entry(&load.az).or_default();
        // A node that is listed twice is one node.
        if !zone.iter().any(|known| known.node == load.node) {
            zone.push(load);
        }
    }
    let mut pairs: Vec<(usize, &str, [NodeId; SEGMENTS_PER_ZONE])> = Vec::new();
    for (az, mut nodes) in zones {
        nodes.sort_by_key(|load| (load.segments, load.node));
        if let [first, second, ..] = nodes[..] {
            let carried = first.segments.saturating_add(second.segments);
            pairs.push((carried, az, [first.node, second.node]));
        }
    }
    pairs.sort();
    let zones = pairs.len();
    match pairs[..] {
        [(_, _, [a, b]), (_, _, [c, d]), (_, _, [e, f]), ..] => Ok([a, b, c, d, e, f]),
        _ => Err(PlacementError::TooFewZones { zones }),
    }
}

/// A node for the segment that takes the place of `out`: in the same zone, host of no segment of the group (`members`, all
/// sets in force), least loaded first, ties by id.
///
/// # Errors
/// [`PlacementError`] when the zone of `out` is not known or has no such node.
pub fn place_replacement(
    fleet: &[Load],
    members: &[Member],
    out: &Member,
) -> Result<NodeId, PlacementError> {
    let home = fleet.iter().find(|load| load.node == out.node);
    let Some(home) = home else {
        return Err(PlacementError::UnknownNode { node: out.node });
    };
    let hosts = |node: NodeId| members.iter().any(|member| member.node == node);
    let spare = |load: &&Load| {
        load.usable && load.az == home.az && load.node != out.node && !hosts(load.node)
    };
    fleet
        .iter()
        .filter(spare)
        .min_by_key(|load| (load.segments, load.node))
        .map(|load| load.node)
        .ok_or_else(|| PlacementError::NoSpare {
            az: home.az.clone(),
        })
}

/// Nodes for more segments of a group that lost some: hosts of none of `members`, in the zones that hold fewest of the group and never
/// more than two in one, least loaded first, ties by id.
///
/// # Errors
/// [`PlacementError::TooFewNodes`].
pub fn place_more(
    fleet: &[Load],
    members: &[Member],
    needed: usize,
) -> Result<Vec<NodeId>, PlacementError> {
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        let home = fleet.iter().find(|load| load.node == member.node);
        if let Some(home) = home {
            *held.entry(&home.az).or_default() += 1;
        }
    }
    let mut chosen: Vec<NodeId> = Vec::new();
    while chosen.len() < needed {
        let held_in = |load: &Load| held.get(&*load.az).copied().unwrap_or(0);
        let hosts = |node: NodeId| {
            chosen.contains(&node) || members.iter().any(|member| member.node == node)
        };
        let fits =
            |load: &&Load| load.usable && !hosts(load.node) && held_in(load) < SEGMENTS_PER_ZONE;
        let next = fleet.iter().filter(fits);
        let next = next.min_by_key(|load| (held_in(load), load.segments, load.node));
        let Some(load) = next else {
            let found = chosen.len();
            return Err(PlacementError::TooFewNodes { found, needed });
        };
        chosen.push(load.node);
        *held.entry(&load.az).or_default() += 1;
    }
    Ok(chosen)
}
