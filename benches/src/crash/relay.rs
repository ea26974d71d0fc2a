//! The network between the processes of a cluster on one machine: a UDP socket stands before each node, and what comes there is passed
//! on unless the link is cut. Needs no root, no namespaces, no packet filter.
//!
//! ```text
//!  writer ─▶ R1 ─▶ (socket of the writer at R1) ─▶ node 1      one way and back the same way
//!  node 2 ─▶ R1 ─▶ (socket of node 2 at R1)     ─▶ node 1
//! ```
//! It stands at an address of its own: a node that is found at another port of its own address takes itself for moved, tells so (R25),
//! and is found past the relay. A node sends from the port on which it listens, so that R1 knows who speaks. Others are known by their port ([`ports_of`]). What is
//! lost is lost silently, as in a network: nobody gets an error for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

/// Where it stands: no node does.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 98, 0, 1);
/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Asked of the system for each socket; it may give less.
const SOCKET_BYTES: usize = 4 << 20;
/// A link that carries nothing for so long is taken down; it is set up again when it is needed.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Links at a time; what would need more is lost.
const LINKS_MAX: usize = 4_096;

/// What of the traffic over the edge of the part that is cut off is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Everything.
    Both,
    /// What goes in.
    Inbound,
    /// What comes out.
    Outbound,
}

/// Who speaks or is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    /// The node before whose address this relay's how manieth socket stands.
    Node(usize),
    /// Somebody else, by port.
    Port(u16),
}

/// A cut.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    /// Nodes that are cut off.
    pub nodes: BTreeSet<usize>,
    /// Other processes that are, by their ports.
    pub ports: BTreeSet<u16>,
    /// Those that are cut off do not hear each other, either.
    pub each_alone: bool,
    /// Which direction; none means both.
    pub lost: Option<Lost>,
}

impl Cut {
    fn has(&self, party: Party) -> bool {
        match party {
            Party::Node(index) => self.nodes.contains(&index),
            Party::Port(port) => self.ports.contains(&port),
        }
    }

    fn loses(&self, from: Party, to: Party) -> bool {
        let lost = self.lost.unwrap_or(Lost::Both);
        match (self.has(from), self.has(to)) {
            (false, false) => false,
            (true, true) => self.each_alone,
            (true, false) => lost != Lost::Inbound,
            (false, true) => lost != Lost::Outbound,
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// Where the nodes listen.
    nodes: Vec<SocketAddr>,
    cut: Mutex<Cut>,
    links: Mutex<BTreeMap<(usize, SocketAddr), Arc<UdpSocket>>>,
}

impl Shared {
    fn party(&self, address: SocketAddr) -> Party {
        let found = self.nodes.iter().position(|node| *node == address);
        found.map_or(Party::Port(address.port()), Party::Node)
    }

    fn loses(&self, from: Party, to: Party) -> bool {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.loses(from, to)
    }

    fn links(&self) -> std::sync::MutexGuard<'_, BTreeMap<(usize, SocketAddr), Arc<UdpSocket>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sockets before the nodes. They live in a thread of their own, which ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Relay {
    /// Stands before nodes that listen at these addresses, or will.
    ///
    /// # Errors
    /// When a socket or the thread cannot be had.
    pub fn start(nodes: Vec<SocketAddr>) -> Result<Relay> {
        let mut sockets = Vec::with_capacity(nodes.len());
        let mut addresses = Vec::with_capacity(nodes.len());
        for _ in &nodes {
            let socket = bind().context("cannot bind a relay's socket")?;
            addresses.push(socket.local_addr()?);
            sockets.push(socket);
        }
        let shared = Arc::new(Shared {
            nodes,
            cut: Mutex::default(),
            links: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    for (index, socket) in sockets.into_iter().enumerate() {
                        let shared = Arc::clone(&of_thread);
                        tokio::spawn(async move {
                            if let Ok(socket) = UdpSocket::from_std(socket) {
                                serve(shared, index, Arc::new(socket)).await;
                            }
                        });
                    }
                    // It is never sent: it ends when the relay is dropped.
                    let _ = stopped.await;
                });
            })
            .context("cannot start the relay's thread")?;
        Ok(Relay {
            shared,
            addresses,
            _stop: stop,
        })
    }

