//! Faults as the plan has them, and their ends.

use super::regrowth::Window;
use super::{Event, FIRST_NODES, Heal, NODE_COUNT, WRITER_HOSTS, World};
use crate::clock::{MS, Time, US};
use crate::plan::{Fault, members, node_name};
use crate::reached::Reached;
use sixfold_compute_core::WriterEvent;
use sixfold_log_format::PgId;

impl World {
    pub(super) fn fault(&mut self, index: usize) {
        let (_, fault) = self.plan.faults[index];
        if self.finish.is_healed() {
            return;
        }
        self.tell(|| format!("** {fault}"));
        self.note(30, index as u64);
        match fault {
            Fault::Crash { nodes, power, down } => self.crash_nodes(nodes, power, down * MS),
            Fault::PauseNodes { nodes, length } => {
                for node in members(nodes) {
                    self.pause_node(node, length * MS);
                }
            }
            Fault::Isolate { nodes, out, length } => {
                let mut pairs = Vec::new();
                for node in members(nodes) {
                    for host in (0..NODE_COUNT + WRITER_HOSTS).filter(|host| *host != node) {
                        pairs.push((node, host));
                        if !out {
                            pairs.push((host, node));
                        }
                    }
                }
                self.block_pairs(pairs, length * MS);
            }
            Fault::NoGossip { length } => {
                self.net.quiet += 1;
                self.heal_later(length * MS, Heal::Gossip);
            }
            Fault::Reset { nodes } => {
                let streams: Vec<usize> = self
                    .live
                    .iter()
                    .copied()
                    .filter(|stream| nodes & (1 << self.streams[*stream].node) != 0)
                    .collect();
                streams
                    .into_iter()
                    .for_each(|stream| self.break_stream(stream));
            }
            Fault::SlowLinks {
                nodes,
                times,
                length,
            } => {
                members(nodes).for_each(|node| self.net.slow[node] = times);
                self.heal_later(length * MS, Heal::Slow(nodes));
            }
            Fault::Loss { length } => {
                self.net.loss = true;
                self.heal_later(length * MS, Heal::Loss);
            }
            Fault::DiskFull { nodes, length } => {
                members(nodes).for_each(|node| self.nodes[node].disk.full = true);
                self.heal_later(length * MS, Heal::DiskFull(nodes));
            }
            Fault::DiskSlow {
                nodes,
                times,
                length,
            } => {
                members(nodes).for_each(|node| self.nodes[node].disk.slow = times);
                self.heal_later(length * MS, Heal::DiskSlow(nodes));
            }
            Fault::WriteError { nodes } => {
                members(nodes).for_each(|node| self.nodes[node].disk.fail_next_write = true);
            }
            Fault::Misreads { nodes, length } => {
                members(nodes).for_each(|node| self.nodes[node].disk.misreads = 200);
                self.heal_later(length * MS, Heal::Misreads(nodes));
            }
            Fault::Rot => self.rot(),
            Fault::LostSync { length } => {
                let node = self.plan.shape.forgetful;
                self.nodes[node].suspect = true;
                self.nodes[node].disk.lies = true;
                self.nodes[node].disk.layers.lies = true;
                self.heal_later(length * MS, Heal::LostSync);
            }
            Fault::Misdirect => {
                let node = self.plan.shape.forgetful;
                self.nodes[node].suspect = true;
                self.nodes[node].disk.misdirect_next_write = true;
            }
            Fault::CrashWriter => {
                if let Some(writer) = self.any_writer() {
                    self.end_writer(writer, "dies");
                }
            }
            Fault::PauseWriter { length } => {
                if let Some(writer) = self.any_writer() {
                    self.pause_writer(writer, length * MS);
                }
            }
            Fault::CutWriter {
                nodes,
                one_way,
                length,
            } => {
                if let Some(writer) = self.any_writer() {
                    let host = self.writers[writer].host;
                    let every = nodes == 0b11_1111;
                    let nodes = if every { 0b1_1111_1111 } else { nodes };
                    let pairs = cut_pairs(host, nodes, one_way);
                    self.block_pairs(pairs, length * MS);
                }
            }
            Fault::Rival { host, take_over } => {
                // The machine of the one that stands still is taken.
                let alive = self
                    .writers
                    .iter()
                    .filter(|writer| !writer.is_gone())
                    .count();
                if alive < 3 {
                    self.start_writer(NODE_COUNT + host, take_over);
                }
            }
            Fault::CloseWriter => {
                if let Some(writer) = self.current_writer() {
                    self.tell(|| format!("W{writer} is asked to close"));
                    if self.writers[writer].paused {
                        return;
                    }
                    self.writer_event(writer, WriterEvent::Close);
                }
            }
            Fault::SetWallClock { host, by_ms } => {
                // Writers' machines come behind all nodes'.
                let spares = NODE_COUNT - FIRST_NODES;
                let host = if host < FIRST_NODES {
                    host
                } else {
                    host + spares
                };
                self.walls.set(host, by_ms);
            }
            Fault::SplitSeal { hold_us } => self.lie_in_wait(hold_us),
            Fault::Relapse { late, after_ms } => self.relapse(late, after_ms * MS),
            Fault::DropSegment { pg } => self.drop_segment(index, pg),
            Fault::Dead { node } => self.dies_for_good(node),
            Fault::OpenForReading { host } => self.start_reader(host),
            Fault::Want(wanted) => self.want(index, wanted),
            Fault::SplitStep {
                reach,
                skip,
                hold_us,
                unseen,
            } => self.lie_in_wait_for_a_step(reach, skip, hold_us * US, unseen),
            Fault::Overwrite => {
                let node = self.plan.shape.forgetful;
                self.nodes[node].suspect = true;
                self.nodes[node].disk.overwrite_next = true;
            }
            Fault::HoldGrowth { hold_ms, dies } => self.lie_in_wait_for_growth(hold_ms * MS, dies),
            Fault::LateLeaver { hold_ms } => self.lie_in_wait_for_a_leaver(hold_ms * MS),
            Fault::BareQuorum { nodes, successor } => self.bare_quorum(nodes, successor),
            Fault::Destroy { nodes } => self.destroy(nodes),
            Fault::JoiningWindow {
                survivor,
                joins,
                confirmed,
            } => self.window = Some(Window::new(survivor, joins, confirmed)),
            Fault::Stranger => self.stranger(),
            Fault::GiveWord { host } => self.give_word(index, host),
            Fault::StandBy { host, patience_ms } => {
                self.start_standby(NODE_COUNT + host, patience_ms * MS);
            }
            Fault::SlowSurvey { host, pg, hold_ms } => {
                self.net.holds_surveys = Some(PgId::new(pg % self.plan.shape.pg_count));
                self.start_reader(host);
                self.heal_later(hold_ms * MS, Heal::Surveys);
            }
            Fault::RollSilence { nodes } => self.roll_silence(nodes),
        }
    }

