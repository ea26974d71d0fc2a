//! Drives a reopening: carries the requests of [`sixfold_recovery::machine`] to the nodes and their answers back. It
//! decides nothing.

use std::rc::Rc;
use std::time::Duration;

use sixfold_log_format::NodeId;
use sixfold_log_format::WriterId;
use sixfold_log_format::limits::READ_LEASE_MS;
use sixfold_log_format::wire::Message;
use sixfold_recovery::machine::{
    Opened, Recovery, RecoveryAction, RecoveryError, RecoveryEvent, RecoveryOptions, RequestKey,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clock;
use super::links::Links;
use crate::error::Error;
use crate::options::Options;
use crate::random;

/// Events that wait for the machine; answers beyond wait in their streams.
const EVENTS_MAX: usize = 1_024;

/// Certificates that are refused at so many nodes leave no write quorum.
const CERTIFICATES_REFUSED_MIN: usize = 3;

/// Reopens the volume; gives up when no write quorum answered by `limit`.
///
/// # Errors
/// What the machine says; [`Error::Config`] as soon as it is clear that certificates are the trouble.
pub(crate) async fn recover(
    links: &Rc<Links>,
    options: &Options,
    take_over: bool,
    limit: Duration,
) -> Result<Opened, Error> {
    let machine_options = RecoveryOptions {
        volume: options.cluster.volume,
        nodes: links.nodes(),
        writer: WriterId::from_bytes(random::bytes()),
        take_over,
        deadline: limit,
        lease: Duration::from_millis(READ_LEASE_MS),
        seed: u64::from_le_bytes(random::bytes()),
    };
    let mut machine = Recovery::new(machine_options, clock::now());
    let (tell, mut told) = mpsc::channel(EVENTS_MAX);
    // Dropped at the end, and with it every request that is still out.
    let mut requests = JoinSet::new();
    loop {
        while let Some(action) = machine.poll_action() {
            match action {
                RecoveryAction::Send {
                    request,
                    node,
                    message,
                } => {
                    requests.spawn_local(ask(
                        Rc::clone(links),
                        request,
                        node,
                        message,
                        limit,
                        tell.clone(),
                    ));
                }
                RecoveryAction::Phase(phase) => tracing::info!(?phase, "reopening"),
                RecoveryAction::Done(result) => {
                    return result.map_err(|error| explain(error, links));
                }
            }
        }
        let due = machine.poll_timeout().map(clock::instant);
        let pause = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(event) = told.recv() => {
                let unreachable = matches!(event, RecoveryEvent::Unreachable { .. });
                machine.handle(clock::now(), event);
                while let Ok(event) = told.try_recv() {
                    machine.handle(clock::now(), event);
                }
                if unreachable && let Some(line) = links.certificate_trouble(CERTIFICATES_REFUSED_MIN.min(links.nodes().len())) {
                    return Err(Error::config(line));
                }
            }
            () = pause => machine.handle(clock::now(), RecoveryEvent::Timeout),
            Some(ended) = requests.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }
}

/// One request: every answer becomes an event; no answer, or a stream that breaks off, is one too.
async fn ask(
    links: Rc<Links>,
    request: RequestKey,
    node: NodeId,
    message: Message,
    limit: Duration,
    tell: mpsc::Sender<RecoveryEvent>,
) {
    let answers = async {
        let mut receiver = links.request(node, &message).await.ok()?;
        let mut answered = false;
        while let Some(message) = receiver.recv().await.ok()? {
            answered = true;
            tell.send(RecoveryEvent::Answer { request, message })
                .await
                .ok()?;
        }
        answered.then_some(())
    };
    let whole = tokio::time::timeout(limit, answers).await.ok().flatten();
    if whole.is_none() {
        let _over = tell.send(RecoveryEvent::Unreachable { request }).await;
    }
}

/// Adds to "too few answered" why the others did not.
fn explain(error: RecoveryError, links: &Links) -> Error {
    if matches!(
        error,
        RecoveryError::Unavailable { .. } | RecoveryError::NoVolume { .. }
    ) {
        if let Some(line) = links.certificate_trouble(1) {
            return Error::config(line);
        }
        let troubles = links.troubles();
        if matches!(error, RecoveryError::Unavailable { .. }) && !troubles.is_empty() {
            return Error::unavailable(format!("{error} ({troubles})"));
        }
    }
    error.into()
}
