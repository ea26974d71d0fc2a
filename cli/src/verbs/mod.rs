//! The verbs of operators that concern a whole volume: `sixfold volume`, and those of `sixfold node` that move segments.
//!
//! ```text
//! flags -> plan (what would go where) -> follow (leave the wish, hear of it; without a writer: open, act, close) -> outcome
//! ```

pub(crate) mod add;
pub(crate) mod follow;
pub(crate) mod hands;
pub(crate) mod lost;
pub(crate) mod moves;
pub(crate) mod outcome;
pub(crate) mod plan;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use sixfold::{Cluster, Operation};
use sixfold_log_format::NodeId;

use self::follow::Errand;
use self::hands::Hands;
use self::outcome::{Outcome, conclude};
use crate::cluster_dir::ClusterDir;

/// Flags of every verb that has the writer do something.
#[derive(Debug, Args)]
pub(crate) struct WishFlags {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Give up waiting after this long, seconds; what was begun goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) timeout: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Plans an operation, and has it done unless it is a dry run.
pub(crate) fn run(
    verb: &'static str,
    flags: &WishFlags,
    operation: impl FnOnce(&Cluster) -> Result<Operation>,
) -> Result<()> {
    conclude(verb, flags.dry_run, flags.json, async {
        let cluster = ClusterDir::at(&flags.dir)?.cluster()?;
        let operation = operation(&cluster)?;
        let hands = Hands::new(&cluster, "operator")?;
        let outcome = plan_and_do(verb, flags, &cluster, &hands, operation).await;
        hands.close().await;
        outcome
    })
}

/// The same with connections at hand.
pub(crate) async fn plan_and_do(
    verb: &'static str,
    flags: &WishFlags,
    cluster: &Cluster,
    hands: &Rc<Hands>,
    operation: Operation,
) -> Result<Outcome> {
    if flags.dry_run {
        let moves = plan::plan(&hands.look().await?, &operation)?;
        let text = match moves.is_empty() {
            true => "nothing would be moved",
            false => "nothing was done",
        };
        return Ok(Outcome::planned(verb, moves, text));
    }
    let errand = Errand {
        verb,
        cluster,
        hands,
        operation,
        limit: Duration::from_secs(flags.timeout),
    };
    follow::run(&errand).await
}

/// The node's id from its hexadecimal digits.
pub(crate) fn node_id(text: &str) -> Result<NodeId> {
    NodeId::from_hex(text).with_context(|| not_an_id(text))
}

/// What to say of digits that are no id.
pub(crate) fn not_an_id(text: &str) -> String {
    format!("{text:?} is not 32 hexadecimal digits")
}