    /// A bit of the forgetful disk turns.
    pub(super) fn rot(&mut self) {
        let node = self.plan.shape.forgetful;
        let of_layer = self.disk_rng.chance(1, 2);
        let layers = &mut self.nodes[node].disk.layers;
        let rotten = of_layer.then(|| layers.rot(&mut self.disk_rng)).flatten();
        if let Some(((segment, layer), at)) = rotten {
            self.layer_harmed(node);
            self.tell(|| {
                let name = node_name(node);
                format!("{name}: layer {layer} of segment {segment} rots at {at}")
            });
        } else if let Some((file, at)) = self.nodes[node].disk.rot(&mut self.disk_rng) {
            self.nodes[node].suspect = true;
            self.tell(|| format!("{}: file {file} rots at {at}", node_name(node)));
        }
    }

    fn any_writer(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.writers.len())
            .filter(|writer| !self.writers[*writer].is_gone())
            .collect();
        let current = self.current_writer();
        if current.is_some() && self.rng.chance(3, 4) {
            return current;
        }
        (!alive.is_empty()).then(|| alive[self.rng.index(alive.len())])
    }

    pub(super) fn crash_nodes(&mut self, nodes: u16, power: bool, down: Time) {
        if power && nodes == 0b11_1111 {
            self.oracle.reached.hit(Reached::PowerCut);
        }
        for node in members(nodes)
            .filter(|node| *node < self.nodes.len())
            .collect::<Vec<_>>()
        {
            self.crash_node(node, power);
            let jitter = self.rng.below(5 * MS);
            self.restart_node(node, down + jitter);
        }
    }

    fn pause_node(&mut self, node: usize, length: Time) {
        let life = self.nodes[node].life;
        if self.nodes[node].core.is_none() || self.nodes[node].paused {
            return;
        }
        self.nodes[node].paused = true;
        self.queue
            .push(self.now + length, Event::ResumeNode { node, life });
    }

    pub(super) fn block_pairs(&mut self, pairs: Vec<(usize, usize)>, length: Time) {
        pairs.iter().for_each(|(from, to)| self.block(*from, *to));
        self.heal_later(length, Heal::Unblock(pairs));
    }

    fn heal_later(&mut self, length: Time, heal: Heal) {
        self.queue.push(self.now + length, Event::Heal(heal));
    }

    pub(super) fn heal(&mut self, heal: Heal) {
        if self.finish.is_healed() {
            return;
        }
        self.tell(|| format!("** over: {}", healed(&heal)));
        match heal {
            Heal::Unblock(pairs) => pairs
                .into_iter()
                .for_each(|(from, to)| self.unblock(from, to)),
            Heal::Gossip => {
                self.net.quiet -= 1;
                self.release_held();
            }
            Heal::Slow(nodes) => members(nodes).for_each(|node| self.net.slow[node] = 1),
            Heal::Loss => self.net.loss = false,
            Heal::Surveys => {
                self.net.holds_surveys = None;
                self.release_held();
                self.oracle.reached.hit(Reached::SurveyOfTwoMoments);
            }
            Heal::DiskFull(nodes) => {
                members(nodes).for_each(|node| self.nodes[node].disk.full = false);
            }
            Heal::DiskSlow(nodes) => {
                members(nodes).for_each(|node| self.nodes[node].disk.slow = 1);
            }
            Heal::Misreads(nodes) => {
                members(nodes).for_each(|node| self.nodes[node].disk.misreads = 0);
            }
            Heal::LostSync => {
                let node = self.plan.shape.forgetful;
                self.crash_node(node, true);
                self.nodes[node].disk.settle();
                self.restart_node(node, 2 * MS);
            }
        }
    }

    /// Cuts a host off from nodes for as long as the director likes.
    pub(super) fn cut_now(&mut self, pairs: &[(usize, usize)]) {
        pairs.iter().for_each(|(from, to)| self.block(*from, *to));
    }

    pub(super) fn mend_now(&mut self, pairs: &[(usize, usize)]) {
        pairs.iter().for_each(|(from, to)| self.unblock(*from, *to));
    }
}

/// The pairs of hosts that a cut between a writer's host and nodes blocks.
pub(super) fn cut_pairs(host: usize, nodes: u16, one_way: u8) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for node in members(nodes) {
        if one_way != 2 {
            pairs.push((host, node));
        }
        if one_way != 1 {
            pairs.push((node, host));
        }
    }
    pairs
}

fn healed(heal: &Heal) -> String {
    match heal {
        Heal::Unblock(_) => "a cut".to_owned(),
        other => format!("{other:?}"),
    }
}
