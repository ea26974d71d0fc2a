//! The public error: each variant is named by what the caller should do.

use sixfold_compute_core::{CommitError, FetchError, RoundError};
use sixfold_log_format::{Lsn, VolumeEpoch, VolumeId};
use sixfold_recovery::machine::RecoveryError;
use sixfold_recovery::machine::survey::SurveyError;

/// What went wrong, by what to do about it.
///
/// | error | what to do |
/// |---|---|
/// | [`Conflict`](Error::Conflict), [`TooOld`](Error::TooOld) | run the transaction again, with a new read point |
/// | [`Unavailable`](Error::Unavailable) | try again after a pause |
/// | [`Unknown`](Error::Unknown) | run it again with the same token, or read |
/// | [`Fenced`](Error::Fenced), [`Closed`](Error::Closed) | open again, or stop |
/// | [`Invalid`](Error::Invalid), [`Config`](Error::Config), [`TokenTooOld`](Error::TokenTooOld) | fix the caller |
/// | [`Corrupt`](Error::Corrupt), [`Full`](Error::Full), [`HistoryFull`](Error::HistoryFull) | call somebody |
///
/// Only [`Error::Unknown`] leaves open whether a commit happened. Every other error of
/// [`Transaction::commit`](crate::Transaction::commit) says that this run wrote nothing, so that running the transaction
/// again is safe (T2). Of an earlier run with the same token, whose outcome was unknown, it says nothing: run it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that the transaction read was changed by another commit. Nothing was written: begin again.
    #[error(
        "conflict: something read at {read_point} was changed at {changed_at}; run the transaction again"
    )]
    Conflict {
        /// The transaction's read point.
        read_point: Lsn,
        /// The commit that changed it.
        changed_at: Lsn,
    },
    /// The read point is older than what is kept. Begin again, or take a newer snapshot.
    #[error("read point {read_point} is too old, the oldest is {oldest}")]
    TooOld {
        /// The read point asked for.
        read_point: Lsn,
        /// The oldest that would do.
        oldest: Lsn,
    },
    /// The moment is older than what is kept. Take a newer one.
    #[error(
        "time {unix_ms} ms is too old, the oldest remembered is {oldest_unix_ms} ms at {oldest}"
    )]
    TimeTooOld {
        /// The moment asked for, wall-clock milliseconds.
        unix_ms: u64,
        /// The oldest that would do.
        oldest_unix_ms: u64,
        /// The point that belongs to it.
        oldest: Lsn,
    },
    /// The token was drawn before what is remembered of tokens. This try wrote nothing; whether an earlier one did cannot be
    /// told by its token any more. Find out by reading.
    #[error("the token was drawn at {birth}, tokens are remembered from {horizon} on")]
    TokenTooOld {
        /// When it was drawn.
        birth: Lsn,
        /// The oldest that would do.
        horizon: Lsn,
    },
    /// The commit got as far as the storage nodes, and whether it is durable is not known. A later reader sees it whole
    /// or not at all. Running it again may apply it twice, unless it has a token
    /// ([`begin_with_token`](crate::Database::begin_with_token)); `transact` uses one by itself.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// Another writer has taken the volume over. This database can do nothing more: open again, or stop.
    #[error("fenced: another writer holds the volume at epoch {volume_epoch}")]
    Fenced {
        /// Its epoch.
        volume_epoch: VolumeEpoch,
    },
    /// The call makes no sense: a key or value too long, a transaction that is too large or has ended, a number where there
    /// is none. Nothing was written. Fix the caller.
    #[error("invalid: {what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// Not possible now: too few storage nodes answered in time. Nothing was written: try again later.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// What was missing.
        reason: String,
    },
    /// `open` found another writer alive. Stop that one, or [`take_over`](crate::Database::take_over).
    #[error("the volume is in use: its writer was heard {heard_ms_ago} ms ago")]
    InUse {
        /// When a storage node last heard it.
        heard_ms_ago: u32,
    },
    /// `create` found the volume there and in use already. Open it.
    #[error("volume {volume} exists already")]
    Exists {
        /// The volume.
        volume: VolumeId,
    },
    /// `open` found no such volume on the nodes. Create it, or name other nodes.
    #[error("volume {volume} does not exist on these nodes")]
    NoVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// The volume has no room left.
    #[error("the volume is full")]
    Full,
    /// The volume was reopened so often that its history has no room for another annulled range: it cannot be opened for writing
    /// any more.
    #[error(
        "the history is full: it lists {ranges} annulled ranges, and this reopening would add one"
    )]
    HistoryFull {
        /// How many it lists.
        ranges: usize,
    },
    /// Bytes are not what they must be. Call somebody.
    #[error("corrupt: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// The database was closed, or closed itself after an internal error.
    #[error("the database is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
    /// Settings, files or certificates are wrong. Nothing was touched.
    #[error("{what}")]
    Config {
        /// Which, and what is wrong with it.
        what: String,
    },
}

