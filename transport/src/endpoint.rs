//! Endpoints: a UDP socket that connects, and for a node also listens.
//!
//! All connections of an endpoint share its socket. The accept loop of a node only takes [`Incoming`]s; handshakes run in
//! tasks of their own, as many as the loop lets run. It does not decide who may do what beyond the role: that is the
//! node's business, message by message.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::crypto::HandshakeTokenKey;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Hello, Refusal, Role, WIRE_VERSION, Welcome};

use crate::connection::{Connection, TransportError, code};
use crate::gate::{Gate, GateStats, Place, Verdict};
use crate::hello;
use crate::socket::CappedSocket;
use crate::tls::{Identity, IdentityFiles, TlsError};
use crate::tuning;

/// Handshakes that wait for the accept loop; beyond it, newcomers are refused.
const INCOMING_COUNT_MAX: usize = 256;
/// Bytes kept for a handshake that waits for the accept loop, and for all of them.
const INCOMING_BYTES_MAX: u64 = 64 << 10;
const INCOMING_TOTAL_BYTES_MAX: u64 = 4 << 20;
/// How often the files of the identity are looked at, at most.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that [`Endpoint::close`] waits for peers to be told.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Settings of the transport.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// A connection that hears nothing for this long is lost. Slowness is judged by the age of acks instead (F13).
    pub idle_limit: Duration,
    /// Silence after which a keep-alive is sent.
    pub keep_alive: Duration,
    /// UDP payload to begin with, bytes, 1,200 at least; `None` = QUIC's 1,200. Either way larger datagrams are looked
    /// for, up to 8,900, which fit jumbo frames and loopback, and smaller ones are fallen back to where these get lost.
    pub mtu_bytes: Option<u16>,
    /// Longest time that opening a connection may take.
    pub connect_limit: Duration,
    /// Highest wire version to speak, [`WIRE_VERSION`] unless set: lower while a fleet is upgraded and may have to go back, and to show
    /// that builds of different versions get on.
    pub wire_max: u16,
}

impl Default for TransportOptions {
    fn default() -> TransportOptions {
        TransportOptions {
            idle_limit: Duration::from_secs(3),
            keep_alive: Duration::from_millis(500),
            mtu_bytes: None,
            connect_limit: Duration::from_secs(2),
            wire_max: WIRE_VERSION,
        }
    }
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A certificate was not accepted by one of the two sides.
    #[error("{address}: certificate refused: {reason}")]
    Certificate {
        /// The peer.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The peer answered the hello with a refusal.
    #[error("{address}: refused: {refusal}")]
    Refused {
        /// The peer.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// No answer, or the connection broke.
    #[error("{address}: {source}")]
    Transport {
        /// The peer.
        address: SocketAddr,
        /// How.
        source: TransportError,
    },
}

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The socket cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The identity cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A socket with an identity. Must be made and used inside a tokio runtime with its I/O and time drivers on. Cheap to
/// clone.
///
/// An identity that was loaded from files is looked at there once a second: new connections are made with what stands there now. Those that
/// are open stay open.
#[derive(Debug, Clone)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    address: SocketAddr,
    options: TransportOptions,
    credentials: Arc<Mutex<Credentials>>,
    gate: Gate,
    /// How often the identity was taken up anew from its files.
    renewals: Arc<AtomicU64>,
    /// Signs what newcomers prove their address with; a renewed certificate does not change it.
    token_key: TokenKey,
}

/// The key of retry tokens.
#[derive(Clone)]
struct TokenKey(Arc<dyn HandshakeTokenKey>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    fn of(identity: &Identity) -> TokenKey {
        let secret = identity.derive_secret("sixfold retry token");
        let salt = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]);
        TokenKey(Arc::new(salt.extract(secret.as_ref())))
    }
}

/// What new connections are made with.
#[derive(Debug)]
struct Credentials {
    identity: Identity,
    client_config: quinn::ClientConfig,
    looked_at: Instant,
    /// Files that could not be used, so that this is said once.
    refused: Option<String>,
}

impl Endpoint {
    /// An endpoint that only connects, from an ephemeral port.
    ///
    /// # Errors
    /// When no socket can be had or the identity is unusable.
    pub fn client(
        identity: &Identity,
        options: &TransportOptions,
    ) -> Result<Endpoint, EndpointError> {
        // An IPv6 socket reaches IPv4 peers too, where the system has IPv6 at all.
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let (socket, address) = match UdpSocket::bind(any) {
            Ok(socket) => (socket, any),
            Err(_) => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?,
        };
        Endpoint::on_socket(socket, address, identity, options, None)
    }

