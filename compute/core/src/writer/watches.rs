//! What watchers need of the writer: log reads, and the end of them.

use std::time::Duration;

use sixfold_log_format::VolumeEpoch;
use sixfold_log_format::wire::Message;

use super::{Life, WriterCore};
use crate::event::{FetchKey, FetchTicket, WriterAction};
use crate::watch::reads::{Bounds, Ended, LogSegments};
use crate::watch::{LogError, LogWant};

impl WriterCore {
    /// A watcher needs a part of the log.
    pub(super) fn read_log(&mut self, ticket: FetchTicket, want: LogWant, deadline: Duration) {
        let after = want.after;
        let unavailable = |reason: &str| {
            Some(LogError::Unavailable {
                after,
                reason: reason.to_owned(),
            })
        };
        let refusal = if let Life::Fenced(volume_epoch) = self.life {
            Some(LogError::Fenced { volume_epoch })
        } else if self.drained {
            unavailable("closing")
        } else if want.pg.get() as usize >= self.geometry.groups {
            unavailable("no such protection group")
        } else if self.log_reads.request(ticket, want, deadline) {
            None
        } else {
            unavailable("too many log reads wait")
        };
        if let Some(error) = refusal {
            self.log_read_ended((ticket, Err(error)));
        }
    }

    /// A segment answered a log read, or failed.
    pub(super) fn log_read_answered(&mut self, fetch: FetchKey, answer: Option<Message>) {
        let links = self.shipper.links();
        let ended = self
            .log_reads
            .answered(fetch, answer, links, &mut self.router);
        ended
            .into_iter()
            .for_each(|ended| self.log_read_ended(ended));
    }

    /// Asks for what is wanted of the log, and what became due. `due`: whether time has passed.
    pub(super) fn drive_log_reads(&mut self, due: bool) {
        let (durability, links) = (&self.durability, self.shipper.links());
        let through = durability.vdl();
        let bounds_of = |want: &LogWant| Bounds {
            through,
            pg_last: durability.durable_last(want.pg),
        };
        let mut segments = LogSegments {
            links,
            router: &mut self.router,
            history_epoch: self.volume_epoch,
            bounds_of: &bounds_of,
        };
        let (now, actions) = (self.now, &mut self.actions);
        let ended = if due {
            self.log_reads.on_due(now, &mut segments, actions)
        } else {
            self.log_reads.ask_ready(now, &mut segments, actions)
        };
        ended
            .into_iter()
            .for_each(|ended| self.log_read_ended(ended));
    }

    /// Ends every log read: fenced, or closed.
    pub(super) fn refuse_log_reads(&mut self, fenced: Option<VolumeEpoch>) {
        for (ticket, after) in self.log_reads.take_all() {
            let error = match fenced {
                Some(volume_epoch) => LogError::Fenced { volume_epoch },
                None => LogError::Unavailable {
                    after,
                    reason: "closing".to_owned(),
                },
            };
            self.log_read_ended((ticket, Err(error)));
        }
    }

    fn log_read_ended(&mut self, (ticket, result): Ended) {
        self.actions
            .push_back(WriterAction::LogRead { ticket, result });
    }
}
