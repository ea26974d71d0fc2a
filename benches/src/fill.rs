//! Rows before a measure: so many keys, put in order, many in a commit.

use anyhow::{Context, Result};
use sixfold::Database;

use crate::draw::KeyName;

/// Rows in a commit.
const ROWS_PER_COMMIT: u64 = 500;
/// Commits side by side.
const LOADERS: usize = 4;

/// A value of this length that is not all one byte.
pub fn value(number: u64, value_bytes: usize) -> Vec<u8> {
    number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(value_bytes)
        .collect()
}

/// Puts the keys `0..keys`.
///
/// # Errors
/// When a commit fails.
pub async fn rows(database: &Database, keys: u64, value_bytes: usize) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for loader in 0..LOADERS {
        let database = database.clone();
        tasks.spawn_local(async move {
            let groups = keys.div_ceil(ROWS_PER_COMMIT);
            for group in (0..groups).skip(loader).step_by(LOADERS) {
                let transaction = database.begin().await?;
                let first = group * ROWS_PER_COMMIT;
                for number in first..(first + ROWS_PER_COMMIT).min(keys) {
                    transaction.put(KeyName::of(number), value(number, value_bytes))?;
                }
                transaction
                    .commit()
                    .await
                    .context("a load's commit failed")?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a loader failed")??;
    }
    Ok(())
}
