//! A network that falls in two, with the writer on the smaller or on the larger side of it. The writer speaks to the nodes, and they to
//! each other, through gates that can be cut; whoever is on the other side speaks to its nodes directly.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sixfold::{Cluster, Database, Error, Options, StandbyOptions};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use crate::load::{Load, block_on, commit};
use crate::process::{LIMIT, eventually};
use crate::real_cluster::RealCluster;

const CLIENTS: usize = 4;
const SOON: Duration = Duration::from_secs(2);
/// Not the address of any node, so that none takes itself for moved.
const GATE: &str = "127.99.0.1:0";
/// Where nobody listens.
const NOWHERE: [u8; 4] = [127, 99, 0, 2];

/// The way to a node.
#[derive(Clone)]
struct Gate {
    address: SocketAddr,
    /// Nothing goes in.
    cut: Arc<AtomicBool>,
    /// Nothing goes in that comes from where nothing came from before.
    known_only: Arc<AtomicBool>,
}

struct Network {
    gates: Vec<Gate>,
    /// The gates' thread ends with it.
    _open: oneshot::Sender<()>,
}

impl Gate {
    async fn open(node: SocketAddr) -> Gate {
        let outside = Arc::new(UdpSocket::bind(GATE).await.unwrap());
        let gate = Gate {
            address: outside.local_addr().unwrap(),
            cut: Arc::default(),
            known_only: Arc::default(),
        };
        tokio::spawn(gate.clone().pass(outside, node));
        gate
    }

    async fn pass(self, outside: Arc<UdpSocket>, node: SocketAddr) {
        let mut inside: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let Ok((length, from)) = outside.recv_from(&mut buffer).await else {
                continue;
            };
            if self.cut.load(Ordering::Relaxed) {
                continue;
            }
            let socket = match inside.entry(from) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(_) if self.known_only.load(Ordering::Relaxed) => continue,
                Entry::Vacant(vacant) => {
                    let socket = Arc::new(UdpSocket::bind(GATE).await.unwrap());
                    socket.connect(node).await.unwrap();
                    tokio::spawn(back(Arc::clone(&socket), Arc::clone(&outside), from));
                    vacant.insert(socket)
                }
            };
            // A node that is down refuses: lost like everything else.
            let _lost = socket.send(&buffer[..length]).await;
        }
    }
}

/// What a node answers. It goes out although the gate is cut: nothing that it answers came in.
async fn back(inside: Arc<UdpSocket>, outside: Arc<UdpSocket>, to: SocketAddr) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        if let Ok(length) = inside.recv(&mut buffer).await {
            let _lost = outside.send_to(&buffer[..length], to).await;
        }
    }
}

impl Network {
    fn before(cluster: &Cluster) -> Network {
        let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.address).collect();
        let (open, closed) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut gates = Vec::new();
                for address in addresses {
                    gates.push(Gate::open(address).await);
                }
                tell.send(gates).unwrap();
                let _dropped = closed.await;
            });
        });
        Network {
            gates: told.recv_timeout(LIMIT).unwrap(),
            _open: open,
        }
    }

    /// The cluster as seen through it.
    fn seen(&self, cluster: &Cluster) -> Cluster {
        let mut seen = cluster.clone();
        for (node, gate) in seen.nodes.iter_mut().zip(&self.gates) {
            node.address = gate.address;
        }
        seen
    }

    /// These nodes are on the other side; through the gates of the others nobody comes who was not there before.
    fn split(&self, other_side: &[usize]) {
        for (index, gate) in self.gates.iter().enumerate() {
            gate.known_only.store(true, Ordering::Relaxed);
            let is_cut = other_side.contains(&index);
            gate.cut.store(is_cut, Ordering::Relaxed);
        }
    }

    fn heal(&self) {
        for gate in &self.gates {
            gate.known_only.store(false, Ordering::Relaxed);
            gate.cut.store(false, Ordering::Relaxed);
        }
    }
}

