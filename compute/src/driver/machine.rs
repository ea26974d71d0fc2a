//! Drives the machines of [`sixfold_recovery::machine`]: a reopening, a survey, a standby's watch. It carries their requests to the
//! nodes and the answers back, and decides nothing.

use std::rc::Rc;
use std::time::Duration;

use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Message, Refusal};
use sixfold_recovery::machine::follow::{Follow, FollowAction};
use sixfold_recovery::machine::survey::{Survey, SurveyAction, SurveyError, Surveyed};
use sixfold_recovery::machine::{
    Opened, Recovery, RecoveryAction, RecoveryError, RecoveryEvent, RequestKey,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clock;
use super::links::Links;
use crate::error::Error;

/// Events that wait for a machine; answers beyond wait in their streams.
const EVENTS_MAX: usize = 1_024;

/// Certificates that are refused at so many nodes leave no quorum.
const CERTIFICATES_REFUSED_MIN: usize = 3;

/// What a machine wants done.
pub(super) enum Step<T> {
    /// A request on a stream of its own.
    Send {
        request: RequestKey,
        node: NodeId,
        message: Message,
    },
    /// Nothing.
    Nothing,
    /// This is what it came to.
    Done(T),
}

/// A machine.
pub(super) trait Machine {
    type Outcome;
    fn handle(&mut self, now: Duration, event: RecoveryEvent);
    fn poll_step(&mut self) -> Option<Step<Self::Outcome>>;
    fn poll_timeout(&self) -> Option<Duration>;
}

impl Machine for Recovery {
    type Outcome = Result<Opened, RecoveryError>;

    fn handle(&mut self, now: Duration, event: RecoveryEvent) {
        Recovery::handle(self, now, event);
    }

    fn poll_step(&mut self) -> Option<Step<Self::Outcome>> {
        Some(match self.poll_action()? {
            RecoveryAction::Send {
                request,
                node,
                message,
            } => Step::Send {
                request,
                node,
                message,
            },
            RecoveryAction::Phase(phase) => {
                tracing::info!(?phase, "reopening");
                Step::Nothing
            }
            RecoveryAction::Done(result) => Step::Done(*result),
        })
    }

    fn poll_timeout(&self) -> Option<Duration> {
        Recovery::poll_timeout(self)
    }
}

impl Machine for Survey {
    type Outcome = Result<Surveyed, SurveyError>;

    fn handle(&mut self, now: Duration, event: RecoveryEvent) {
        Survey::handle(self, now, event);
    }

    fn poll_step(&mut self) -> Option<Step<Self::Outcome>> {
        Some(match self.poll_action()? {
            SurveyAction::Send {
                request,
                node,
                message,
            } => Step::Send {
                request,
                node,
                message,
            },
            SurveyAction::Done(result) => Step::Done(*result),
        })
    }

    fn poll_timeout(&self) -> Option<Duration> {
        Survey::poll_timeout(self)
    }
}

/// It comes to the time for which the writer has been silent.
impl Machine for Follow {
    type Outcome = Duration;

    fn handle(&mut self, now: Duration, event: RecoveryEvent) {
        Follow::handle(self, now, event);
    }

    fn poll_step(&mut self) -> Option<Step<Self::Outcome>> {
        Some(match self.poll_action()? {
            FollowAction::Send {
                request,
                node,
                message,
            } => Step::Send {
                request,
                node,
                message,
            },
            FollowAction::Gone { silent } => Step::Done(silent),
        })
    }

    fn poll_timeout(&self) -> Option<Duration> {
        Follow::poll_timeout(self)
    }
}

/// Runs a machine to its end. Each request may take `limit`.
///
/// # Errors
/// [`Error::Config`] as soon as it is clear that certificates are the trouble.
pub(super) async fn drive<M: Machine>(
    links: &Rc<Links>,
    machine: &mut M,
    limit: Duration,
) -> Result<M::Outcome, Error> {
    let (tell, mut told) = mpsc::channel(EVENTS_MAX);
    // Dropped at the end, and with it every request that is still out.
    let mut requests = JoinSet::new();
    loop {
        while let Some(step) = machine.poll_step() {
            match step {
                Step::Send {
                    request,
                    node,
                    message,
                } => {
                    let links = Rc::clone(links);
                    requests.spawn_local(ask(links, request, node, message, limit, tell.clone()));
                }
                Step::Nothing => {}
                Step::Done(outcome) => return Ok(outcome),
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
                let unreachable = is_no_answer(&event);
                machine.handle(clock::now(), event);
                while let Ok(event) = told.try_recv() {
                    machine.handle(clock::now(), event);
                }
                if unreachable && let Some(line) = certificate_trouble(links) {
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

/// Whether a node is out of reach, or lets nobody in who shows no token.
fn is_no_answer(event: &RecoveryEvent) -> bool {
    match event {
        RecoveryEvent::Unreachable { .. } => true,
        RecoveryEvent::Answer { message, .. } => is_token_refusal(message),
        RecoveryEvent::Timeout => false,
    }
}

fn is_token_refusal(message: &Message) -> bool {
    matches!(message, Message::Refused(Refusal::Token))
}

fn certificate_trouble(links: &Links) -> Option<String> {
    links.certificate_trouble(CERTIFICATES_REFUSED_MIN.min(links.nodes().len()))
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
            // Nodes that joined since the cluster was described.
            match &message {
                Message::ProbeAnswer(answer) => {
                    let manifest = answer.manifest.iter();
                    manifest.for_each(|manifest| links.learn(&manifest.hints));
                }
                Message::Census(census) => links.learn(&census.manifest.hints),
                refused if is_token_refusal(refused) => links.token_refused(node),
                _ => {}
            }
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

/// Why the nodes that are missing are, for an error that says that too few answered: [`Error::Config`] when certificates are the
/// reason.
pub(super) fn explain(error: Error, links: &Links) -> Error {
    let is_missing = matches!(error, Error::Unavailable { .. } | Error::NoVolume { .. });
    if is_missing && let Some(line) = links.certificate_trouble(1) {
        return Error::config(line);
    }
    let troubles = links.troubles();
    match error {
        Error::Unavailable { reason } if !troubles.is_empty() => {
            Error::unavailable(format!("{reason} ({troubles})"))
        }
        error => error,
    }
}
