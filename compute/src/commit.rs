//! From a transaction that has ended to its answer: one hop to the writer's thread and one back.

use std::sync::Arc;

use sixfold_compute_core::{CommitRequest, ReadPoint, WriteSet};
use sixfold_log_format::Lsn;
use tracing::Instrument;

use crate::database::Inner;
use crate::driver::clock;
use crate::driver::commands::{Command, Holds};
use crate::error::Error;
use crate::keyspace;
use crate::read::ReadLimit;
use crate::reads::Reads;
use crate::space::Named;
use crate::token::Token;

/// A commit that is durable on a write quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its LSN: the version of everything that it put. For a transaction that wrote nothing, its read point. For one whose
    /// token was committed before, the LSN of that commit.
    pub lsn: Lsn,
}

/// A transaction that is to be committed.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) inner: Arc<Inner>,
    pub(crate) point: Arc<ReadPoint>,
    pub(crate) writes: WriteSet,
    pub(crate) reads: Reads,
    /// About what it takes in memory.
    pub(crate) bytes: usize,
    pub(crate) token: Option<Token>,
    /// Whether the token is closed by a run that wrote nothing, too: no later run with it is applied then.
    pub(crate) closes_token: bool,
    /// Keyspaces that it writes to and that were not looked up yet.
    pub(crate) keyspaces: Vec<Arc<Named>>,
    pub(crate) limit: ReadLimit,
}

impl Attempt {
    /// Commits it, once.
    ///
    /// # Errors
    /// Those of [`Transaction::commit`](crate::Transaction::commit).
    pub(crate) async fn run(self) -> Result<CommitInfo, Error> {
        self.prepare().await?.run().await
    }

    /// Looks up what has to be known before it can be sent.
    pub(crate) async fn prepare(mut self) -> Result<Prepared, Error> {
        let inner = &self.inner;
        // It saw one state, which was the current one when it began: nothing is left to be checked. A token that the user
        // holds is closed in any case: an earlier try may be on its way still.
        let closes_token = self.closes_token && self.token.is_some();
        let is_read_only = self.writes.is_empty() && !closes_token;
        if is_read_only {
            inner.state.check_open()?;
        } else {
            inner.state.check_writable()?;
            for named in &self.keyspaces {
                let row = keyspace::check(inner, &self.point, named, self.limit).await?;
                self.reads.note_key(&row)?;
            }
        }
        let request = CommitRequest {
            read_point: self.point.lsn(),
            read_keys: self.reads.keys.into_iter().collect(),
            read_ranges: self.reads.ranges,
            writes: self.writes,
            token: self.token.map(|token| token.0),
            earliest_deadline_ms: self.reads.earliest_deadline_ms,
            deadline: inner.commit_until(),
        };
        Ok(Prepared {
            inner: self.inner,
            point: self.point,
            request,
            bytes: self.bytes,
            is_read_only,
        })
    }
}

/// A commit that may be sent, and sent again.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    inner: Arc<Inner>,
    point: Arc<ReadPoint>,
    request: CommitRequest,
    bytes: usize,
    is_read_only: bool,
}

impl Prepared {
    /// Sends it and waits for the answer.
    ///
    /// # Errors
    /// Those of [`Transaction::commit`](crate::Transaction::commit).
    pub(crate) async fn run(mut self) -> Result<CommitInfo, Error> {
        let inner = &self.inner;
        if self.is_read_only {
            return Ok(CommitInfo {
                lsn: self.point.lsn(),
            });
        }
        let called_at = clock::now();
        self.request.deadline = inner.commit_until();
        let holds = Holds {
            read_point: self.point,
            // What waits for the writer is bounded in bytes: each waits here until there is room for it. Those before
            // it end by their deadlines, so that this ends, too.
            room: inner.room_for(self.bytes).await,
        };
        let request = self.request;
        // A span costs nothing while nobody listens to it.
        let span = tracing::debug_span!(target: "sixfold::commit", "commit", bytes = self.bytes);
        let work = async {
            inner
                .send(|answer| Command::Commit {
                    request,
                    holds,
                    answer,
                })
                .await
        };
        let answered = work.instrument(span.clone()).await?;
        match answered.instrument(span).await {
            Ok((result, answered_at)) => {
                let lsn = result?;
                let (now, meters) = (clock::now(), &inner.state.meters);
                meters.wake.count(now.saturating_sub(answered_at));
                meters.commit.count(now.saturating_sub(called_at));
                Ok(CommitInfo { lsn })
            }
            Err(_) => Err(Error::Unknown {
                reason: inner.state.gone().to_string(),
            }),
        }
    }
}
