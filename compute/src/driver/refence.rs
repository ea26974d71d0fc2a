//! A writer opens its own volume again in place, at a higher epoch (R8): a dead rival's claims had left it with just a write quorum.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use sixfold_log_format::limits::READ_LEASE_MS;
use sixfold_log_format::{PgId, VolumeEpoch, VolumeId, WriterId};
use sixfold_recovery::machine::{Caller, Opened, Recovery, RecoveryError, RecoveryOptions};

use super::clock;
use super::links::Links;
use super::machine::drive;
use crate::random;

/// How long one attempt may take; the core tries again.
const LIMIT: Duration = Duration::from_secs(5);
/// Segments whose answer is needed, for an error that comes before any was asked.
const WRITE_QUORUM: usize = 4;

/// Reopens under a writer id of its own. Its own streams are down by now, so that nobody is fenced but it. `volume_epoch`: the one at
/// which it is open, so that a successor is left alone. `attempts`: what it did before of this kind; this one is added.
///
/// # Errors
/// What the machine says.
pub(super) async fn refence(
    links: &Rc<Links>,
    volume: VolumeId,
    volume_epoch: VolumeEpoch,
    attempts: &mut BTreeSet<VolumeEpoch>,
) -> Result<Box<Opened>, RecoveryError> {
    let options = RecoveryOptions {
        volume,
        nodes: links.nodes(),
        writer: WriterId::from_bytes(random::bytes()),
        take_over: true,
        in_use: Duration::ZERO,
        declare_lost: Vec::new(),
        deadline: LIMIT,
        lease: Duration::from_millis(READ_LEASE_MS),
        seed: u64::from_le_bytes(random::bytes()),
        caller: Caller::Owner {
            volume_epoch,
            attempts: attempts.clone(),
        },
    };
    let mut machine = Recovery::new(options, clock::now());
    let driven = drive(links, &mut machine, LIMIT).await;
    attempts.extend(machine.attempts());
    match driven {
        Ok(outcome) => outcome.map(Box::new),
        Err(error) => {
            tracing::warn!(%volume, %volume_epoch, %error, "cannot open the volume again in place, tries again: commits wait until then; `sixfold volume status` names the silent nodes");
            Err(RecoveryError::Unavailable {
                pg: PgId::ROOT,
                answered: 0,
                needed: WRITE_QUORUM,
            })
        }
    }
}
