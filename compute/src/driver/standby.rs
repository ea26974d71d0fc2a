//! A standby's thread until it is the writer's: watches, and opens when the writer is gone. Connections stay open meanwhile, so that
//! the opening begins with its first message.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sixfold_recovery::machine::follow::{Follow, FollowOptions};

use super::bridge::Bridge;
use super::links::Links;
use super::machine::drive;
use super::recovery::Respect;
use super::state::State;
use super::{Mode, Opening, clock, open};
use crate::error::Error;
use crate::options::Options;
use crate::random;
use crate::standby::StandbyOptions;

/// One question to one node.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// When and why a standby opened the volume.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detected {
    /// For how long the writer had been silent.
    pub(crate) silent: Duration,
    /// When it was declared gone.
    pub(crate) at: Duration,
}

/// Waits until the writer is gone, and opens. `hold`: for so long it only watches.
///
/// # Errors
/// What no waiting heals: certificates, corruption, a full history.
pub(super) async fn open_when_gone(
    links: &Rc<Links>,
    options: &Options,
    watch: StandbyOptions,
    hold: Duration,
    state: &Arc<State>,
) -> Result<(Rc<Bridge>, Opening), Error> {
    let follow_options = FollowOptions {
        volume: options.cluster.volume,
        nodes: links.nodes(),
        patience: watch.patience,
        poll: watch.poll,
        hold_down: watch.hold_down,
        hold_down_max: watch.hold_down_max,
        seed: u64::from_le_bytes(random::bytes()),
    };
    let mut follow = Follow::new(follow_options, clock::now());
    follow.hold_until(clock::now().saturating_add(hold));
    loop {
        let silent = drive(links, &mut follow, ASK_LIMIT).await?;
        let detected = Detected {
            silent,
            at: clock::now(),
        };
        tracing::info!(?silent, "the writer is gone, opening");
        let respect = Respect {
            alive: Some(watch.patience),
            lost: Vec::new(),
            watched: Some(follow.volume_epoch()),
        };
        match open(links, options, &Mode::Open(respect), state).await {
            Ok((bridge, opening)) => {
                let detected = Some(detected);
                return Ok((
                    bridge,
                    Opening {
                        detected,
                        ..opening
                    },
                ));
            }
            Err(
                error @ (Error::InUse { .. }
                | Error::Fenced { .. }
                | Error::Unavailable { .. }
                | Error::NoVolume { .. }),
            ) => {
                tracing::info!(%error, "could not open, watching on");
                state.check_writable()?;
                follow.stand_back(clock::now());
            }
            Err(error) => return Err(error),
        }
    }
}
