//! `sixfold volume`: what an operator does to a volume as a whole.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use sixfold::{Cluster, Database, Operation, Options, VOLUME_TOKEN_VARIABLE};
use sixfold_log_format::wire::{Message, RetireVolume};
use sixfold_log_format::{Member, VolumeId};
use sixfold_transport::VolumeToken;

use crate::cluster_dir::ClusterDir;
use crate::verbs::hands::{Hands, View};
use crate::verbs::moves::confirm;
use crate::verbs::outcome::{Outcome, conclude, of_library};
use crate::verbs::plan::running;
use crate::verbs::{WishFlags, not_an_id, run as run_wish};

/// A writer that was heard within this time is alive, or may be: a node that was stopped says so late.
const WRITER_ALIVE_MS: u32 = 5_000;

/// Verbs of `volume`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Create the volume that the cluster names
    Create(CreateArgs),
    /// Show who holds which segment of the volume, and what is being changed about it
    Status(StatusArgs),
    /// Append a protection group
    Grow(GrowArgs),
    /// Drop the volume with everything in it, for ever
    Retire(RetireArgs),
}

/// Flags of `volume create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Pages in a protection group. Default: 10 GiB of pages
    #[arg(long)]
    pages_per_pg: Option<u64>,
    /// Page size, bytes: a power of two up to 8192
    #[arg(long)]
    page_bytes: Option<u32>,
    /// How long old versions stay readable, seconds
    #[arg(long)]
    retention_seconds: Option<u64>,
    /// How long the nodes may take to answer, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// Without a token: every writer's certificate of the cluster opens the volume
    #[arg(long)]
    no_token: bool,
    /// Say whether it would be possible, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Flags of `volume status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Flags of `volume grow`.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    #[command(flatten)]
    wish: WishFlags,
}

/// Flags of `volume retire`.
#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The volume's id, instead of typing it
    #[arg(long, value_name = "ID")]
    volume: Option<String>,
    /// Say what would be dropped, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
pub(crate) fn run(verb: &VolumeVerb) -> Result<()> {
    match verb {
        VolumeVerb::Create(args) => create(args),
        VolumeVerb::Status(args) => status(args),
        VolumeVerb::Grow(args) => run_wish("grow", &args.wish, |_| Ok(Operation::Grow)),
        VolumeVerb::Retire(args) => retire(args),
    }
}

fn create(args: &CreateArgs) -> Result<()> {
    conclude("create", args.dry_run, args.json, async {
        let cluster = ClusterDir::at(&args.dir)?.cluster()?;
        let volume = cluster.volume;
        if args.dry_run {
            let hands = Hands::new(&cluster, "operator")?;
            let view = hands.look().await?;
            hands.close().await;
            ensure!(view.manifest.is_none(), "volume {volume} exists already");
            let silent: Vec<String> = view
                .nodes
                .iter()
                .filter_map(|node| {
                    Some(format!(
                        "{}: {}",
                        node.node.address,
                        node.status.as_ref().err()?
                    ))
                })
                .collect();
            ensure!(
                silent.is_empty() || cluster.nodes.len() > 6,
                "nodes do not answer: {}",
                silent.join("; ")
            );
            return Ok(Outcome::planned(
                "create",
                Vec::new(),
                format!(
                    "volume {volume} would be created on six of {} nodes",
                    cluster.nodes.len() - silent.len()
                ),
            ));
        }
        let told = make_token(&cluster, args.no_token)?;
        let mut options = Options::new(cluster).open_deadline(Duration::from_secs(args.timeout));
        if let Some(pages) = args.pages_per_pg {
            options = options.pages_per_pg(pages);
        }
        if let Some(bytes) = args.page_bytes {
            options = options.page_bytes(bytes);
        }
        if let Some(seconds) = args.retention_seconds {
            options = options.retention(Duration::from_secs(seconds));
        }
        let database = Database::create(options).await.map_err(of_library)?;
        database.close().await;
        Ok(Outcome::done(
            "create",
            format!("created volume {volume}, {told}"),
        ))
    })
}

/// The token of a volume to be created: the one at hand, or a new one in its file. What to tell of it.
fn make_token(cluster: &Cluster, without: bool) -> Result<String> {
    let held = cluster.volume_token()?;
    let path = cluster.volume_token_path();
    if without {
        // Whoever opens the volume would show it, and believe that it is asked for.
        ensure!(
            held.is_none(),
            "--no-token, but there is a token: {} or {VOLUME_TOKEN_VARIABLE}",
            path.display()
        );
        return Ok("which every writer's certificate of this cluster opens".to_owned());
    }
    if held.is_none() {
        VolumeToken::draw().save(&path)?;
    }
    Ok(format!(
        "which opens to the token in {} alone: keep a copy, nothing else opens it",
        match std::env::var_os(VOLUME_TOKEN_VARIABLE) {
            Some(_) => VOLUME_TOKEN_VARIABLE.to_owned(),
            None => path.display().to_string(),
        }
    ))
}

