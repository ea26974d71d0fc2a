//! LMDB, through heed.

use std::ops::Bound;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, WithoutTls};

use crate::draw::KeyName;
use crate::embedded::{Store, groups};
use crate::points::{PointRun, Round, run};

/// The most that its file may grow to, bytes.
const MAP_BYTES: usize = 32 << 30;
/// Readers at once.
const READERS_MAX: u32 = 2_048;
/// Rows of a transaction of the load.
const ROWS_PER_COMMIT: u64 = 10_000;

pub(crate) struct Lmdb {
    env: Env<WithoutTls>,
    table: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    pub(crate) fn open(dir: &Path) -> Result<Lmdb> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_readers(READERS_MAX);
        // SAFETY: the directory is this process's own, made for this run: nobody else maps or changes the file.
        #[allow(unsafe_code)]
        let env = unsafe { options.open(dir) }?;
        let table = env
            .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
                let table = opener.create_database(transaction, None)?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(table))
            })?
            .unwrap_commit();
        Ok(Lmdb { env, table })
    }
}

impl Store for Lmdb {
    fn version(&self) -> String {
        let version = heed::lmdb_version();
        format!(
            "LMDB {}.{}.{} (heed 0.23)",
            version.major, version.minor, version.patch
        )
    }

    fn settings(&self) -> String {
        "memory map, synced commits, one writer at a time, reads in one transaction without copies"
            .to_owned()
    }

    fn commit(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        self.table.put(&mut transaction, key, value)?;
        Ok(transaction.commit()?)
    }

    fn load(&self, keys: u64, value: &dyn Fn(u64) -> Vec<u8>) -> Result<()> {
        for group in groups(keys, ROWS_PER_COMMIT) {
            let mut transaction = self.env.write_txn()?;
            for number in group {
                self.table.put(
                    &mut transaction,
                    KeyName::of(number).as_ref(),
                    &value(number),
                )?;
            }
            transaction.commit()?;
        }
        Ok(())
    }

    fn reads(&self, round: Round, keys: u64, value_bytes: usize) -> Result<PointRun> {
        let limit = usize::try_from(round.keys_per_read)?;
        run(round, keys, &|| {
            let transaction = self.env.read_txn()?;
            Ok(move |number| {
                let key = KeyName::of(number);
                if limit == 1 {
                    let found = self.table.get(&transaction, key.as_ref())?;
                    let value = found.with_context(|| format!("key {number} is missing"))?;
                    ensure!(value.len() == value_bytes, "another value");
                    return Ok(1);
                }
                let range = (Bound::Included(key.as_ref()), Bound::Unbounded);
                let mut found = 0;
                for item in self.table.range(&transaction, &range)?.take(limit) {
                    ensure!(item?.1.len() == value_bytes, "another value");
                    found += 1;
                }
                Ok(found)
            })
        })
    }
}
