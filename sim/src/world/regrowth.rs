//! The window in which segments join a group that lost copies for good (R19): until they are confirmed, the set that the group leaves decides
//! alone. The writer and one survivor die in it, and perhaps those that join: the volume must open all the same, and soon.

use sixfold_log_format::SegmentId;

use super::{Event, World};
use crate::clock::{MS, Time};
use crate::oracle::{SetIds, StepDone, write_quorum};
use crate::plan::{Names, node_name};
use crate::reached::Reached;

/// Somebody must have opened the volume so soon after. An opening gives up after ten seconds at most, the next one then succeeds.
const OPEN_BOUND: Time = 12_000 * MS;
/// How long those that died are down when the group cannot do without them.
const DOWN: Time = 2_500 * MS;

/// Waits for the window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) survivor: usize,
    /// Those that join die as well.
    pub(super) joins: bool,
    /// It waits until they count.
    pub(super) confirmed: bool,
    /// What was open when they died, and the check that is due.
    struck: Option<(sixfold_log_format::VolumeEpoch, u64)>,
}

impl Window {
    pub(super) fn new(survivor: usize, joins: bool, confirmed: bool) -> Window {
        Window {
            survivor,
            joins,
            confirmed,
            struck: None,
        }
    }
}

impl World {
    /// A step of the membership came into force.
    pub(super) fn window_in_force(&mut self, done: StepDone) {
        let Some(window) = self.window.filter(|window| window.struck.is_none()) else {
            return;
        };
        let wanted = match window.confirmed {
            true => StepDone::Confirmed,
            false => StepDone::Begun,
        };
        let (Some((pg, whole, comes)), Some(writer)) =
            (self.oracle.members.reshaping(), self.current_writer())
        else {
            return;
        };
        if done != wanted || self.finish.is_healed() {
            return;
        }
        let mut struck = vec![whole[window.survivor % whole.len()]];
        if window.joins {
            struck.extend(comes);
        }
        let mut nodes = 0_u16;
        for segment in struck {
            nodes |= 1 << self.places[&segment].0;
        }
        let suffices = self.can_do_without(nodes);
        if !suffices && !window.confirmed {
            return;
        }
        self.tell(|| {
            format!(
                "** W{writer} and {} die while segments join group {pg}",
                Names(nodes)
            )
        });
        self.oracle.reached.hit(Reached::WriterDiedWhileJoining);
        for node in crate::plan::members(nodes) {
            self.crash_node(node, true);
            if !suffices {
                self.tell(|| format!("{} is needed, and comes back", node_name(node)));
                self.restart_node(node, DOWN);
            }
        }
        self.end_writer(writer, "dies");
        self.window_number += 1;
        let number = self.window_number;
        self.window = Some(Window {
            struck: Some((self.oracle.newest(), number)),
            ..window
        });
        let wait = if suffices {
            OPEN_BOUND
        } else {
            OPEN_BOUND + DOWN
        };
        self.queue
            .push(self.now + wait, Event::WindowOver { number });
    }

    /// Whether every set that decides has its write quorum without these nodes, and without those that are down anyhow.
    fn can_do_without(&self, nodes: u16) -> bool {
        let stands = |segment: &SegmentId| {
            let node = self.places[segment].0;
            nodes & (1 << node) == 0 && self.nodes[node].core.is_some()
        };
        let has_quorum = |set: &SetIds| {
            let standing = set.iter().filter(|segment| stands(segment)).count();
            standing >= write_quorum(set.len())
        };
        self.oracle.members.all_deciding().iter().all(has_quorum)
    }

    /// By now somebody has opened the volume.
    pub(super) fn window_over(&mut self, number: u64) {
        let struck = self.window.and_then(|window| window.struck);
        let Some((epoch, _)) = struck.filter(|(_, of)| *of == number) else {
            return;
        };
        self.window = None;
        if self.finish.is_healed() {
            return;
        }
        if self.oracle.newest() == epoch {
            return self.fail(
                "liveness: nobody opens a group of which a survivor died while others joined, although it can do without (R19)",
            );
        }
        self.queue.push(self.now + 500 * MS, Event::HealAll);
    }
}