/// The object of `volume status`.
#[derive(Debug, Serialize)]
struct VolumeStatus {
    volume: String,
    volume_epoch: u64,
    membership_epoch: u64,
    /// How long ago any segment heard the writer, milliseconds.
    writer_heard_ms_ago: Option<u32>,
    page_bytes: u32,
    pages_per_pg: u64,
    pgs: Vec<PgStatus>,
    replacements: Vec<ReplacementStatus>,
    nodes: Vec<FleetNode>,
}

#[derive(Debug, Serialize)]
struct PgStatus {
    pg: u32,
    /// Sets that a write has to satisfy.
    sets: usize,
    segments: Vec<MemberStatus>,
}

#[derive(Debug, Serialize)]
struct MemberStatus {
    segment: String,
    node: String,
    az: String,
    joining: bool,
    /// Its node answers and holds it.
    answers: bool,
    claim: Option<u64>,
    scl: Option<u64>,
    writer_heard_ms_ago: Option<u32>,
}

#[derive(Debug, Serialize)]
struct ReplacementStatus {
    pg: u32,
    out: String,
    out_node: String,
    into: String,
    into_node: String,
}

#[derive(Debug, Serialize)]
struct FleetNode {
    node: String,
    az: String,
    address: String,
    /// Segments of this volume that the manifest gives it.
    segments: usize,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent: Option<String>,
}

fn status(args: &StatusArgs) -> Result<()> {
    let looked = look(&args.dir);
    if args.json {
        let object = match &looked {
            Ok(status) => serde_json::to_string(status)?,
            Err(error) => serde_json::to_string(&Outcome::failed("status", error))?,
        };
        if let Ok(status) = &looked {
            print(status)?;
        }
        say!("{object}");
        return looked.map(|_| ());
    }
    print(&looked?)
}

fn look(dir: &Path) -> Result<VolumeStatus> {
    let cluster = ClusterDir::at(dir)?.cluster()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let hands = Hands::new(&cluster, "operator")?;
        let view = hands.look().await;
        hands.close().await;
        status_of(cluster.volume, &view?)
    })
}

fn status_of(volume: VolumeId, view: &View) -> Result<VolumeStatus> {
    let manifest = view.manifest()?;
    let az_of = |node| {
        let mut nodes = view.nodes.iter();
        let found = nodes.find(|view| view.node.node == node);
        found.map_or(String::new(), |view| view.node.az.clone())
    };
    let member = |member: &Member| {
        let probe = view.segment(member.segment);
        MemberStatus {
            segment: member.segment.to_string(),
            node: member.node.to_string(),
            az: az_of(member.node),
            joining: member.joining,
            answers: probe.is_some(),
            claim: probe.map(|probe| probe.claim.get()),
            scl: probe.map(|probe| probe.scl.get()),
            writer_heard_ms_ago: probe.and_then(|probe| probe.writer_heard_ms_ago),
        }
    };
    let pgs = manifest.pgs.iter().map(|entry| PgStatus {
        pg: entry.pg.get(),
        sets: entry.sets.len(),
        segments: entry.members().iter().map(member).collect(),
    });
    let replacements = running(manifest).into_iter();
    let replacements = replacements.map(|(entry, out, into)| ReplacementStatus {
        pg: entry.pg.get(),
        out: out.segment.to_string(),
        out_node: out.node.to_string(),
        into: into.segment.to_string(),
        into_node: into.node.to_string(),
    });
    let held = |node| {
        let members = manifest.pgs.iter().flat_map(|entry| entry.members());
        members.filter(|member| member.node == node).count()
    };
    let nodes = view.nodes.iter().map(|view| FleetNode {
        node: view.node.node.to_string(),
        az: view.node.az.clone(),
        address: view.node.address.to_string(),
        segments: held(view.node.node),
        silent: view.status.as_ref().err().cloned(),
    });
    Ok(VolumeStatus {
        volume: volume.to_string(),
        volume_epoch: manifest.version.volume_epoch.get(),
        membership_epoch: manifest.version.membership_epoch.get(),
        writer_heard_ms_ago: view.writer_heard_ms_ago(),
        page_bytes: manifest.parameters.page_bytes,
        pages_per_pg: manifest.parameters.pages_per_pg,
        pgs: pgs.collect(),
        replacements: replacements.collect(),
        nodes: nodes.collect(),
    })
}

