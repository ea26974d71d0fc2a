//! Past LSNs, rounded down to consistency points (R29).

use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, PgId, VolumeEpoch};

use super::{Life, WriterCore};
use crate::event::{FetchKey, FetchTicket, RoundError, WriterAction};
use crate::fetch::Segments;

impl WriterCore {
    /// Somebody wants to read at a past LSN.
    pub(super) fn round_down(&mut self, ticket: FetchTicket, lsn: Lsn, deadline: Duration) {
        let vdl = self.vdl();
        if lsn > vdl {
            return self.answer_round(ticket, Err(RoundError::AboveVdl { lsn, vdl }));
        }
        if planted(Mutant::SnapshotNotRounded) {
            return self.answer_round(ticket, Ok(lsn));
        }
        let known = self
            .rounding
            .in_history(lsn)
            .or_else(|| self.points.round_down(lsn));
        if let Some(point) = known {
            return self.rounded(ticket, lsn, Ok(point));
        }
        let unavailable = |reason: &str| RoundError::Unavailable {
            lsn,
            reason: reason.to_owned(),
        };
        let beginning = self.rounding.beginning();
        let refusal = if lsn <= beginning {
            let oldest = beginning.next();
            Some(RoundError::Forgotten { lsn, oldest })
        } else if let Life::Fenced(volume_epoch) = self.life {
            Some(RoundError::Fenced { volume_epoch })
        } else if self.drained {
            Some(unavailable("closing"))
        } else if !self.rounding.begin(ticket, lsn, deadline) {
            Some(unavailable("too many past read points are looked for"))
        } else {
            None
        };
        if let Some(error) = refusal {
            self.answer_round(ticket, Err(error));
        }
    }

    /// A segment told of the log, or failed to.
    pub(super) fn log_answered(&mut self, fetch: FetchKey, answer: Option<Message>) {
        if let Some((ticket, result)) = self.rounding.answered(fetch, answer) {
            let lsn = result.as_ref().copied().unwrap_or(Lsn::NONE);
            self.rounded(ticket, lsn, result);
        }
    }

    fn rounded(&mut self, ticket: FetchTicket, lsn: Lsn, result: Result<Lsn, RoundError>) {
        let beginning = self.rounding.beginning();
        let result = match result {
            // Before the volume's first MTR there is nothing to be read.
            Ok(point) if point <= beginning => {
                let oldest = beginning.next();
                Err(RoundError::Forgotten { lsn, oldest })
            }
            result => result,
        };
        self.answer_round(ticket, result);
    }

    fn answer_round(&mut self, ticket: FetchTicket, result: Result<Lsn, RoundError>) {
        self.actions
            .push_back(WriterAction::Rounded { ticket, result });
    }

    /// Asks segments for the log where it is wanted, and ends what is past its deadline.
    pub(super) fn walk_roundings(&mut self) {
        if !self.rounding.due().is_due(self.now) {
            return;
        }
        let group_last: Vec<(PgId, Lsn)> = self.groups[..self.geometry.groups]
            .iter()
            .map(|group| (group.entry.pg, self.durability.durable_last(group.entry.pg)))
            .collect();
        let geometry = self.geometry;
        let mut segments = Segments {
            links: self.shipper.links(),
            router: &mut self.router,
            history_epoch: self.volume_epoch,
            pg_of: &|page| geometry.pg_of(page),
            page_bytes: self.page_bytes,
        };
        let over = self.rounding.on_due(
            self.now,
            &group_last,
            &mut self.fetches,
            &mut segments,
            &mut self.actions,
        );
        for (ticket, error) in over {
            self.answer_round(ticket, Err(error));
        }
    }

    /// Ends everything: fenced, or closed.
    pub(super) fn refuse_roundings(&mut self, fenced: Option<VolumeEpoch>) {
        for (ticket, lsn) in self.rounding.take_all() {
            let error = match fenced {
                Some(volume_epoch) => RoundError::Fenced { volume_epoch },
                None => RoundError::Unavailable {
                    lsn,
                    reason: "closing".to_owned(),
                },
            };
            self.answer_round(ticket, Err(error));
        }
    }
}
