//! The first exchange of a connection: TLS, then hello and welcome on the first stream, or a refusal.
//!
//! ```text
//! connecting side                         listening side
//!   TLS: the server's name is the node's    TLS: a certificate of the same CA
//!   Hello  ------------------------------>  certificate's role = hello's, hello for this node, versions overlap
//!   Welcome / Refused  <------------------  (or closes: silent for two seconds)
//! ```
//!
//! TLS 1.3 lets the connecting side finish its handshake before the listening side has looked at its certificate. So a
//! refused certificate shows up there, as a broken connection while it waits for the welcome; [`classify`] tells.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{ConnectionError, TransportErrorCode};
use rustls::pki_types::CertificateDer;
use sixfold_log_format::wire::{Hello, Message, Refusal, Role, WIRE_VERSION_MIN, Welcome};
use sixfold_log_format::{DecodeError, NodeId};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Connection, Receiver, Sender, TransportError, code};
use crate::endpoint::{ConnectError, role_name};
use crate::tls::{Party, node_name};

/// Longest time from the first datagram to a hello.
const HELLO_LIMIT: Duration = Duration::from_secs(2);
/// Longest time that a refusal may take to arrive before the connection is closed under it.
const REFUSAL_LIMIT: Duration = Duration::from_millis(500);

/// Connects, as [`crate::Endpoint::connect`] says, without a limit of time.
pub(crate) async fn introduce(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    hello: Hello,
) -> Result<(Connection, Welcome), ConnectError> {
    let broken = |source| ConnectError::Transport { address, source };
    let node = hello.node;
    let versions = hello.wire_min..=hello.wire_max;
    let connecting = endpoint
        .connect_with(config, address, &node_name(node))
        .map_err(|error| {
            broken(TransportError::Lost {
                reason: error.to_string(),
            })
        })?;
    let quic = connecting
        .await
        .map_err(|error| classify(address, &error))?;
    let peer = peer_of(&quic).map_err(|reason| ConnectError::Certificate { address, reason })?;
    let connection = Connection::new(quic, peer);
    let answer = ask(&connection, hello).await.map_err(|source| {
        let closed = connection.quic().close_reason();
        closed.map_or_else(|| broken(source), |error| classify(address, &error))
    })?;
    match answer {
        Message::Welcome(welcome) if welcome.node == node && versions.contains(&welcome.wire) => {
            Ok((connection.speaking(welcome.wire), welcome))
        }
        Message::Refused(refusal) => {
            connection.close("refused");
            Err(ConnectError::Refused { address, refusal })
        }
        _ => {
            connection.close_with(code::MALFORMED, "no welcome");
            Err(broken(unexpected("welcome").into()))
        }
    }
}

async fn ask(connection: &Connection, hello: Hello) -> Result<Message, TransportError> {
    connection.call(&Message::Hello(hello)).await
}

/// A message of another kind than is due.
fn unexpected(zone: &'static str) -> DecodeError {
    DecodeError::Invalid {
        zone,
        field: "kind of message",
        found: 0,
        offset: 0,
    }
}

/// Answers, as [`crate::Incoming::welcome`] says.
pub(crate) async fn welcome(
    incoming: quinn::Incoming,
    (node, incarnation): (NodeId, u64),
    wire_max: u16,
) -> Result<(Connection, Hello), TransportError> {
    let deadline = Instant::now() + HELLO_LIMIT;
    let connecting = incoming.accept()?;
    let quic = timeout_at(deadline, connecting)
        .await
        .map_err(|_| TransportError::TimedOut)??;
    let peer = peer_of(&quic).map_err(|reason| {
        quic.close(code::CERTIFICATE, reason.as_bytes());
        TransportError::Lost { reason }
    })?;
    let connection = Connection::new(quic, peer);
    let Ok(heard) = timeout_at(deadline, hear(&connection)).await else {
        connection.close_with(code::SILENT, "no hello in time");
        return Err(TransportError::TimedOut);
    };
    let (mut sender, said) = heard?;
    match said.and_then(|hello| Ok((judge(&hello, peer, node, wire_max)?, hello))) {
        Ok((wire, hello)) => {
            let welcome = Welcome {
                wire,
                node,
                incarnation,
            };
            sender.send(&Message::Welcome(welcome)).await?;
            sender.finish();
            Ok((connection.speaking(wire), hello))
        }
        Err(refusal) => {
            let reason = format!("hello refused: {refusal:?}");
            tracing::debug!(peer = ?connection.quic().remote_address(), reason);
            // It is dropped where the peer does not take it in time.
            let _ = timeout(REFUSAL_LIMIT, deliver(&mut sender, refusal)).await;
            connection.close_with(code::REFUSED, "hello refused");
            Err(TransportError::Lost { reason })
        }
    }
}

