//! RocksDB, the system's library as the other peers are the system's servers.

use std::path::Path;

use ::rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch,
    WriteOptions,
};
use anyhow::{Context, Result, ensure};

use crate::draw::KeyName;
use crate::embedded::{Store, groups};
use crate::points::{PointRun, Round, run};

/// Rows of a batch of the load.
const ROWS_PER_COMMIT: u64 = 1_000;

pub(crate) struct Rocksdb {
    database: DB,
    synced: WriteOptions,
    cache_mib: usize,
}

impl Rocksdb {
    pub(crate) fn open(dir: &Path, cache_mib: usize) -> Result<Rocksdb> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(cache_mib << 20)?);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::None);
        options.set_block_based_table_factory(&blocks);
        let database = DB::open(&options, dir.join("kv.rocksdb"))?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Rocksdb {
            database,
            synced,
            cache_mib,
        })
    }
}

impl Store for Rocksdb {
    fn version(&self) -> String {
        // Its C interface does not say; the name of the library that is mapped does.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let library = maps.split("librocksdb.so.").nth(1);
        let number = library.and_then(|rest| rest.lines().next());
        format!(
            "RocksDB {} (rocksdb 0.20)",
            number.unwrap_or("of the system")
        )
    }

    fn settings(&self) -> String {
        format!(
            "block cache {} MiB, no compression, synced writes; loaded rows are compacted before reads, which \
             are pinned and not copied",
            self.cache_mib
        )
    }

    fn commit(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.database.put_opt(key, value, &self.synced)?)
    }

    fn load(&self, keys: u64, value: &dyn Fn(u64) -> Vec<u8>) -> Result<()> {
        for group in groups(keys, ROWS_PER_COMMIT) {
            let mut batch = WriteBatch::default();
            for number in group {
                batch.put(KeyName::of(number).as_ref(), value(number));
            }
            self.database.write(batch)?;
        }
        self.database.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn reads(&self, round: Round, keys: u64, value_bytes: usize) -> Result<PointRun> {
        let limit = usize::try_from(round.keys_per_read)?;
        run(round, keys, &|| {
            Ok(move |number| {
                let key = KeyName::of(number);
                if limit == 1 {
                    let found = self.database.get_pinned(key.as_ref())?;
                    let value = found.with_context(|| format!("key {number} is missing"))?;
                    ensure!(value.len() == value_bytes, "another value");
                    return Ok(1);
                }
                let from = IteratorMode::From(key.as_ref(), Direction::Forward);
                let mut found = 0;
                for item in self.database.iterator(from).take(limit) {
                    ensure!(item?.1.len() == value_bytes, "another value");
                    found += 1;
                }
                Ok(found)
            })
        })
    }
}
