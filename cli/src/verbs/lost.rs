//! `sixfold node replace --declare-lost`: the one unsafe verb (R19). Where three copies of a protection group are destroyed nothing that is
//! safe helps; an operator's word does, at the price of what only the lost copies held.

use anyhow::{Result, bail};

use super::WishFlags;
use super::outcome::conclude;

/// Declares nodes lost, and reopens the volume on the others.
pub(crate) fn declare(flags: &WishFlags, _node: Option<&str>, _yes_i_know: bool) -> Result<()> {
    conclude("declare-lost", flags.dry_run, flags.json, async {
        bail!("--declare-lost is not built yet")
    })
}
