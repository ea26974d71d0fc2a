//! Handles of those who are not, or not yet, the writer: see [`crate::ReadOnly`] and [`crate::Standby`].

use bytes::Bytes;

use super::{Database, Range, Snapshot, wait};
use crate::{AsOf, Error, FailoverReport, KeyRange, Options, StandbyOptions};

/// See [`crate::ReadOnly`].
#[derive(Debug, Clone)]
pub struct ReadOnly(crate::ReadOnly);

/// See [`crate::Standby`].
#[derive(Debug)]
pub struct Standby(crate::Standby);

impl Database {
    /// See [`crate::Database::open_read_only`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn open_read_only(options: Options) -> Result<ReadOnly, Error> {
        wait(crate::Database::open_read_only(options)).map(ReadOnly)
    }

    /// See [`crate::Database::standby`].
    pub fn standby(options: Options, watch: StandbyOptions) -> Standby {
        Standby(crate::Database::standby(options, watch))
    }
}

impl ReadOnly {
    /// See [`crate::ReadOnly::as_of`].
    pub fn as_of(&self) -> AsOf {
        self.0.as_of()
    }

    /// See [`crate::ReadOnly::snapshot`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.snapshot())
    }

    /// See [`crate::ReadOnly::keyspace`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn keyspace(&self, name: &str) -> Result<Option<Snapshot>, Error> {
        Ok(wait(self.0.keyspace(name))?.map(Snapshot))
    }

    /// See [`crate::ReadOnly::get`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        wait(self.0.get(key))
    }

    /// See [`crate::ReadOnly::range`].
    pub fn range(&self, range: impl KeyRange) -> Range {
        Range(self.0.range(range))
    }

    /// See [`crate::ReadOnly::refresh`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn refresh(&self) -> Result<ReadOnly, Error> {
        wait(self.0.refresh()).map(ReadOnly)
    }

    /// See [`crate::ReadOnly::close`].
    ///
    /// # Errors
    /// [`Error::Invalid`] inside a runtime.
    pub fn close(&self) -> Result<(), Error> {
        wait(async {
            self.0.close().await;
            Ok(())
        })
    }
}

impl Standby {
    /// See [`crate::Standby::opened`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn opened(&mut self) -> Result<(Database, FailoverReport), Error> {
        let (database, report) = wait(self.0.opened())?;
        Ok((Database(database), report))
    }
}
