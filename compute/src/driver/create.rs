//! Makes a volume: asks the nodes what they hold, chooses six of them, mints the identities of the segments (R12), and has each of
//! the six make its own. Repeatable: a creation that broke off is finished with the identities that it minted (R25).

use std::rc::Rc;
use std::time::Duration;

use sixfold_log_format::limits::SEGMENTS_PER_SET_MAX;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{CreateSegment, Message, Probe, ProbeAnswer, Refusal};
use sixfold_log_format::{
    Manifest, ManifestVersion, Member, MemberKind, MembershipEpoch, NodeId, PgEntry, PgId,
    QuorumModel, SegmentId, SegmentSet, TokenDigest, VolumeEpoch, VolumeParameters,
};
use sixfold_recovery::membership::{Load, place_group};
use tokio::time::Instant;

use super::links::{LinkError, Links};
use crate::error::Error;
use crate::options::Options;
use crate::random;

const RETRY_PAUSE: Duration = Duration::from_millis(50);
const CALL_LIMIT: Duration = Duration::from_secs(3);

/// Makes the volume's six segments. In a fleet of more than six nodes those that do not answer are left out.
///
/// # Errors
/// [`Error::Exists`] when it was opened before, [`Error::Unavailable`] unless six nodes answer, two in each of three zones,
/// [`Error::Config`].
pub(crate) async fn create(
    links: &Rc<Links>,
    options: &Options,
    limit: Duration,
) -> Result<(), Error> {
    let until = Instant::now() + limit;
    let fleet = fleet(links, options).await?;
    let usable = fleet.iter().filter(|load| load.usable);
    let nodes: Vec<NodeId> = usable.map(|load| load.node).collect();
    let probe = Message::Probe(Probe {
        volume: options.cluster.volume,
    });
    let questions = nodes
        .into_iter()
        .map(|node| (node, probe.clone()))
        .collect();
    let mut found = None;
    for (node, answer) in ask_all(links, questions, until).await? {
        let Message::ProbeAnswer(answer) = answer else {
            return Err(unexpected(node, &answer));
        };
        note_manifest(&mut found, answer, options)?;
    }
    let manifest = match found {
        Some(manifest) => *manifest,
        None => {
            let hosts =
                place_group(&fleet).map_err(|error| Error::unavailable(error.to_string()))?;
            let token = options.cluster.volume_token()?;
            let digest = token.map(|token| token.digest(options.cluster.volume));
            first_manifest(options, &hosts, digest, || {
                SegmentId::from_bytes(random::bytes())
            })
        }
    };
    let entry = manifest.pg(PgId::ROOT).expect("a first manifest has PG 0");
    let wanted = entry.members().into_iter().map(|member| {
        let create = CreateSegment {
            segment: member.segment,
            pg: PgId::ROOT,
            manifest: manifest.clone(),
        };
        (member.node, Message::CreateSegment(Box::new(create)))
    });
    for (node, answer) in ask_all(links, wanted.collect(), until).await? {
        match answer {
            Message::Done => {}
            Message::Refused(Refusal::Exists) => {
                return Err(Error::Exists {
                    volume: options.cluster.volume,
                });
            }
            other => return Err(unexpected(node, &other)),
        }
    }
    Ok(())
}

/// The nodes with what each carries already. All six of six count as usable: each is waited for. Of more, those that answer at once do.
async fn fleet(links: &Rc<Links>, options: &Options) -> Result<Vec<Load>, Error> {
    let nodes = &options.cluster.nodes;
    let mut loads: Vec<Load> = nodes
        .iter()
        .map(|node| Load {
            node: node.node,
            az: node.az.clone(),
            segments: 0,
            usable: true,
        })
        .collect();
    if loads.len() <= SEGMENTS_PER_SET_MAX {
        return Ok(loads);
    }
    let mut asked = tokio::task::JoinSet::new();
    for (index, load) in loads.iter().enumerate() {
        let (links, node) = (Rc::clone(links), load.node);
        asked.spawn_local(async move {
            (
                index,
                links.call(node, &Message::AskStatus, CALL_LIMIT).await,
            )
        });
    }
    while let Some(ended) = asked.join_next().await {
        let (index, answer) = ended.expect("asking does not panic");
        let load = &mut loads[index];
        match answer {
            Ok(Message::NodeStatus(status)) => load.segments = status.segments.len(),
            Err(LinkError::Certificate(line)) => return Err(Error::config(line)),
            _ => load.usable = false,
        }
    }
    Ok(loads)
}

