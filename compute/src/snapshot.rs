//! Snapshots: reading at one point, without conflicts.

use std::sync::Arc;

use bytes::Bytes;
use sixfold_compute_core::ReadPoint;
use sixfold_log_format::Lsn;

use crate::database::Inner;
use crate::error::Error;
use crate::range::{KeyRange, Range};
use crate::read;

/// The volume as of one commit. Cheap to clone. While it lives, what it can see is kept.
#[derive(Debug, Clone)]
pub struct Snapshot {
    inner: Arc<Inner>,
    point: Arc<ReadPoint>,
}

impl Snapshot {
    pub(crate) fn new(inner: Arc<Inner>, point: ReadPoint) -> Snapshot {
        Snapshot {
            inner,
            point: Arc::new(point),
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

    /// The value of a key and the LSN of the commit that put it.
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub async fn get_versioned(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<(Bytes, Lsn)>, Error> {
        let key = read::own_key(key)?;
        let found = read::get(&self.inner, &self.point, &key).await?;
        Ok(found.map(|found| (found.value, found.stamp)))
    }

    /// The keys and values of a range, ascending. See [`Range`].
    pub fn range(&self, range: impl KeyRange) -> Range {
        Range::of_snapshot(Arc::clone(&self.inner), Arc::clone(&self.point), range)
    }
}
