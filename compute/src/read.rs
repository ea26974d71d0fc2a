//! Reads on the caller's thread, against the pages in memory; a page that is missing is fetched by the driver, and the read
//! runs again.

use bytes::Bytes;
use sixfold_compute_core::{PageView, ReadPoint};
use sixfold_kv::{Found, KvError, PageSource};
use sixfold_log_format::PageId;
use sixfold_log_format::limits::KEY_BYTES_MAX;

use crate::database::Inner;
use crate::driver::commands::Command;
use crate::error::Error;

/// Runs a tree operation at a read point until every page that it needs is there.
pub(crate) async fn run<T>(
    inner: &Inner,
    point: &ReadPoint,
    operation: impl Fn(&PageView) -> Result<T, KvError>,
) -> Result<T, Error> {
    inner.state.check_open()?;
    // Pages that it fetched stay with it, so that it ends however small the cache is, and whatever others evict (R30).
    let mut pages = point.view();
    let mut deadline = None;
    loop {
        let page = match operation(&pages) {
            Ok(result) => return Ok(result),
            Err(KvError::Miss(page)) => page,
            Err(error @ KvError::Corrupt { .. }) => {
                return Err(Error::Corrupt {
                    what: error.to_string(),
                });
            }
            Err(KvError::Full { .. }) => return Err(Error::Full),
        };
        let deadline = *deadline.get_or_insert_with(|| inner.read_until());
        let lsn = point.lsn();
        let fetched = inner
            .ask(|answer| Command::Fetch {
                page,
                lsn,
                deadline,
                answer,
            })
            .await??;
        assert!(
            fetched.id() == page,
            "asked for page {page}, got {}",
            fetched.id()
        );
        pages.hold(fetched);
    }
}

/// Looks a key up at a read point.
pub(crate) async fn get(
    inner: &Inner,
    point: &ReadPoint,
    key: &[u8],
) -> Result<Option<Found>, Error> {
    run(inner, point, |pages| {
        let found = sixfold_kv::get(pages, key)?;
        found.map_or(Ok(None), |found| unless_expired(pages, found))
    })
    .await
}

/// A value whose deadline has passed by the volume's clock as of the read point is not there (T5).
pub(crate) fn unless_expired(
    pages: &impl PageSource,
    found: Found,
) -> Result<Option<Found>, KvError> {
    let Some(deadline_ms) = found.deadline_ms else {
        return Ok(Some(found));
    };
    let clock_ms = pages
        .page(PageId::META)
        .ok_or(KvError::Miss(PageId::META))?
        .clock_ms();
    Ok((clock_ms < deadline_ms).then_some(found))
}

/// Checks a key of the user's.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::invalid("the key is empty")),
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(Error::invalid(format!(
            "the key has {len} bytes, {KEY_BYTES_MAX} at most"
        ))),
    }
}

/// Checks a key of the user's and takes it.
pub(crate) fn own_key(key: impl AsRef<[u8]>) -> Result<Bytes, Error> {
    check_key(key.as_ref())?;
    Ok(Bytes::copy_from_slice(key.as_ref()))
}
