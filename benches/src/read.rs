//! Point reads and scans of what is in the page cache, on the callers' threads, from one snapshot.

use anyhow::{Context, Result, ensure};
use sixfold::blocking::Snapshot;

use crate::draw::KeyName;
use crate::points::{PointRun, Round, run as run_points};

/// Runs a round over the keys `0..keys`, which must be there with values of this length. Not to be called from an async
/// runtime's thread.
///
/// # Errors
/// When a read fails.
pub fn run(snapshot: &Snapshot, round: Round, keys: u64, value_bytes: usize) -> Result<PointRun> {
    if round.keys_per_read == 1 {
        return run_points(round, keys, &|| {
            let snapshot = snapshot.clone();
            Ok(move |number| {
                let value = snapshot.get(KeyName::of(number))?;
                let value = value.with_context(|| format!("key {number} is missing"))?;
                ensure!(
                    value.len() == value_bytes,
                    "a value of {} bytes",
                    value.len()
                );
                Ok(1)
            })
        });
    }
    let limit = usize::try_from(round.keys_per_read)?;
    run_points(round, keys, &|| {
        let snapshot = snapshot.clone();
        Ok(move |number| {
            let first = KeyName::of(number);
            let mut found = 0;
            for item in snapshot.range(first.as_ref()..).limit(limit) {
                let (_, value) = item?;
                ensure!(
                    value.len() == value_bytes,
                    "a value of {} bytes",
                    value.len()
                );
                found += 1;
            }
            Ok(found)
        })
    })
}