    /// An endpoint that listens on `address` and also connects.
    ///
    /// # Errors
    /// When the address is taken or the identity is unusable: only a node's can listen.
    pub fn server(
        address: SocketAddr,
        identity: &Identity,
        options: &TransportOptions,
    ) -> Result<Endpoint, EndpointError> {
        if identity.role() != Role::Node {
            return Err(EndpointError::Tls(TlsError::Invalid {
                what: format!("identity of a {}", role_name(identity.role())),
                reason: "only a node can listen".to_owned(),
            }));
        }
        let config = server_config(identity, options, &TokenKey::of(identity))?;
        let (socket, address) = bind(address)?;
        Endpoint::on_socket(socket, address, identity, options, Some(config))
    }

    fn on_socket(
        socket: UdpSocket,
        asked: SocketAddr,
        identity: &Identity,
        options: &TransportOptions,
        server_config: Option<quinn::ServerConfig>,
    ) -> Result<Endpoint, EndpointError> {
        let failed = |source| EndpointError::Bind {
            address: asked,
            source,
        };
        let credentials = Credentials {
            identity: identity.clone(),
            client_config: client_config(identity, options)?,
            looked_at: Instant::now(),
            refused: None,
        };
        tuning::enlarge_buffers(&socket);
        let address = socket.local_addr().map_err(failed)?;
        let socket = CappedSocket::new(socket, tuning::mtu_bytes_max(options)).map_err(failed)?;
        let quic = quinn::Endpoint::new_with_abstract_socket(
            tuning::endpoint_config(identity, options),
            server_config,
            Arc::new(socket),
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(failed)?;
        Ok(Endpoint {
            quic,
            address,
            options: options.clone(),
            credentials: Arc::new(Mutex::new(credentials)),
            gate: Gate::default(),
            renewals: Arc::default(),
            token_key: TokenKey::of(identity),
        })
    }

    /// Takes up an identity that was renewed in its files; what cannot be used there changes nothing.
    fn renew(&self) {
        let mut held = self.credentials.lock().expect("no holder panics");
        if held.looked_at.elapsed() < RENEWAL_INTERVAL {
            return;
        }
        held.looked_at = Instant::now();
        let Some(files) = held.identity.files().and_then(IdentityFiles::changed) else {
            return;
        };
        match self.renewed(&files, &held.identity) {
            Ok((identity, client_config)) => {
                tracing::info!(address = %self.address, "the certificate was renewed");
                *held = Credentials {
                    identity,
                    client_config,
                    looked_at: held.looked_at,
                    refused: None,
                };
                self.renewals.fetch_add(1, Ordering::Relaxed);
            }
            // Looked at again: half of the files may be written yet.
            Err(error) => {
                let error = Some(error.to_string());
                if held.refused != error {
                    let reason = error.as_deref().unwrap_or_default();
                    tracing::warn!(
                        reason,
                        "the renewed certificate cannot be used, the old one stays: `sixfold cert show` tells what stands there"
                    );
                    held.refused = error;
                }
            }
        }
    }

    fn renewed(
        &self,
        files: &IdentityFiles,
        held: &Identity,
    ) -> Result<(Identity, quinn::ClientConfig), TlsError> {
        let identity = files.load(held)?;
        let client = client_config(&identity, &self.options)?;
        if identity.role() == Role::Node {
            let server = server_config(&identity, &self.options, &self.token_key)?;
            self.quic.set_server_config(Some(server));
        }
        Ok((identity, client))
    }

    /// The bound address.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Connects to the node that `hello` names: TLS with the node's id as the name to verify, then hello and welcome.
    /// Takes [`TransportOptions::connect_limit`] at most.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        address: SocketAddr,
        hello: Hello,
    ) -> Result<(Connection, Welcome), ConnectError> {
        self.renew();
        let hello = Hello {
            wire_max: hello.wire_max.min(self.options.wire_max),
            ..hello
        };
        let introduced = hello::introduce(&self.quic, self.client_config(), address, hello);
        match tokio::time::timeout(self.options.connect_limit, introduced).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Transport {
                address,
                source: TransportError::TimedOut,
            }),
        }
    }

    /// What the next connection is made with.
    pub(crate) fn client_config(&self) -> quinn::ClientConfig {
        let held = self.credentials.lock().expect("no holder panics");
        held.client_config.clone()
    }

    #[cfg(test)]
    pub(crate) fn quic(&self) -> &quinn::Endpoint {
        &self.quic
    }

    /// The next connection that wants in and gets past the gate (a newcomer may have to prove its address first, or find no place);
    /// `None` when the endpoint was closed. Safe to cancel.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            // Looked at also while nobody comes: a handshake is with what stood in the files when it began.
            let next = tokio::time::timeout(RENEWAL_INTERVAL, self.quic.accept()).await;
            self.renew();
            let Ok(next) = next else {
                continue;
            };
            let newcomer = next?;
            let proved = newcomer.remote_address_validated();
            match self.gate.judge(newcomer.remote_address().ip(), proved) {
                (Verdict::Retry, _) => {
                    // Only a proved one cannot be asked for a proof.
                    let _ = newcomer.retry();
                }
                (Verdict::Ignore, _) => newcomer.ignore(),
                (_, Some(place)) => {
                    let wire_max = self.options.wire_max;
                    return Some(Incoming::new(newcomer, place, wire_max));
                }
                (_, None) => newcomer.refuse(),
            }
        }
    }

    /// What came of those who wanted in, since the start.
    pub fn gate_stats(&self) -> GateStats {
        self.gate.stats()
    }

    /// How often a renewed identity was taken up from its files since the start: connections made from then on are with it.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// Closes all connections and waits for the peers to be told, half a second at most.
    pub async fn close(&self) {
        self.quic.close(code::DONE, b"endpoint closed");
        // A peer that does not answer finds out by its idle limit.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.quic.wait_idle()).await;
    }
}

