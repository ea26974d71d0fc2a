//! What the driver can say of the node for metrics, and how long writes to the hot log take.

use std::time::Duration;

use sixfold_metrics::Histogram;
use sixfold_storage_node_core::DiskToken;

use super::Driver;
use crate::probe::NodeReport;
use crate::uring::Completion;

/// Times writes of the hot log. There is one in flight mostly: a short list is looked through.
#[derive(Debug, Default)]
pub(super) struct WriteTimes {
    in_flight: Vec<(DiskToken, Duration)>,
    counted: Histogram,
}

impl WriteTimes {
    /// A write is given to the ring.
    pub(super) fn began(&mut self, now: Duration, token: DiskToken) {
        self.in_flight.push((token, now));
    }

    /// Something is done: such a write, or something else.
    pub(super) fn ended(&mut self, now: Duration, completion: &Completion) {
        let Completion::Written { token, .. } = completion else {
            return;
        };
        let found = self.in_flight.iter().position(|(of, _)| of == token);
        if let Some(index) = found {
            let (_, began) = self.in_flight.swap_remove(index);
            self.counted.count(now.saturating_sub(began));
        }
    }
}

impl Driver {
    /// How the node is.
    pub(crate) fn report(&self) -> NodeReport {
        let state = self.state.borrow();
        NodeReport {
            numbers: state.core.numbers(),
            connections: state.connections.len(),
            streams: state.streams.len(),
            queued_bytes: state.queued_bytes.get(),
            gate: state.peers.gate_stats(),
            renewals: state.peers.renewals(),
            hot_log_writes: state.writes.counted.counted(),
        }
    }
}