impl Error {
    /// Whether running the whole transaction again is safe and may succeed: true for [`Error::Conflict`] and
    /// [`Error::TooOld`] (at once) and [`Error::Unavailable`] (after a pause). [`Error::Unknown`] is not: it may already
    /// have happened.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Error::Conflict { .. } | Error::TooOld { .. } | Error::Unavailable { .. }
        )
    }

    /// Whether a commit may have happened or not: true for [`Error::Unknown`].
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::Unknown { .. })
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Error {
        Error::Invalid { what: what.into() }
    }

    pub(crate) fn config(what: impl Into<String>) -> Error {
        Error::Config { what: what.into() }
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Error {
        Error::Unavailable {
            reason: reason.into(),
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Error {
        match error {
            CommitError::Conflict {
                read_point,
                changed_at,
            } => Error::Conflict {
                read_point,
                changed_at,
            },
            CommitError::TooOld { read_point, oldest } => Error::TooOld { read_point, oldest },
            CommitError::Unavailable { reason } => Error::Unavailable { reason },
            CommitError::Unknown { reason } => Error::Unknown { reason },
            CommitError::TooLarge { .. } => Error::invalid(error.to_string()),
            CommitError::TokenTooOld { birth, horizon } => Error::TokenTooOld { birth, horizon },
            CommitError::Invalid { reason } => Error::invalid(reason),
            CommitError::Fenced { volume_epoch } => Error::Fenced { volume_epoch },
            CommitError::Full => Error::Full,
            CommitError::Corrupt { what } => Error::Corrupt { what },
        }
    }
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Error {
        match error {
            FetchError::Unavailable { .. } => Error::Unavailable {
                reason: error.to_string(),
            },
            FetchError::Forgotten { lsn, oldest } => Error::TooOld {
                read_point: lsn,
                oldest,
            },
            FetchError::Fenced { volume_epoch } => Error::Fenced { volume_epoch },
            FetchError::Corrupt { .. } => Error::Corrupt {
                what: error.to_string(),
            },
        }
    }
}

impl From<RoundError> for Error {
    fn from(error: RoundError) -> Error {
        match error {
            RoundError::AboveVdl { .. } => Error::invalid(error.to_string()),
            RoundError::Unavailable { .. } => Error::unavailable(error.to_string()),
            RoundError::Forgotten { lsn, oldest } => Error::TooOld {
                read_point: lsn,
                oldest,
            },
            RoundError::Fenced { volume_epoch } => Error::Fenced { volume_epoch },
        }
    }
}

impl From<RecoveryError> for Error {
    fn from(error: RecoveryError) -> Error {
        match error {
            RecoveryError::InUse { heard_ms_ago } => Error::InUse { heard_ms_ago },
            RecoveryError::NoVolume { volume } => Error::NoVolume { volume },
            RecoveryError::Unavailable { .. } => Error::Unavailable {
                reason: error.to_string(),
            },
            RecoveryError::Fenced { volume_epoch } => Error::Fenced { volume_epoch },
            RecoveryError::HistoryFull { ranges } => Error::HistoryFull { ranges },
            RecoveryError::NeedlessLoss | RecoveryError::Loss(_) => {
                Error::invalid(error.to_string())
            }
            RecoveryError::Corrupt(cut) => Error::Corrupt {
                what: cut.to_string(),
            },
        }
    }
}

impl From<SurveyError> for Error {
    fn from(error: SurveyError) -> Error {
        match error {
            SurveyError::NoVolume { volume } => Error::NoVolume { volume },
            SurveyError::Unavailable { .. }
            | SurveyError::Behind { .. }
            | SurveyError::Undecided { .. } => Error::unavailable(error.to_string()),
            SurveyError::Corrupt(cut) => Error::Corrupt {
                what: cut.to_string(),
            },
        }
    }
}
