//! QUIC with mutual TLS 1.3 between the parties of a Sixfold cluster: the only crate that names quinn and rustls.
//!
//! [`tls`] makes and loads certificates; [`endpoint`] connects and listens; [`connection`] carries
//! [`Message`](sixfold_log_format::wire::Message)s on streams. It knows frames, not what they mean.
//!
//! ```text
//! ClusterCa -> Identity -> Endpoint::server -- accept --> Incoming -- welcome --> Connection -- accept --> streams
//!                          Endpoint::client -- connect (TLS, hello, welcome) ---> Connection -- open ----> streams
//! ```
//!
//! Everything works on a current-thread runtime; nothing here spawns threads or blocks.

pub mod tls;

pub mod certificate;
mod token;

pub mod endpoint;

mod gate;
mod hello;
mod socket;
mod tuning;

pub mod connection;

mod frame_reader;

pub use connection::{Connection, Receiver, Sender, TransportError, WireStats};
pub use endpoint::{ConnectError, Endpoint, EndpointError, Incoming, TransportOptions};
pub use gate::GateStats;
pub use tls::{ClusterCa, Identity, TlsError};
pub use token::{VolumeToken, token_digest};
