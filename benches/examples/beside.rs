//! Scratch: the node beside its own work, alone.
#![allow(clippy::all, clippy::pedantic, clippy::restriction, missing_docs)]
use std::time::Duration;
fn main() -> anyhow::Result<()> {
    let seconds: u64 = std::env::args().nth(1).unwrap().parse()?;
    let dir = std::path::PathBuf::from(std::env::args().nth(2).unwrap());
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let options = sixfold_benches::node::BesideOptions {
        time: Duration::from_secs(seconds),
        appends_per_second: 800,
        reads_per_second: 500,
        scrub_bytes: 1 << 20,
        background_bytes_per_second: 0,
    };
    let out = local.block_on(&rt, sixfold_benches::node::run_beside(&dir, &options))?;
    println!("{out:#?}");
    Ok(())
}