/// How this side listens.
fn server_config(
    identity: &Identity,
    options: &TransportOptions,
    token_key: &TokenKey,
) -> Result<quinn::ServerConfig, TlsError> {
    let crypto = QuicServerConfig::try_from(identity.server_config()?)
        .expect("the cipher suite that QUIC begins with is among the provider's");
    let mut config = quinn::ServerConfig::new(Arc::new(crypto), Arc::clone(&token_key.0));
    config
        .transport_config(Arc::new(tuning::transport_config(options)))
        .max_incoming(INCOMING_COUNT_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES_MAX);
    Ok(config)
}

/// How this side connects.
fn client_config(
    identity: &Identity,
    options: &TransportOptions,
) -> Result<quinn::ClientConfig, TlsError> {
    let crypto = QuicClientConfig::try_from(identity.client_config()?)
        .expect("the cipher suite that QUIC begins with is among the provider's");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(tuning::transport_config(options)));
    Ok(config)
}

fn bind(address: SocketAddr) -> Result<(UdpSocket, SocketAddr), EndpointError> {
    match UdpSocket::bind(address) {
        Ok(socket) => Ok((socket, address)),
        Err(source) => Err(EndpointError::Bind { address, source }),
    }
}

/// A connection that wants in: its TLS handshake goes on in [`Incoming::welcome`], off the accepting task. Dropping it
/// refuses it.
#[derive(Debug)]
pub struct Incoming {
    quic: quinn::Incoming,
    address: SocketAddr,
    place: Place,
    wire_max: u16,
}

impl Incoming {
    fn new(quic: quinn::Incoming, place: Place, wire_max: u16) -> Incoming {
        Incoming {
            address: quic.remote_address(),
            quic,
            place,
            wire_max,
        }
    }

    /// Ends the handshake: the certificate must be of the cluster's CA, its role the one in the hello, the hello for this
    /// node, and a wire version in common; otherwise the peer is refused. Takes two seconds at most, and half a second
    /// more to deliver a refusal: a peer that says nothing is dropped.
    ///
    /// # Errors
    /// [`TransportError`]; the peer was told.
    pub async fn welcome(
        self,
        node: NodeId,
        incarnation: u64,
    ) -> Result<(Connection, Hello), TransportError> {
        let welcomed = hello::welcome(self.quic, (node, incarnation), self.wire_max).await;
        if welcomed.is_ok() {
            self.place.succeeded();
        }
        welcomed
    }

    /// Turns it away before any work is done for it: the peer's [`Endpoint::connect`] reports
    /// [`Refusal::Overloaded`].
    pub fn refuse(self) {
        self.place.refused();
        self.quic.refuse();
    }

    /// Where it comes from.
    pub fn remote_address(&self) -> SocketAddr {
        self.address
    }
}

/// A role as certificates write it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Node => "node",
        Role::Writer => "writer",
        Role::Reader => "reader",
        Role::Operator => "operator",
    }
}
