//! What the transport costs by itself: one client and six echoing nodes, each a thread with a runtime of its own. The
//! client sends every message to all six on long-lived streams; a message is done with its fourth answer.
//!
//! `cargo run --release -p sixfold-transport --example echo -- [--seconds S] [--bytes B] [--flights 1,16,64] [--mtu N]`

#![allow(clippy::cast_precision_loss)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Hello, Message, Role, WIRE_VERSION};
use sixfold_transport::{ClusterCa, Connection, Endpoint, Identity, TransportOptions};
use tokio::sync::mpsc as queue;

const NODE_COUNT: u8 = 6;
const QUORUM: usize = 4;

struct Settings {
    duration: Duration,
    message_bytes: usize,
    flights: Vec<usize>,
    options: TransportOptions,
}

fn settings() -> Settings {
    let mut settings = Settings {
        duration: Duration::from_secs(3),
        message_bytes: 512,
        flights: vec![1, 16],
        options: TransportOptions::default(),
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        let [name, value] = pair else {
            panic!("{pair:?} has no value");
        };
        let number = || value.parse().expect("a number");
        match name.as_str() {
            "--seconds" => settings.duration = Duration::from_secs(number() as u64),
            "--bytes" => settings.message_bytes = number(),
            "--flights" => {
                settings.flights = value
                    .split(',')
                    .map(|flight| flight.parse().expect("a number"))
                    .collect();
            }
            "--mtu" => settings.options.mtu_bytes = Some(value.parse().expect("bytes")),
            _ => panic!("{name} is no setting"),
        }
    }
    settings
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn node_id(index: u8) -> NodeId {
    NodeId::from_bytes([index; 16])
}

fn start_node(index: u8, identity: Identity, options: TransportOptions) -> SocketAddr {
    let (told, address) = mpsc::channel();
    std::thread::spawn(move || runtime().block_on(serve(index, &identity, &options, &told)));
    address.recv().expect("the node listens")
}

async fn serve(
    index: u8,
    identity: &Identity,
    options: &TransportOptions,
    told: &mpsc::Sender<SocketAddr>,
) {
    let any = "127.0.0.1:0".parse().expect("an address");
    let server = Endpoint::server(any, identity, options).expect("an endpoint");
    told.send(server.local_address()).expect("somebody listens");
    while let Some(incoming) = server.accept().await {
        let (connection, _) = incoming.welcome(node_id(index), 1).await.expect("a peer");
        while let Ok((mut sender, mut receiver)) = connection.accept().await {
            tokio::spawn(async move {
                while let Ok(Some(message)) = receiver.recv().await {
                    if sender.send(&message).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
}

/// One stream to one node: a task that sends what is queued, and one that reports answers.
async fn attach(
    connection: &Connection,
    answers: queue::UnboundedSender<u8>,
    index: u8,
) -> queue::UnboundedSender<Message> {
    let (mut sender, mut receiver) = connection.open().await.expect("a stream");
    let (queued, mut to_send) = queue::unbounded_channel::<Message>();
    tokio::spawn(async move {
        while let Some(message) = to_send.recv().await {
            if sender.send(&message).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Ok(Some(_)) = receiver.recv().await {
            if answers.send(index).is_err() {
                return;
            }
        }
    });
    queued
}

struct Measured {
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Measured {
    fn quantile_us(&mut self, per_mille: usize) -> f64 {
        self.latencies.sort_unstable();
        let index = (self.latencies.len() * per_mille / 1_000).min(self.latencies.len() - 1);
        self.latencies[index].as_secs_f64() * 1e6
    }
}

async fn measure(
    connections: &[Connection],
    in_flight: usize,
    bytes: usize,
    duration: Duration,
) -> Measured {
    let (report, mut answers) = queue::unbounded_channel();
    let mut nodes = Vec::new();
    for (index, connection) in (0..NODE_COUNT).zip(connections) {
        nodes.push(attach(connection, report.clone(), index).await);
    }
    let message = Message::Echo(Bytes::from(vec![7; bytes]));
    let mut answered = [0_usize; NODE_COUNT as usize];
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let (mut done, mut latencies) = (0, Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < duration {
        while waiting.len() < in_flight {
            waiting.push_back(Instant::now());
            for node in &nodes {
                node.send(message.clone()).expect("the node lives");
            }
        }
        let index = answers.recv().await.expect("an answer");
        answered[usize::from(index)] += 1;
        while let Ok(index) = answers.try_recv() {
            answered[usize::from(index)] += 1;
        }
        let mut order = answered;
        order.sort_unstable();
        // Streams keep order, so the fourth highest count is what four nodes have answered.
        let reached = order[usize::from(NODE_COUNT) - QUORUM];
        while done < reached {
            latencies.push(waiting.pop_front().expect("it was sent").elapsed());
            done += 1;
        }
    }
    Measured {
        latencies,
        elapsed: begun.elapsed(),
    }
}

async fn run(addresses: &[SocketAddr], writer: &Identity, settings: &Settings) {
    let client = Endpoint::client(writer, &settings.options).expect("an endpoint");
    let mut connections = Vec::new();
    for (index, address) in (0..NODE_COUNT).zip(addresses) {
        let hello = Hello {
            wire_min: 1,
            wire_max: WIRE_VERSION,
            role: Role::Writer,
            node: node_id(index),
            volume: None,
            token: Vec::new(),
        };
        connections.push(
            client
                .connect(*address, hello)
                .await
                .expect("a connection")
                .0,
        );
    }
    measure(
        &connections,
        4,
        settings.message_bytes,
        Duration::from_millis(300),
    )
    .await;
    for in_flight in &settings.flights {
        let before = connections[0].stats();
        let mut measured = measure(
            &connections,
            *in_flight,
            settings.message_bytes,
            settings.duration,
        )
        .await;
        let after = connections[0].stats();
        let count = measured.latencies.len() as f64;
        println!(
            "{} B, {in_flight:>3} in flight: {:>7.0}/s  p50 {:>6.0} us  p99 {:>6.0} us  p99.9 {:>6.0} us  datagrams a message {:.2} out {:.2} in",
            settings.message_bytes,
            count / measured.elapsed.as_secs_f64(),
            measured.quantile_us(500),
            measured.quantile_us(990),
            measured.quantile_us(999),
            (after.sent_datagrams - before.sent_datagrams) as f64 / count,
            (after.received_datagrams - before.received_datagrams) as f64 / count,
        );
    }
    client.close().await;
}

fn main() {
    let settings = settings();
    let ca = ClusterCa::generate().expect("an authority");
    let addresses: Vec<SocketAddr> = (0..NODE_COUNT)
        .map(|index| {
            let identity = ca
                .issue(Role::Node, Some(node_id(index)))
                .expect("a certificate");
            start_node(index, identity, settings.options.clone())
        })
        .collect();
    let writer = ca.issue(Role::Writer, None).expect("a certificate");
    runtime().block_on(run(&addresses, &writer, &settings));
}