    /// Where the nodes are found, in the order of their own addresses.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Cuts from now on; the default cuts nothing.
    pub fn set(&self, cut: Cut) {
        let mut current = self
            .shared
            .cut
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = cut;
    }
}

fn bind() -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((HOST, 0))?;
    socket.set_nonblocking(true)?;
    // Whatever the system gives is enough to work with.
    let _ = set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
    let _ = set_socket_send_buffer_size(&socket, SOCKET_BYTES);
    Ok(socket)
}

/// Passes on what comes for one node.
async fn serve(shared: Arc<Shared>, index: usize, front: Arc<UdpSocket>) {
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error is of one datagram that was sent before: its receiver was gone.
        let Ok((length, source)) = front.recv_from(&mut bytes).await else {
            continue;
        };
        if shared.loses(shared.party(source), Party::Node(index)) {
            continue;
        }
        let known = shared.links().get(&(index, source)).cloned();
        let link = match known {
            Some(link) => link,
            None => match link(&shared, index, source, &front) {
                Ok(link) => link,
                Err(_) => continue,
            },
        };
        // What cannot be sent is lost.
        let _ = link.send(&bytes[..length]).await;
    }
}

/// A socket that stands for `source` before a node, and the task that brings its answers back.
fn link(
    shared: &Arc<Shared>,
    index: usize,
    source: SocketAddr,
    front: &Arc<UdpSocket>,
) -> io::Result<Arc<UdpSocket>> {
    if shared.links().len() >= LINKS_MAX {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    let socket = bind()?;
    socket.connect(shared.nodes[index])?;
    let link = Arc::new(UdpSocket::from_std(socket)?);
    shared.links().insert((index, source), Arc::clone(&link));
    let (shared, front, back) = (Arc::clone(shared), Arc::clone(front), Arc::clone(&link));
    tokio::spawn(async move {
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
        while let Ok(received) = tokio::time::timeout(IDLE_LIMIT, back.recv(&mut bytes)).await {
            // A node that is down refuses datagrams; the link stays.
            let Ok(length) = received else { continue };
            if !shared.loses(Party::Node(index), shared.party(source)) {
                let _ = front.send_to(&bytes[..length], source).await;
            }
        }
        shared.links().remove(&(index, source));
    });
    Ok(link)
}

/// The UDP ports of a process, as the system lists them.
///
/// # Errors
/// When the process is gone or not ours.
pub fn ports_of(process: u32) -> io::Result<BTreeSet<u16>> {
    let root = Path::new("/proc").join(process.to_string());
    let mut inodes = BTreeSet::new();
    for entry in std::fs::read_dir(root.join("fd"))? {
        // A descriptor may be closed meanwhile.
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        let name = target.to_string_lossy();
        let inode = name.strip_prefix("socket:[");
        inodes.extend(inode.and_then(|rest| rest.strip_suffix(']')?.parse::<u64>().ok()));
    }
    let mut ports = BTreeSet::new();
    for table in ["udp", "udp6"] {
        let text = std::fs::read_to_string(root.join("net").join(table)).unwrap_or_default();
        ports.extend(
            text.lines()
                .skip(1)
                .filter_map(|line| port_in(line, &inodes)),
        );
    }
    Ok(ports)
}

/// The local port in a line of the system's table, if its socket is one of these.
fn port_in(line: &str, inodes: &BTreeSet<u64>) -> Option<u16> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let inode: u64 = words.get(9)?.parse().ok()?;
    let (_, port) = words.get(1)?.rsplit_once(':')?;
    inodes
        .contains(&inode)
        .then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod relay_tests;