/// The cluster as somebody sees it who reaches these nodes alone.
fn side(cluster: &Cluster, own: &[usize]) -> Cluster {
    let mut side = cluster.clone();
    for (index, node) in side.nodes.iter_mut().enumerate() {
        if !own.contains(&index) {
            node.address = SocketAddr::from((NOWHERE, 1 + index as u16));
        }
    }
    side
}

fn options(cluster: Cluster) -> Options {
    Options::new(cluster).mtu_bytes(8_900)
}

#[test]
fn a_writer_on_the_smaller_side_answers_nothing_and_a_standby_on_the_larger_one_takes_over() {
    let cluster = RealCluster::start();
    let network = Network::before(&cluster.cluster);
    let patient = options(network.seen(&cluster.cluster)).open_deadline(LIMIT);
    let short = patient.commit_deadline(SOON).read_deadline(SOON);
    let writer = block_on(Database::create(short)).unwrap();
    let load = Load::start(&writer, "before", CLIENTS);
    load.until_answered(100);
    network.split(&[2, 3, 4, 5]);
    load.until_refused(CLIENTS);
    let outcomes = load.stop();
    // Its lease is over: it says nothing that may be stale, whatever it holds.
    let begun = block_on(writer.begin());
    assert!(matches!(begun, Err(Error::Unavailable { .. })), "{begun:?}");
    let larger = options(side(&cluster.cluster, &[2, 3, 4, 5])).open_deadline(LIMIT);
    let larger = larger.commit_deadline(LIMIT).read_deadline(LIMIT);
    block_on(async {
        let mut standby = Database::standby(larger, StandbyOptions::new());
        let (next, _) = standby.opened().await.unwrap();
        outcomes.check(&next.snapshot()).await;
        commit(&next, "on the larger side").await.unwrap();
        let begun = writer.begin().await;
        assert!(matches!(begun, Err(Error::Unavailable { .. })), "{begun:?}");
        assert!(!writer.is_fenced(), "nobody told it");
        network.heal();
        while !writer.is_fenced() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let begun = writer.begin().await;
        assert!(matches!(begun, Err(Error::Fenced { .. })), "{begun:?}");
        commit(&next, "after it").await.unwrap();
        outcomes.check(&next.snapshot()).await;
        writer.close().await;
        next.close().await;
    });
}

#[test]
fn a_writer_on_the_larger_side_goes_on_and_nobody_on_the_smaller_one_disturbs_it() {
    let cluster = RealCluster::start();
    let network = Network::before(&cluster.cluster);
    let patient = options(network.seen(&cluster.cluster)).open_deadline(LIMIT);
    let patient = patient.commit_deadline(LIMIT).read_deadline(LIMIT);
    let writer = block_on(Database::create(patient)).unwrap();
    let epoch = writer.open_report().volume_epoch;
    let load = Load::start(&writer, "load", CLIENTS);
    load.until_answered(100);
    network.split(&[4, 5]);
    load.until_answered(200);
    let smaller = options(side(&cluster.cluster, &[4, 5])).open_deadline(SOON);
    block_on(async {
        // Neither with force, nor to look.
        let error = Database::take_over(smaller.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let error = Database::open_read_only(smaller).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    });
    load.until_answered(200);
    network.heal();
    eventually("all six are back", || {
        let relations = block_on(writer.stats()).unwrap().writer.relations;
        relations.iter().all(|one| one.attached)
    });
    load.until_answered(100);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(async {
        // One whose connection is just being made anew may not answer at once.
        let nodes = loop {
            let nodes = writer.status().await.unwrap().nodes;
            if nodes.iter().all(|(_, node)| node.is_some()) {
                break nodes;
            }
        };
        let statuses = nodes.iter().filter_map(|(_, node)| node.as_ref());
        let mut segments = statuses.flat_map(|status| &status.segments);
        assert!(segments.all(|segment| segment.claim == epoch));
        outcomes.check(&writer.snapshot()).await;
        writer.close().await;
    });
}
