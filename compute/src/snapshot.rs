//! Snapshots: reading at one point, without conflicts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::ReadPoint;
use sixfold_log_format::Lsn;

use crate::database::Inner;
use crate::error::Error;
use crate::estimate::{self, Estimate};
use crate::keyspace::{self, Keyspace};
use crate::range::{KeyRange, Range};
use crate::read::{self, ReadLimit};
use crate::space::Space;

/// The volume as of one commit. Cheap to clone. While it lives, what it can see is kept: it may live for hours, and
/// [`Stats`](crate::Stats) shows what it holds back.
///
/// It never conflicts, never waits for a writer, and no writer waits for it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    inner: Arc<Inner>,
    point: Arc<ReadPoint>,
    space: Space,
    limit: ReadLimit,
}

impl Snapshot {
    pub(crate) fn new(inner: Arc<Inner>, point: ReadPoint) -> Snapshot {
        Snapshot {
            space: inner.space.clone(),
            inner,
            point: Arc::new(point),
            limit: ReadLimit::default(),
        }
    }

    /// The same point, over the keys of another keyspace. One that was not there yet, or not there any more, holds nothing.
    #[must_use]
    pub fn within(&self, keyspace: &Keyspace) -> Snapshot {
        self.within_space(keyspace.space().clone())
    }

    pub(crate) fn within_space(&self, space: Space) -> Snapshot {
        Snapshot {
            space,
            ..self.clone()
        }
    }

    /// The names of the keyspaces that were there, sorted; the default one has no name.
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub async fn keyspaces(&self) -> Result<Vec<String>, Error> {
        keyspace::names_at(self, &self.inner).await
    }

    /// The same point, over the keys of the keyspace of this name; `None` when there was none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty name or one above 128 bytes; those of [`Snapshot::get`].
    pub async fn within_name(&self, name: &str) -> Result<Option<Snapshot>, Error> {
        keyspace::snapshot_of(self, &self.inner, name).await
    }

    /// The same point; reads through this handle wait at most this long for storage nodes, instead of
    /// [`Options::read_deadline`](crate::Options::read_deadline).
    #[must_use]
    pub fn with_read_deadline(&self, limit: Duration) -> Snapshot {
        Snapshot {
            limit: ReadLimit(Some(limit)),
            ..self.clone()
        }
    }

    /// The point: it sees the commits at or below it.
    pub fn lsn(&self) -> Lsn {
        self.point.lsn()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key, [`Error::Unavailable`], [`Error::TooOld`], [`Error::Closed`].
    /// [`Error::Fenced`] once another writer has taken the volume over and a page is not in memory.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        Ok(self.get_versioned(key).await?.map(|(value, _)| value))
    }

    /// The value of a key and its version: the LSN of the commit that put it.
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub async fn get_versioned(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<(Bytes, Lsn)>, Error> {
        let key = self.space.lookup_key(key.as_ref())?;
        let found = read::get(&self.inner, &self.point, self.limit, &key).await?;
        Ok(found.map(|found| (found.value, found.stamp)))
    }

    /// The values of keys, in the order of the keys: what is not in memory is fetched together.
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let keys: Vec<_> = keys
            .into_iter()
            .map(|key| self.space.lookup_key(key.as_ref()))
            .collect::<Result<_, _>>()?;
        let found = read::get_many(&self.inner, &self.point, self.limit, &keys).await?;
        Ok(found
            .into_iter()
            .map(|found| found.map(|found| found.value))
            .collect())
    }

    /// The keys and values of a range, ascending. See [`Range`].
    pub fn range(&self, range: impl KeyRange) -> Range {
        Range::of_snapshot(
            Arc::clone(&self.inner),
            Arc::clone(&self.point),
            self.space.clone(),
            self.limit,
            range,
        )
    }

    /// About how many keys a range holds, and how many bytes.
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub async fn estimate(&self, range: impl KeyRange) -> Result<Estimate, Error> {
        let bounds = range.into_bounds();
        estimate::of(&self.inner, &self.point, &self.space, self.limit, bounds).await
    }
}
