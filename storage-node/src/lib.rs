//! The Sixfold storage-node daemon: io_uring, files and sockets.
//!
//! The shell around [`sixfold_storage_node_core::NodeCore`]: it does I/O and decides nothing. Modules stand in the order in
//! which data meets them:
//!
//! ```text
//!            server ──Event──▶ driver ──Action──▶ device ─▶ uring      one thread, one runtime
//!  QUIC ───▶ (streams)        (NodeCore)                     │
//!            ◀──Action::Send──  ▲   └──Action::AskPeer──▶ peers
//!                               └────────Event────────────── ┘ completions, through an eventfd
//! ```
//!
//! A task that has read a message calls the driver directly, the driver runs the core and does its actions before it returns:
//! between the socket and the ring there is no queue and no wake-up (F14).

pub mod error;
pub mod options;

mod directory;

mod server;

mod driver;
mod failure;
mod outbox;

mod device;
mod layers;
pub mod uring;
pub mod witness;

mod peers;

pub mod probe;

mod metrics;

pub mod inspect;
mod mmap;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::witness::{Told, Witness};
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Role;
use sixfold_storage_node_core::{Event, FoundDirectory, NodeCore};
use sixfold_transport::{Endpoint, Identity, TransportOptions};
use tokio::task::LocalSet;

pub use device::open_synced;
pub use error::NodeError;
pub use options::NodeOptions;

use device::{Device, LOCK_PATIENCE};
use directory::Directory;
use driver::{Driver, Shell};
use failure::Failure;
use layers::Layers;
use probe::Inbox;
use uring::Ring;

/// Name under which a node's certificate and key stand in its TLS directory: `node.pem`, `node-key.pem`.
pub const TLS_NAME: &str = "node";

/// Runs a node until `stop` resolves or something fails. Builds its own single-threaded runtime on the calling thread. `ready` is
/// called once, with the bound address, when requests are answered.
///
/// Nothing is drained at the end: an ack is given only for what is durable, so that a stop and a crash are the same thing.
///
/// # Errors
/// [`NodeError`]. Whatever can be checked is checked before the data directory is formatted.
pub fn run(
    options: NodeOptions,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    run_before(options, None, ready, stop)
}

/// As [`run`], and answers what a [`probe::Probe`] asks.
///
/// # Errors
/// As [`run`].
pub fn run_probed(
    options: NodeOptions,
    inbox: Inbox,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    start(options, (None, Some(inbox)), ready, stop)
}

/// As [`run`], before a witness of all that the node does to its files: tests cut the power with one.
///
/// # Errors
/// As [`run`].
pub fn run_before(
    options: NodeOptions,
    witness: Option<Arc<dyn Witness>>,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    start(options, (witness, None), ready, stop)
}

/// Who looks at what the node does.
type Watchers = (Option<Arc<dyn Witness>>, Option<Inbox>);

fn start(
    options: NodeOptions,
    (witness, inbox): Watchers,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    options.check()?;
    let identity = load_identity(&options)?;
    let told = Told(witness);
    let mut ring = Ring::new().map_err(NodeError::from_ring)?;
    ring.tell(told.clone());
    let directory = Directory::open(&options.data_dir, options.node)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| NodeError::Runtime { source })?;
    let local = LocalSet::new();
    let outcome = local.block_on(
        &runtime,
        serve(
            options,
            &identity,
            ring,
            (directory, told, inbox),
            ready,
            stop,
        ),
    );
    // Tasks hold the driver: it goes before the runtime does, and with it the ring, which waits for what is in flight.
    drop(local);
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Loads the identity and compares it with the configuration.
fn load_identity(options: &NodeOptions) -> Result<Identity, NodeError> {
    let identity = Identity::load(&options.tls_dir, TLS_NAME)?;
    if identity.role() != Role::Node {
        return Err(NodeError::CertificateRole {
            role: sixfold_transport::endpoint::role_name(identity.role()),
        });
    }
    match identity.node() {
        Some(node) if node == options.node => Ok(identity),
        found => Err(NodeError::CertificateNode {
            configured: options.node,
            found: found.unwrap_or_default(),
        }),
    }
}

/// Everything that needs the runtime. The order is: bind the port, format, open and lock files, scan, ready.
async fn serve(
    options: NodeOptions,
    identity: &Identity,
    ring: Ring,
    (mut directory, told, inbox): (Directory, Told, Option<Inbox>),
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let transport = TransportOptions {
        mtu_bytes: options.mtu_bytes,
        wire_max: options.wire_max,
        ..TransportOptions::default()
    };
    let endpoint = Endpoint::server(options.listen, identity, &transport)?;
    let superblock = directory.format_if_fresh(options.hot_log_file_bytes)?;
    let (layer_files, layers) = Layers::open(&directory, options.reserve_bytes, told.clone())?;
    let (device, files) = Device::open(directory, &superblock, told)?;
    let mut stop = std::pin::pin!(stop);
    tokio::select! {
        biased;
        locked = device.lock(LOCK_PATIENCE) => locked?,
        () = &mut stop => return Ok(()),
    }

    let found = FoundDirectory {
        node: options.node,
        az: options.az.clone(),
        block_bytes: superblock.block_bytes,
        file_bytes: superblock.file_bytes,
        files,
        layers,
        bounds: options.bounds(),
        seed: draw_u64()?,
    };
    let incarnation = draw_u64()?;
    tracing::info!(
        node = %options.node, az = %options.az, address = %endpoint.local_address(),
        block_bytes = superblock.block_bytes, files = found.files.len(), "node starts"
    );

    let failure = Rc::new(Failure::default());
    let mut core = NodeCore::new(found, driver::now());
    let address = endpoint.local_address();
    core.handle(driver::now(), Event::Listening { address });
    let shell = Shell {
        ring,
        device,
        layers: layer_files,
        endpoint: endpoint.clone(),
        failure: Rc::clone(&failure),
    };
    let driver = Driver::start(core, shell)?;
    if let Some(inbox) = inbox {
        failure.spawn(probe::answer(inbox, Rc::clone(&driver)));
    }
    server::start(
        endpoint.clone(),
        Rc::clone(&driver),
        options.node,
        incarnation,
    );

    let served = async {
        driver.ready().await;
        ready(endpoint.local_address());
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        biased;
        error = failure.wait() => Err(error),
        () = &mut stop => Ok(()),
        () = served => Ok(()),
    };
    driver.halt();
    endpoint.close().await;
    outcome
}

fn draw_u64() -> Result<u64, NodeError> {
    getrandom::u64().map_err(|error| NodeError::Randomness {
        reason: error.to_string(),
    })
}

/// A node id drawn at random, for whoever sets a cluster up.
///
/// # Errors
/// When the system gives no randomness.
pub fn draw_node_id() -> Result<NodeId, NodeError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::Randomness {
        reason: error.to_string(),
    })?;
    Ok(NodeId::from_bytes(bytes))
}