/// What a node holds of the volume may only be a creation that broke off, and one and the same everywhere.
fn note_manifest(
    found: &mut Option<Box<Manifest>>,
    answer: ProbeAnswer,
    options: &Options,
) -> Result<(), Error> {
    let exists = Error::Exists {
        volume: options.cluster.volume,
    };
    let claimed = answer.segments.iter().any(|segment| {
        segment.claim > VolumeEpoch::CREATION || segment.history_epoch > VolumeEpoch::CREATION
    });
    if claimed {
        return Err(exists);
    }
    let Some(manifest) = answer.manifest else {
        return Ok(());
    };
    let ours = manifest.version.volume_epoch <= VolumeEpoch::CREATION
        && names_these_nodes(&manifest, options);
    match found {
        _ if !ours => Err(exists),
        Some(known) if *known != manifest => Err(exists),
        _ => {
            *found = Some(manifest);
            Ok(())
        }
    }
}

fn names_these_nodes(manifest: &Manifest, options: &Options) -> bool {
    let Some(entry) = manifest.pg(PgId::ROOT) else {
        return false;
    };
    let ours = |node: NodeId| options.cluster.nodes.iter().any(|ours| ours.node == node);
    entry.members().iter().all(|member| ours(member.node))
}

/// The volume's first manifest: one PG, a full segment at each of these nodes. `mint` gives each segment its identity.
pub(crate) fn first_manifest(
    options: &Options,
    hosts: &[NodeId],
    token: Option<TokenDigest>,
    mut mint: impl FnMut() -> SegmentId,
) -> Manifest {
    let cluster = &options.cluster;
    let member = |node| Member {
        segment: mint(),
        node,
        kind: MemberKind::Full,
        joining: false,
    };
    let members = hosts.iter().copied().map(member).collect();
    let hints = cluster.nodes.iter().map(|node| NodeHint {
        node: node.node,
        az: node.az.clone(),
        address: node.address.to_string(),
    });
    Manifest {
        version: ManifestVersion {
            volume_epoch: VolumeEpoch::CREATION,
            membership_epoch: MembershipEpoch::new(1),
        },
        volume: cluster.volume,
        parameters: VolumeParameters {
            token,
            ..options.parameters.clone()
        },
        pgs: vec![PgEntry {
            pg: PgId::ROOT,
            sets: vec![SegmentSet {
                model: QuorumModel::FourOfSix,
                members,
            }],
            removed: Vec::new(),
        }],
        hints: hints.collect(),
    }
}

/// Asks every node its question at once, and again until it answers.
async fn ask_all(
    links: &Rc<Links>,
    questions: Vec<(NodeId, Message)>,
    until: Instant,
) -> Result<Vec<(NodeId, Message)>, Error> {
    let mut asked = tokio::task::JoinSet::new();
    let count = questions.len();
    for (node, question) in questions {
        let links = Rc::clone(links);
        asked.spawn_local(async move { (node, ask_until(&links, node, &question, until).await) });
    }
    let mut answers = Vec::with_capacity(count);
    while let Some(ended) = asked.join_next().await {
        let (node, answer) = ended.expect("asking does not panic");
        match answer {
            Ok(answer) => answers.push((node, answer)),
            Err(LinkError::Certificate(line)) => return Err(Error::config(line)),
            Err(LinkError::Unreachable(line)) => {
                return Err(Error::unavailable(format!(
                    "all six storage nodes are needed to create a volume: {line}"
                )));
            }
        }
    }
    Ok(answers)
}

async fn ask_until(
    links: &Links,
    node: NodeId,
    question: &Message,
    until: Instant,
) -> Result<Message, LinkError> {
    loop {
        let outcome = links.call(node, question, CALL_LIMIT).await;
        let over = Instant::now() + RETRY_PAUSE >= until;
        match outcome {
            Ok(Message::Refused(Refusal::Overloaded)) if !over => {}
            Err(LinkError::Unreachable(_)) if !over => {}
            other => return other,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn unexpected(node: NodeId, answer: &Message) -> Error {
    match answer {
        Message::Refused(refusal @ Refusal::Token) => {
            Error::config(format!("node {node} refused: {refusal}"))
        }
        Message::Refused(refusal) => Error::unavailable(format!("node {node} refused: {refusal}")),
        _ => Error::Corrupt {
            what: format!("node {node} gave an answer of the wrong kind"),
        },
    }
}
