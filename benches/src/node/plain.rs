//! What the device does alone: `O_DIRECT | O_DSYNC` writes and reads through the same ring, one at a time.

use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sixfold_storage_node::uring::{Completion, Ring, Watch};
use sixfold_storage_node_core::{DiskToken, IoBuf};

use crate::bare_node::{BARE_FILE_BYTES, prepare_file};

/// A pre-zeroed file, written around and around.
pub(crate) struct Plain {
    ring: Ring,
    watch: Watch,
    file: Rc<File>,
    offset: u64,
    ended: Vec<Completion>,
}

impl Plain {
    pub(crate) fn new(path: &Path) -> Result<Plain> {
        let ring = Ring::new().context("io_uring")?;
        let watch = ring.watch()?;
        Ok(Plain {
            ring,
            watch,
            file: Rc::new(prepare_file(path)?),
            offset: 0,
            ended: Vec::new(),
        })
    }

    /// Writes `count` times `bytes`, each when the one before is durable.
    pub(crate) async fn append(&mut self, count: usize, bytes: usize) -> Result<()> {
        for _ in 0..count {
            let mut buf = IoBuf::zeroed(bytes);
            buf.as_mut().fill(0x5a);
            if self.offset + bytes as u64 > BARE_FILE_BYTES {
                self.offset = 0;
            }
            self.ring
                .write(DiskToken(0), Rc::clone(&self.file), self.offset, buf);
            self.offset += bytes as u64;
            self.complete().await?;
        }
        Ok(())
    }

    /// Reads `bytes` from the block that a drawn number picks.
    pub(crate) async fn read(&mut self, drawn: u64, bytes: u32) -> Result<()> {
        let block = drawn % (BARE_FILE_BYTES / u64::from(bytes));
        let offset = block * u64::from(bytes);
        self.ring
            .read(DiskToken(0), Rc::clone(&self.file), offset, bytes);
        self.complete().await
    }

    async fn complete(&mut self) -> Result<()> {
        self.ring.submit()?;
        while self.ended.is_empty() {
            self.watch.signaled().await?;
            self.ring.reap(&mut self.ended)?;
        }
        match self.ended.pop() {
            Some(
                Completion::Written { result: Ok(()), .. } | Completion::Read { result: Ok(_), .. },
            ) => Ok(()),
            _ => bail!("the device failed"),
        }
    }
}

/// Seconds that `count` writes of `bytes` take, each durable before the next, into a file at `path` that was zeroed before.
///
/// # Errors
/// The device's.
pub async fn plain_append(path: &Path, count: usize, bytes: usize) -> Result<f64> {
    let mut plain = Plain::new(path)?;
    let begun = Instant::now();
    plain.append(count, bytes).await?;
    Ok(begun.elapsed().as_secs_f64())
}
