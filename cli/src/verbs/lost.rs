//! `sixfold node replace --declare-lost`: the one unsafe verb (R19). Where three copies of a protection group are destroyed nothing that is
//! safe helps; an operator's word that they are does, and everything then depends on its being true.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sixfold::{Cluster, Database, Error, Operation, Options};
use sixfold_log_format::{Manifest, NodeId};

use super::WishFlags;
use super::follow::{Display, watch};
use super::hands::{Hands, View};
use super::moves::confirm;
use super::outcome::{Outcome, conclude, of_library, timeout_text};
use super::plan;
use crate::cluster_dir::ClusterDir;

/// What has to be typed.
const WORD: &str = "lost";
/// When the writer said that there is no place, and nothing was begun for so long, nothing can be.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// When it said nothing: it looks for a while whether all survivors keep up before it begins.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long the survivors may take to answer.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Declares nodes lost, reopens the volume on the others, and builds anew what can be.
pub(crate) fn declare(flags: &WishFlags, nodes: &[NodeId], yes_i_know: bool) -> Result<()> {
    conclude("declare-lost", flags.dry_run, flags.json, async {
        let cluster = ClusterDir::at(&flags.dir)?.cluster()?;
        let hands = Hands::new(&cluster, "operator")?;
        let outcome = declare_lost(flags, &cluster, &hands, nodes, yes_i_know).await;
        hands.close().await;
        outcome
    })
}

async fn declare_lost(
    flags: &WishFlags,
    cluster: &Cluster,
    hands: &Rc<Hands>,
    nodes: &[NodeId],
    yes_i_know: bool,
) -> Result<Outcome> {
    let view = hands.look().await?;
    let manifest = view.manifest()?.clone();
    let meaning = meaning(&view, &manifest, nodes)?;
    if flags.dry_run {
        let text = format!("{meaning}. Nothing was done");
        return Ok(Outcome::planned("declare-lost", Vec::new(), text));
    }
    if !yes_i_know {
        confirm(&meaning, WORD, "--yes-i-know")?;
    }
    let mut known = cluster.clone();
    known.nodes = hands.nodes();
    let options = Options::new(known).open_deadline(OPEN_LIMIT);
    let database = Database::open_declaring_lost(options, nodes)
        .await
        .map_err(of_library)?;
    let limit = Duration::from_secs(flags.timeout);
    let rebuilt = tokio::time::timeout(limit, rebuild(&database, nodes)).await;
    database.close().await;
    let mut text = match rebuilt {
        Ok(rebuilt) => rebuilt.map_err(of_library)?,
        Err(_) => vec![timeout_text(limit, "the next writer finishes it")],
    };
    let mut outcome = Outcome {
        by: Some("this process"),
        ..Outcome::done("declare-lost", "")
    };
    if let Some(after) = hands.look().await?.manifest {
        for entry in &after.pgs {
            let copies = entry.members();
            let copies = copies.iter().filter(|member| !member.joining);
            let copies = copies.filter(|member| !entry.removed.contains(&member.segment));
            match copies.count() {
                6.. => {}
                count => text.push(format!("protection group {} has {count} copies", entry.pg)),
            }
        }
        outcome.moves = plan::difference(&manifest, &after);
    }
    text.insert(0, "the volume lives on without the lost nodes".to_owned());
    outcome.text = text.join("; ");
    Ok(outcome)
}

/// What the operator is about to do, group by group; an error where it makes no sense.
fn meaning(view: &View, manifest: &Manifest, nodes: &[NodeId]) -> Result<String> {
    let mut groups = Vec::new();
    for entry in &manifest.pgs {
        let members = entry.members();
        let (lost, left): (Vec<_>, Vec<_>) = members
            .iter()
            .partition(|member| nodes.contains(&member.node));
        let answer = |member: &&&sixfold_log_format::Member| view.segment(member.segment).is_some();
        let silent = left.len() - left.iter().filter(answer).count();
        ensure!(
            silent == 0 || left.len() - silent >= 3,
            "protection group {} has only {} survivors that answer, three are needed",
            entry.pg,
            left.len() - silent
        );
        if !lost.is_empty() {
            groups.push(format!(
                "protection group {} goes on with {} of {} copies",
                entry.pg,
                left.len(),
                members.len()
            ));
        }
    }
    for node in nodes {
        let answers = view
            .nodes
            .iter()
            .any(|view| view.node.node == *node && view.status.is_ok());
        ensure!(!answers, "node {node} answers: it is not lost");
    }
    ensure!(
        !groups.is_empty(),
        "the nodes named hold nothing of the volume"
    );
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    Ok(format!(
        "UNSAFE: declares destroyed: node {}. Do this only to nodes that are gone for good: one that is merely cut off from here may \
         still serve a writer, whose reads are then stale, and whatever it holds is refused for ever, also when it comes back. {}",
        names.join(", node "),
        groups.join("; ")
    ))
}

/// Builds the lost segments anew, where there are spares, and brings groups that were re-formed back to six. Returns why it could not.
async fn rebuild(database: &Database, nodes: &[NodeId]) -> Result<Vec<String>, Error> {
    let mut display = Display::new();
    let mut troubles = Vec::new();
    for &node in nodes {
        // A group that was re-formed does not name it any more; one that can be written without it does. Nothing is placed there again.
        let operation = Operation::Drain { node };
        let progress = database.admin().start(&operation).await?;
        let state = watch(progress, &mut display).await?;
        if !state.is_done {
            troubles.push(format!("node {node} is not replaced: {}", state.text));
        }
    }
    troubles.extend(until_six(database, &mut display).await?);
    display.end();
    Ok(troubles)
}

/// Waits until every group has six copies, as far as there are nodes for them: the writer sees to it by itself.
async fn until_six(database: &Database, display: &mut Display) -> Result<Option<String>, Error> {
    let mut idle_since = Instant::now();
    loop {
        let membership = database.admin().membership().await?;
        let Some(&(pg, held)) = membership.short.first() else {
            return Ok(None);
        };
        let _unread = display.show(
            held as u64,
            6,
            &format!("protection group {pg} has {held} copies of 6"),
        );
        if !membership.reshapes.is_empty() {
            idle_since = Instant::now();
        } else {
            let mut why = membership.refusals.iter().rev();
            let why = why.find(|text| text.contains("copies"));
            let limit = why.map_or(QUIET_LIMIT, |_| IDLE_LIMIT);
            if idle_since.elapsed() >= limit {
                return Ok(why.cloned());
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
