//! A reopening and a survey, from the options of a database to what the machine found.

use std::rc::Rc;
use std::time::Duration;

use sixfold_log_format::limits::{IN_USE_MS, READ_LEASE_MS};
use sixfold_log_format::{NodeId, VolumeEpoch, WriterId};
use sixfold_recovery::machine::survey::{Survey, SurveyOptions, Surveyed};
use sixfold_recovery::machine::{Caller, Opened, Recovery, RecoveryOptions};

use super::clock;
use super::links::Links;
use super::machine::{drive, explain};
use crate::error::Error;
use crate::options::Options;
use crate::random;

/// Whom a reopening respects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Respect {
    /// A writer that was heard so lately is alive and left alone (T11); `None` = it is fenced.
    pub(crate) alive: Option<Duration>,
    /// Nodes whose segments are lost for good (R19).
    pub(crate) lost: Vec<NodeId>,
    /// A standby: the highest epoch that it had seen when its writer was gone.
    pub(crate) watched: Option<VolumeEpoch>,
}

impl Respect {
    /// A writer that is alive is left alone.
    pub(crate) fn the_living() -> Respect {
        Respect {
            alive: Some(Duration::from_millis(IN_USE_MS)),
            lost: Vec::new(),
            watched: None,
        }
    }

    /// Nobody is.
    pub(crate) fn nobody() -> Respect {
        Respect {
            alive: None,
            lost: Vec::new(),
            watched: None,
        }
    }
}

/// Reopens the volume; gives up when no write quorum answered by `limit`.
///
/// # Errors
/// What the machine says; [`Error::Config`] as soon as it is clear that certificates are the trouble.
pub(crate) async fn recover(
    links: &Rc<Links>,
    options: &Options,
    respect: &Respect,
    limit: Duration,
) -> Result<Opened, Error> {
    let machine_options = RecoveryOptions {
        volume: options.cluster.volume,
        nodes: links.nodes(),
        writer: WriterId::from_bytes(random::bytes()),
        take_over: respect.alive.is_none(),
        in_use: respect.alive.unwrap_or_default(),
        declare_lost: respect.lost.clone(),
        deadline: limit,
        lease: Duration::from_millis(READ_LEASE_MS),
        seed: u64::from_le_bytes(random::bytes()),
        caller: match respect.watched {
            Some(volume_epoch) => Caller::Standby { volume_epoch },
            None => Caller::Stranger,
        },
    };
    let mut machine = Recovery::new(machine_options, clock::now());
    let outcome = drive(links, &mut machine, limit).await?;
    outcome.map_err(|error| explain(error.into(), links))
}

/// Finds the point at which the volume can be read without a writer (R23).
///
/// # Errors
/// What the machine says; [`Error::Config`] as soon as it is clear that certificates are the trouble.
pub(crate) async fn survey(
    links: &Rc<Links>,
    options: &Options,
    limit: Duration,
) -> Result<Surveyed, Error> {
    let machine_options = SurveyOptions {
        volume: options.cluster.volume,
        nodes: links.nodes(),
        deadline: limit,
    };
    let mut machine = Survey::new(&machine_options, clock::now());
    let outcome = drive(links, &mut machine, limit).await?;
    outcome.map_err(|error| explain(error.into(), links))
}
