//! Reads on the caller's thread, against the pages in memory; pages that are missing are fetched by the driver, all that are
//! known to be needed at once, and the read runs again.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{PageView, ReadPoint};
use sixfold_kv::{Found, KvError};
use sixfold_log_format::Page;

use crate::database::Inner;
use crate::driver::clock;
use crate::driver::commands::Command;
use crate::error::Error;
use crate::options::Options;

/// Keys that are looked up together.
const KEYS_TOGETHER_MAX: usize = 64;

/// How long one read may wait for storage nodes; `None` = as the database's options say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReadLimit(pub(crate) Option<Duration>);

impl ReadLimit {
    /// For the first page of an opening that began at `begin`: what is left of the time to open, and no less than any read has.
    pub(crate) fn of_opening(options: &Options, begin: Duration) -> ReadLimit {
        let until = begin.saturating_add(options.open_deadline);
        let left = until.saturating_sub(clock::now());
        ReadLimit(Some(left.max(options.read_deadline)))
    }
}

/// Pages that may stay held from one operation to the next.
const HELD_COUNT_MAX: usize = 64;

/// The pages as of a read point, and those that were fetched for it.
#[derive(Debug)]
pub(crate) struct Pages {
    view: PageView,
    held_count: usize,
}

impl Pages {
    pub(crate) fn new(point: &ReadPoint) -> Pages {
        Pages {
            view: point.view(),
            held_count: 0,
        }
    }

    /// Between two operations: lets go of what was fetched, when it is much. What was read ahead survives mostly.
    pub(crate) fn trim(&mut self) {
        if self.held_count > HELD_COUNT_MAX {
            self.view.release();
            self.held_count = 0;
        }
    }
}

/// Runs a tree operation on pages as of one read point until every page that it needs is there. What it fetched stays
/// in `pages`, so that it ends however small the cache is, and whatever others evict (R30).
///
/// # Errors
/// [`Error::Unavailable`] when pages were not there in time, [`Error::TooOld`], [`Error::Fenced`], [`Error::Corrupt`],
/// [`Error::Closed`].
pub(crate) async fn run<T>(
    inner: &Inner,
    pages: &mut Pages,
    limit: ReadLimit,
    operation: impl Fn(&PageView) -> Result<T, KvError>,
) -> Result<T, Error> {
    inner.state.check_open()?;
    let mut deadline = None;
    loop {
        let missing = match operation(&pages.view) {
            Ok(result) => return Ok(result),
            Err(KvError::Miss(missing)) => missing,
            Err(error) => return Err(failed(&error)),
        };
        let deadline = *deadline.get_or_insert_with(|| inner.read_until(limit));
        let lsn = pages.view.lsn();
        let wanted = missing.clone();
        let fetched: Vec<Arc<Page>> = inner
            .ask(|answer| Command::Fetch {
                pages: wanted,
                lsn,
                deadline,
                answer,
            })
            .await??;
        // Else this would go round for ever.
        assert!(
            fetched.iter().any(|page| missing.contains(&page.id())),
            "none of the pages asked for came"
        );
        pages.held_count += fetched.len();
        for page in fetched {
            pages.view.hold(page);
        }
    }
}

/// What users are told of a tree operation that cannot end.
fn failed(error: &KvError) -> Error {
    match error {
        KvError::Invalid(_) => Error::invalid(error.to_string()),
        KvError::Corrupt { .. } => Error::Corrupt {
            what: error.to_string(),
        },
        KvError::Full { .. } => Error::Full,
        KvError::Miss(_) => unreachable!("what is missing is fetched"),
    }
}

/// Looks a key up at a read point.
pub(crate) async fn get(
    inner: &Inner,
    point: &ReadPoint,
    limit: ReadLimit,
    key: &[u8],
) -> Result<Option<Found>, Error> {
    inner.state.check_open()?;
    // Mostly every page is there: nothing is made that only a fetch needs.
    match sixfold_kv::get(point, key) {
        Ok(found) => return Ok(found),
        Err(KvError::Miss(_)) => {}
        Err(error) => return Err(failed(&error)),
    }
    get_fetching(inner, point, limit, key).await
}

/// [`get`], when a page is missing.
async fn get_fetching(
    inner: &Inner,
    point: &ReadPoint,
    limit: ReadLimit,
    key: &[u8],
) -> Result<Option<Found>, Error> {
    run(inner, &mut Pages::new(point), limit, |pages| {
        sixfold_kv::get(pages, key)
    })
    .await
}

/// Looks keys up at a read point: what is missing for some of them is fetched together.
pub(crate) async fn get_many(
    inner: &Inner,
    point: &ReadPoint,
    limit: ReadLimit,
    keys: &[impl Deref<Target = [u8]>],
) -> Result<Vec<Option<Found>>, Error> {
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(KEYS_TOGETHER_MAX) {
        // The pages of one group are held at a time.
        let mut pages = Pages::new(point);
        run(inner, &mut pages, limit, |pages| {
            let keys = keys.iter().map(|key| &**key);
            let missing = sixfold_kv::missing(pages, keys, KEYS_TOGETHER_MAX)?;
            if missing.is_empty() {
                Ok(())
            } else {
                Err(KvError::Miss(missing))
            }
        })
        .await?;
        for key in keys {
            let get = run(inner, &mut pages, limit, |pages| {
                sixfold_kv::get(pages, key)
            });
            found.push(get.await?);
        }
    }
    Ok(found)
}
