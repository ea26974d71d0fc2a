//! redb.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::draw::KeyName;
use crate::embedded::{Store, groups};
use crate::points::{PointRun, Round, run};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");
/// Rows of a transaction of the load.
const ROWS_PER_COMMIT: u64 = 1_000;

pub(crate) struct Redb {
    database: Database,
    cache_mib: usize,
}

impl Redb {
    pub(crate) fn open(dir: &Path, cache_mib: usize) -> Result<Redb> {
        let database = Database::builder()
            .set_cache_size(cache_mib << 20)
            .create(dir.join("kv.redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        Ok(Redb {
            database,
            cache_mib,
        })
    }
}

impl Store for Redb {
    fn version(&self) -> String {
        "redb 4".to_owned()
    }

    fn settings(&self) -> String {
        format!(
            "cache {} MiB, immediate durability, one writer at a time, reads in one transaction without copies",
            self.cache_mib
        )
    }

    fn commit(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(TABLE)?.insert(key, value)?;
        Ok(transaction.commit()?)
    }

    fn load(&self, keys: u64, value: &dyn Fn(u64) -> Vec<u8>) -> Result<()> {
        for group in groups(keys, ROWS_PER_COMMIT) {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(redb::Durability::None)?;
            {
                let mut table = transaction.open_table(TABLE)?;
                for number in group {
                    table.insert(KeyName::of(number).as_ref(), value(number).as_slice())?;
                }
            }
            transaction.commit()?;
        }
        Ok(())
    }

    fn reads(&self, round: Round, keys: u64, value_bytes: usize) -> Result<PointRun> {
        let limit = usize::try_from(round.keys_per_read)?;
        run(round, keys, &|| {
            let table = self.database.begin_read()?.open_table(TABLE)?;
            Ok(move |number| {
                let key = KeyName::of(number);
                if limit == 1 {
                    let found = table.get(key.as_ref())?;
                    let value = found.with_context(|| format!("key {number} is missing"))?;
                    ensure!(value.value().len() == value_bytes, "another value");
                    return Ok(1);
                }
                let mut found = 0;
                for item in table.range(key.as_ref()..)?.take(limit) {
                    ensure!(item?.1.value().len() == value_bytes, "another value");
                    found += 1;
                }
                Ok(found)
            })
        })
    }
}
