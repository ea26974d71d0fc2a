//! Random runs against a model: what was answered is there, what is cached is what storage folds, byte for byte.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sixfold_compute_core::{CommitError, CommitRequest, CommitTicket, WriteValue, WriterBounds};
use sixfold_kv::PageSource;
use sixfold_log_format::{Lsn, PageId};

use crate::cluster::{Cluster, bounds, key, opened};

#[derive(Debug, Clone)]
enum Step {
    /// Writes and deletes keys; blind, or having read one of them.
    Commit {
        writes: Vec<(u16, Option<u16>)>,
        read: Option<u16>,
        run: bool,
    },
    /// One segment holds its acks, or gives them.
    Mute(usize, bool),
    /// One stream breaks.
    Lose(usize),
    /// Time passes.
    Pass(u64),
    /// A reader looks at everything at VDL.
    Read(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0_u16..300, proptest::option::weighted(0.8, 0_u16..400));
    let writes = proptest::collection::vec(write, 1..12);
    prop_oneof![
        8 => (writes, proptest::option::of(0_u16..300), any::<bool>())
            .prop_map(|(writes, read, run)| Step::Commit { writes, read, run }),
        2 => (0_usize..6, any::<bool>()).prop_map(|(index, mute)| Step::Mute(index, mute)),
        1 => (0_usize..6).prop_map(Step::Lose),
        2 => (0_u64..40).prop_map(Step::Pass),
        3 => (0_u16..300).prop_map(Step::Read),
    ]
}

struct Run {
    cluster: Cluster,
    /// Writes by ticket, in the order in which they were handed in.
    handed: BTreeMap<CommitTicket, Vec<(u16, Option<u16>)>>,
    read_points: Vec<(sixfold_compute_core::ReadPoint, Option<CommitTicket>)>,
}

fn name(number: u16) -> String {
    format!("key {number:05}")
}

fn value(number: u16) -> String {
    "v".repeat(usize::from(number)) + &number.to_string()
}

impl Run {
    fn new(cache_pages: usize) -> Run {
        let bounds = WriterBounds {
            cache_bytes_max: cache_pages * 512,
            ..bounds()
        };
        let cluster = Cluster::with(bounds, opened(512, 100_000));
        Run {
            cluster,
            handed: BTreeMap::new(),
            read_points: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit { writes, read, run } => {
                let point = self.cluster.core.shared().announce();
                let put = |value: u16| WriteValue {
                    bytes: key(self::value(value)),
                    deadline_ms: None,
                };
                let request = CommitRequest {
                    read_point: point.lsn(),
                    read_keys: read.iter().map(|&read| key(name(read))).collect(),
                    writes: writes
                        .iter()
                        .map(|&(at, to)| (key(name(at)), to.map(put)))
                        .collect(),
                    ..CommitRequest::default()
                };
                let ticket = self.cluster.submit(request);
                self.handed.insert(ticket, writes.clone());
                self.read_points.push((point, Some(ticket)));
                if *run {
                    self.cluster.run();
                }
            }
            Step::Mute(index, mute) => {
                self.cluster.segments[*index].mute = *mute;
                if !mute {
                    self.cluster.ack(*index);
                }
            }
            Step::Lose(index) => self.cluster.lose(*index),
            Step::Pass(ms) => self.cluster.pass_ms(*ms),
            Step::Read(at) => {
                let _value = self.cluster.get(&name(*at));
                self.check_cache();
            }
        }
        let answered: Vec<CommitTicket> = self
            .cluster
            .answers
            .iter()
            .map(|&(ticket, _)| ticket)
            .collect();
        self.read_points
            .retain(|(_, ticket)| ticket.is_none_or(|t| !answered.contains(&t)));
        let stats = self.cluster.core.stats();
        assert!(
            stats.read_point_min <= stats.vdl && stats.vdl <= stats.vcl && stats.vcl <= stats.last
        );
    }

    /// Every page in the cache is what a segment that has everything folds.
    fn check_cache(&self) {
        let vdl = self.cluster.core.shared().vdl();
        let whole = self
            .cluster
            .segments
            .iter()
            .max_by_key(|segment| segment.scl())
            .unwrap();
        assert!(whole.scl() >= vdl);
        let view = self.cluster.core.shared().announce().view();
        for id in (1..200).map(PageId::new) {
            if let Some(cached) = view.page(id) {
                let folded = whole.page(id, vdl, 512);
                assert_eq!(cached.encode(), folded.encode(), "page {id} at {vdl}");
            }
        }
    }

    /// Everything is acknowledged; then the volume is what the answers say, in LSN order.
    fn finish(mut self) {
        self.cluster.each(|segment| segment.mute = false);
        for index in 0..6 {
            self.cluster.ack(index);
        }
        self.cluster.pass_ms(3_000);
        let mut ends: Vec<(Lsn, CommitTicket)> = Vec::new();
        for &ticket in self.handed.keys() {
            match self.cluster.answer(ticket).expect("it ends") {
                Ok(lsn) => ends.push((lsn, ticket)),
                Err(CommitError::Conflict { .. } | CommitError::TooOld { .. }) => {}
                Err(error) => panic!("{ticket:?} ended as {error}"),
            }
        }
        // The answers' order is the order of the log, also among those that share an LSN because they wrote nothing.
        let order: Vec<CommitTicket> = self
            .cluster
            .answers
            .iter()
            .map(|&(ticket, _)| ticket)
            .collect();
        ends.sort_by_key(|&(lsn, ticket)| (lsn, order.iter().position(|&other| other == ticket)));
        let mut model = BTreeMap::new();
        for (_, ticket) in ends {
            for &(at, to) in &self.handed[&ticket] {
                model.insert(at, to);
            }
        }
        for (at, to) in model {
            assert_eq!(self.cluster.get(&name(at)), to.map(value), "key {at}");
        }
        self.check_cache();
        let vdl = self.cluster.core.shared().vdl();
        let whole = self
            .cluster
            .segments
            .iter()
            .max_by_key(|segment| segment.scl())
            .unwrap();
        assert_eq!(whole.scl(), vdl);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_volume_is_what_the_answers_say_and_the_cache_what_storage_folds(
        steps in proptest::collection::vec(step(), 1..120),
        cache_pages in prop_oneof![Just(1_usize), Just(8), Just(64), Just(10_000)],
    ) {
        let mut run = Run::new(cache_pages);
        for step in &steps {
            run.step(step);
        }
        run.finish();
    }
}