fn print(status: &VolumeStatus) -> Result<()> {
    let heard = match status.writer_heard_ms_ago {
        Some(ms) => format!("writer heard {ms} ms ago"),
        None => "no writer was heard".to_owned(),
    };
    say!(
        "volume {} manifest {}.{} {heard}",
        status.volume,
        status.volume_epoch,
        status.membership_epoch
    );
    for pg in &status.pgs {
        let sets = match pg.sets {
            1 => String::new(),
            sets => format!(" {sets} sets in force"),
        };
        say!("pg {}{sets}", pg.pg);
        for segment in &pg.segments {
            let scl = segment
                .scl
                .map_or("silent".to_owned(), |scl| format!("scl {scl}"));
            say!(
                "  segment {} node {} {} {scl}{}",
                segment.segment,
                segment.node,
                segment.az,
                if segment.joining { " joining" } else { "" }
            );
        }
    }
    for change in &status.replacements {
        say!(
            "replacing pg {} segment {} of node {} by {} on node {}",
            change.pg,
            change.out,
            change.out_node,
            change.into,
            change.into_node
        );
    }
    for node in &status.nodes {
        let silent = node.silent.as_ref();
        say!(
            "node {} {} {} {} segments{}",
            node.node,
            node.az,
            node.address,
            node.segments,
            silent.map_or(String::new(), |why| format!(" silent: {why}"))
        );
    }
    Ok(())
}

fn retire(args: &RetireArgs) -> Result<()> {
    conclude("retire", args.dry_run, args.json, async {
        let cluster = ClusterDir::at(&args.dir)?.cluster()?;
        let volume = cluster.volume;
        let named = args.volume.as_deref();
        let named = named.map(|id| VolumeId::from_hex(id).with_context(|| not_an_id(id)));
        if let Some(named) = named.transpose()? {
            ensure!(
                named == volume,
                "the cluster's volume is {volume}, not {named}"
            );
        }
        let hands = Hands::new(&cluster, "operator")?;
        let outcome = retire_volume(args, &hands).await;
        hands.close().await;
        outcome
    })
}

/// What would be dropped; an error where it must not be.
fn what_goes(volume: VolumeId, view: &View) -> Result<String> {
    // What is retired by halves already has no manifest left, maybe, but segments may be.
    let held: usize = view.nodes.iter().map(|node| node.segments.len()).sum();
    if held == 0 {
        view.manifest()?;
    }
    if let Some(ms) = view
        .writer_heard_ms_ago()
        .filter(|&ms| ms < WRITER_ALIVE_MS)
    {
        bail!("volume {volume} is in use: its writer was heard {ms} ms ago");
    }
    let silent: Vec<String> = view
        .nodes
        .iter()
        .filter_map(|node| {
            let why = node.status.as_ref().err()?;
            Some(format!(
                "node {} {}: {why}",
                node.node.node, node.node.address
            ))
        })
        .collect();
    ensure!(
        silent.is_empty(),
        "every node has to answer, since one that does not keeps its segments: {}",
        silent.join("; ")
    );
    Ok(format!(
        "{held} segments of volume {volume} on {} nodes",
        view.nodes.len()
    ))
}

async fn retire_volume(args: &RetireArgs, hands: &Rc<Hands>) -> Result<Outcome> {
    let volume = hands.volume();
    let view = hands.look().await?;
    let text = what_goes(volume, &view)?;
    if args.dry_run {
        return Ok(Outcome::planned(
            "retire",
            Vec::new(),
            format!("would drop {text}"),
        ));
    }
    if args.volume.is_none() {
        confirm(
            &format!("This drops {text}, and all that is in it, for ever"),
            &volume.to_string(),
            "--volume ID",
        )?;
    }
    let retire = Message::RetireVolume(RetireVolume { volume });
    let mut failed = Vec::new();
    for (node, answer) in hands.call_all(&retire).await? {
        match answer {
            Ok(Message::Done) => {}
            Ok(Message::Refused(refusal)) => failed.push(format!("node {}: {refusal}", node.node)),
            Ok(_) => failed.push(format!("node {}: answered with something else", node.node)),
            Err(error) => failed.push(format!(
                "node {}: {}",
                node.node,
                crate::in_one_line(&error)
            )),
        }
    }
    ensure!(
        failed.is_empty(),
        "not retired everywhere, do it again: {}",
        failed.join("; ")
    );
    let nodes = view.nodes.len() as u64;
    Ok(Outcome {
        done: nodes,
        of: nodes,
        ..Outcome::done("retire", format!("dropped {text}"))
    })
}
