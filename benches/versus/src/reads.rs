//! Rows to be read, in rounds that the parent asks for.

use std::io::BufRead;

use anyhow::{Context, Result};

use crate::outcome::Outcome;
use crate::points::Round;
use crate::{ReadArgs, embedded, say};

/// Loads the rows, says that they are there, and runs a round for each line of standard input.
pub(crate) fn run(args: &ReadArgs) -> Result<()> {
    let loaded = embedded::open(&args.system, &args.dir, args.cache_mib).and_then(|store| {
        store.load(args.keys, &|number| {
            let bytes = number.to_le_bytes();
            bytes.into_iter().cycle().take(args.value_bytes).collect()
        })?;
        Ok(store)
    });
    let store = match Outcome::of(loaded)? {
        Outcome::Row(store) => store,
        Outcome::Skipped(why) => {
            return say("ready", &Ok(Outcome::<String>::Skipped(why)));
        }
    };
    let about = format!("{}: {}", store.version(), store.settings());
    say("ready", &Ok(Outcome::Row(about)))?;
    for line in std::io::stdin().lock().lines() {
        let round: Round = serde_json::from_str(&line?).context("not a round")?;
        say("round", &store.reads(round, args.keys, args.value_bytes))?;
    }
    Ok(())
}