/// The hello, or why what came instead is refused.
async fn hear(connection: &Connection) -> Result<(Sender, Result<Hello, Refusal>), TransportError> {
    let (sender, mut receiver) = connection.accept().await?;
    let said = match first_message(&mut receiver).await {
        Ok(Message::Hello(hello)) => Ok(hello),
        Ok(_) => Err(malformed("the first message is no hello")),
        Err(lost @ TransportError::Lost { .. }) => return Err(lost),
        Err(error) => Err(malformed(error.to_string())),
    };
    Ok((sender, said))
}

async fn first_message(receiver: &mut Receiver) -> Result<Message, TransportError> {
    let message = receiver.recv().await?.ok_or(TransportError::Ended)?;
    receiver.settle();
    Ok(message)
}

fn malformed(reason: impl Into<String>) -> Refusal {
    Refusal::Malformed {
        reason: reason.into(),
    }
}

/// The wire version to speak, or why the peer is refused.
fn judge(hello: &Hello, peer: Party, node: NodeId, wire_max: u16) -> Result<u16, Refusal> {
    if hello.role != peer.role {
        return Err(Refusal::NotAllowed);
    }
    if hello.node != node {
        return Err(malformed(format!(
            "this is node {node}, the hello is for node {}",
            hello.node
        )));
    }
    let wire = hello.wire_max.min(wire_max);
    if wire < hello.wire_min.max(WIRE_VERSION_MIN) {
        return Err(Refusal::Wire {
            min: WIRE_VERSION_MIN,
            max: wire_max,
        });
    }
    Ok(wire)
}

async fn deliver(sender: &mut Sender, refusal: Refusal) {
    if sender.send(&Message::Refused(refusal)).await.is_ok() {
        sender.finish();
        sender.delivered().await;
    }
}

/// What the peer's certificate says. TLS has verified it by now.
fn peer_of(quic: &quinn::Connection) -> Result<Party, String> {
    let chain = quic
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or("shows no certificate")?;
    let party = Party::of(chain.first().ok_or("shows no certificate")?)?;
    if quic.side().is_client() && party.role != Role::Node {
        return Err(format!("is of a {}, not of a node", role_name(party.role)));
    }
    Ok(party)
}

/// What a broken connection means to the side that connects. QUIC carries TLS alerts as connection errors: its own when
/// it refused the peer, the peer's when the peer refused it.
fn classify(address: SocketAddr, error: &ConnectionError) -> ConnectError {
    let (code, reason) = match error {
        ConnectionError::TransportError(error) => {
            (error.code, format!("of the node: {}", error.reason))
        }
        ConnectionError::ConnectionClosed(close) => {
            let said = String::from_utf8_lossy(&close.reason);
            (close.error_code, format!("by the node: {said}"))
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::CERTIFICATE => {
            let said = String::from_utf8_lossy(&close.reason);
            let reason = format!("by the node: {said}");
            return ConnectError::Certificate { address, reason };
        }
        _ => (TransportErrorCode::NO_ERROR, String::new()),
    };
    if is_certificate_alert(code) {
        return ConnectError::Certificate { address, reason };
    }
    if code == TransportErrorCode::CONNECTION_REFUSED {
        let refusal = Refusal::Overloaded;
        return ConnectError::Refused { address, refusal };
    }
    let source = error.clone().into();
    ConnectError::Transport { address, source }
}

/// TLS alerts that speak of a certificate: bad, unsupported, revoked, expired, unknown; unknown authority, access denied,
/// a signature that does not fit, unrecognized name, certificate required.
fn is_certificate_alert(code: TransportErrorCode) -> bool {
    const ALERTS: [u8; 10] = [42, 43, 44, 45, 46, 48, 49, 51, 112, 116];
    ALERTS
        .iter()
        .any(|alert| code == TransportErrorCode::crypto(*alert))
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod hello_tests;
