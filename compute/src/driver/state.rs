//! How the database stands, for every thread that holds it.

use std::sync::OnceLock;

use sixfold_log_format::VolumeEpoch;

use super::meters::Meters;
use crate::error::Error;

/// Open, fenced, or closed for a reason. Each is said once and stays.
#[derive(Debug, Default)]
pub(crate) struct State {
    fenced: OnceLock<VolumeEpoch>,
    closed: OnceLock<String>,
    /// How long commits and fetches take.
    pub(crate) meters: Meters,
}

impl State {
    /// Another writer holds the volume. The first to say so counts.
    pub(crate) fn fence(&self, volume_epoch: VolumeEpoch) {
        let _ = self.fenced.set(volume_epoch);
    }

    /// Nothing is taken any more. The first reason counts.
    pub(crate) fn close(&self, reason: impl Into<String>) {
        let _ = self.closed.set(reason.into());
    }

    /// A close ends everything. A fence ends no reads by itself: pages that are in memory serve fixed points still, and
    /// whatever misses is answered [`Error::Fenced`], since the segments refuse a reader of another history.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match self.closed.get() {
            Some(reason) => Err(Error::Closed {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Transactions end with a fence.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Fenced`].
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        self.check_open()?;
        match self.fenced.get() {
            Some(&volume_epoch) => Err(Error::Fenced { volume_epoch }),
            None => Ok(()),
        }
    }

    /// Whether another writer holds the volume.
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.get().is_some()
    }

    /// What to say when the driver went away without an answer.
    pub(crate) fn gone(&self) -> Error {
        match self.check_open() {
            Err(error) => error,
            Ok(()) => Error::Closed {
                reason: "its thread ended".to_owned(),
            },
        }
    }
}
