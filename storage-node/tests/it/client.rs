//! What a writer says to a node, in a few lines.

use std::net::SocketAddr;
use std::time::Duration;

use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{
    Ack, Append, Attach, CreateSegment, Heartbeat, Hello, Message, Probe, Role,
};
use sixfold_log_format::{
    AnnulledRange, Batch, BatchBuilder, History, Lsn, Manifest, ManifestVersion, Member,
    MemberKind, MembershipEpoch, Op, PageId, PageKind, PgEntry, PgId, QuorumModel, Record,
    SegmentId, SegmentSet, VolumeEpoch, VolumeId, VolumeParameters, WriterId,
};
use sixfold_transport::{Connection, Endpoint, Receiver, Sender, TransportOptions};

use crate::cluster::{Cluster, Daemon, node_id};

pub const LAL: u64 = 1_000;
pub const VOLUME_EPOCH: VolumeEpoch = VolumeEpoch::new(2);

pub fn volume() -> VolumeId {
    VolumeId::from_bytes([9; 16])
}

pub fn segment(number: u8) -> SegmentId {
    SegmentId::from_bytes([100 + number; 16])
}

pub fn writer() -> WriterId {
    WriterId::from_bytes([50; 16])
}

/// The volume's manifest; nodes without an address have one where nobody answers, so that gossip meets peers that are gone.
pub fn manifest(volume_epoch: VolumeEpoch, addresses: &[(u8, SocketAddr)]) -> Manifest {
    let members = (1..=6)
        .map(|number| Member {
            segment: segment(number),
            node: node_id(number),
            kind: MemberKind::Full,
            joining: false,
        })
        .collect();
    let hint = |number: u8| NodeHint {
        node: node_id(number),
        az: format!("az{}", number.div_ceil(2)),
        address: match addresses.iter().find(|(known, _)| *known == number) {
            Some((_, address)) => address.to_string(),
            None => "127.0.0.1:9".to_owned(),
        },
    };
    Manifest {
        version: ManifestVersion {
            volume_epoch,
            membership_epoch: MembershipEpoch::new(1),
        },
        volume: volume(),
        parameters: VolumeParameters {
            page_bytes: 8192,
            lal: LAL,
            pages_per_pg: 1 << 20,
            retention_ms: 0,
            retention_bytes: 0,
            token: None,
        },
        pgs: vec![PgEntry {
            pg: PgId::ROOT,
            sets: vec![SegmentSet {
                model: QuorumModel::FourOfSix,
                members,
            }],
            removed: Vec::new(),
        }],
        hints: (1..=6).map(hint).collect(),
    }
}

/// What the first writer of a volume installs: nothing was found, one range is annulled.
pub fn history() -> History {
    let range = AnnulledRange {
        after: Lsn::NONE,
        through: Lsn::new(LAL),
        volume_epoch: VOLUME_EPOCH,
    };
    History {
        volume_epoch: VOLUME_EPOCH,
        floor: Lsn::NONE,
        ranges: vec![range],
    }
}

/// A batch of one record that formats a page.
pub fn batch(lsn: u64, prev: Lsn) -> Batch {
    let lsn = Lsn::new(lsn);
    let mut builder = BatchBuilder::new(volume(), PgId::ROOT, VOLUME_EPOCH, prev);
    let op = Op::Init {
        kind: PageKind::Leaf,
        level: 0,
    };
    let page = PageId::new(lsn.get());
    assert!(builder.push(&Record {
        lsn,
        page,
        page_prev: Lsn::NONE,
        cpl: lsn,
        user_visible: false,
        op
    }));
    builder.seal(Lsn::new(LAL), 1_700_000_000_000)
}

/// A batch of about a megabyte behind `prev`.
pub fn large_batch(prev: Lsn) -> Batch {
    let pages = 120;
    let mut builder = BatchBuilder::new(volume(), PgId::ROOT, VOLUME_EPOCH, prev);
    let mut lsn = prev.get().max(LAL);
    let cpl = Lsn::new(lsn + 2 * pages);
    for _ in 0..pages {
        lsn += 2;
        let page = PageId::new(lsn);
        let init = Op::Init {
            kind: PageKind::Overflow,
            level: 0,
        };
        let bytes = Op::WriteBytes {
            offset: 0,
            bytes: vec![lsn as u8; 8_000].into(),
        };
        let first = Lsn::new(lsn - 1);
        for (lsn, op, page_prev) in [(first, init, Lsn::NONE), (Lsn::new(lsn), bytes, first)] {
            let record = Record {
                lsn,
                page,
                page_prev,
                cpl,
                user_visible: false,
                op,
            };
            assert!(builder.push(&record));
        }
    }
    builder.seal(Lsn::new(LAL), 1_700_000_000_000)
}

/// A client with a role, connected to a node.
pub struct Client {
    /// The node's number.
    number: u8,
    _endpoint: Endpoint,
    pub connection: Connection,
    /// Where nodes are, for manifests.
    pub addresses: Vec<(u8, SocketAddr)>,
}

impl Client {
    pub async fn connect(cluster: &Cluster, daemon: &Daemon, role: Role) -> Client {
        Client::connect_to(cluster, daemon.number, daemon.address, role).await
    }

    pub async fn connect_to(
        cluster: &Cluster,
        number: u8,
        address: SocketAddr,
        role: Role,
    ) -> Client {
        let endpoint =
            Endpoint::client(&cluster.issue(role), &TransportOptions::default()).unwrap();
        let (connection, welcome) = endpoint
            .connect(address, hello(number, role))
            .await
            .unwrap();
        assert_eq!(welcome.node, node_id(number));
        Client {
            number,
            _endpoint: endpoint,
            connection,
            addresses: Vec::new(),
        }
    }

    /// `None` when the node is gone.
    pub async fn try_connect(cluster: &Cluster, daemon: &Daemon, role: Role) -> Option<Client> {
        let endpoint =
            Endpoint::client(&cluster.issue(role), &TransportOptions::default()).unwrap();
        let hello = hello(daemon.number, role);
        let (connection, _) = endpoint.connect(daemon.address, hello).await.ok()?;
        Some(Client {
            number: daemon.number,
            _endpoint: endpoint,
            connection,
            addresses: Vec::new(),
        })
    }

    pub async fn call(&self, message: Message) -> Message {
        self.connection.call(&message).await.unwrap()
    }

    pub async fn create_segment(&self) -> Message {
        let manifest = manifest(VolumeEpoch::CREATION, &self.addresses);
        let create = CreateSegment {
            segment: segment(self.number),
            pg: PgId::ROOT,
            manifest,
        };
        self.call(Message::CreateSegment(Box::new(create))).await
    }

    /// The segment complete LSN and highest claim, as a probe tells them.
    pub async fn probe(&self) -> (Lsn, VolumeEpoch) {
        match self.call(Message::Probe(Probe { volume: volume() })).await {
            Message::ProbeAnswer(answer) => (answer.segments[0].scl, answer.segments[0].claim),
            other => panic!("{other:?}"),
        }
    }

    pub async fn attach(&self) -> LogStream {
        self.try_attach().await.expect("the node is gone")
    }

    /// `None` when the node is gone.
    pub async fn try_attach(&self) -> Option<LogStream> {
        let (mut sender, mut receiver) = self.connection.open().await.ok()?;
        let attach = Attach {
            segment: segment(self.number),
            volume_epoch: VOLUME_EPOCH,
            writer: writer(),
            history: history(),
            manifest: manifest(VOLUME_EPOCH, &self.addresses),
        };
        sender.send(&Message::Attach(Box::new(attach))).await.ok()?;
        match receiver.recv().await.ok()? {
            Some(Message::Attached(attached)) => Some(LogStream {
                sender,
                receiver,
                scl: attached.scl,
                pgmrpl: Lsn::NONE,
                sequence: 0,
            }),
            other => panic!("{other:?}"),
        }
    }
}

pub struct LogStream {
    pub sender: Sender,
    pub receiver: Receiver,
    /// SCL when it was attached.
    pub scl: Lsn,
    /// The lowest read point in use, as its appends say.
    pub pgmrpl: Lsn,
    sequence: u64,
}

impl LogStream {
    pub async fn append(&mut self, batch: &Batch) {
        assert!(self.try_append(batch).await, "the stream ended");
    }

    /// False when the node has ended the stream.
    pub async fn try_append(&mut self, batch: &Batch) -> bool {
        self.sequence += 1;
        let append = Append {
            sequence: self.sequence,
            membership_epoch: MembershipEpoch::new(1),
            pgmrpl: self.pgmrpl,
            pgmrpl_lease_ms: 1_000,
            batch: batch.bytes().clone(),
        };
        self.sender.send(&Message::Append(append)).await.is_ok()
    }

    pub async fn heartbeat(&mut self) {
        self.heartbeat_at(Lsn::new(LAL)).await;
    }

    /// A heartbeat that says that everything up to `vdl` is durable.
    pub async fn heartbeat_at(&mut self, vdl: Lsn) {
        self.sequence += 1;
        let heartbeat = Heartbeat {
            sequence: self.sequence,
            membership_epoch: MembershipEpoch::new(1),
            pg_last: Lsn::NONE,
            vdl,
            pgmrpl: Lsn::NONE,
            pgmrpl_lease_ms: 1_000,
        };
        self.sender
            .send(&Message::Heartbeat(heartbeat))
            .await
            .unwrap();
    }

    /// Appends large batches behind an empty segment and waits until they are durable. Returns the last LSN.
    pub async fn fill(&mut self, batches: usize) -> Lsn {
        let mut last = Lsn::NONE;
        for _ in 0..batches {
            let batch = large_batch(last);
            last = batch.header().last;
            self.append(&batch).await;
        }
        self.ack(|ack| ack.scl == last).await;
        last
    }

    /// The first ack that `enough` likes.
    pub async fn ack(&mut self, enough: impl Fn(&Ack) -> bool) -> Ack {
        loop {
            match self.receiver.recv().await.unwrap() {
                Some(Message::Ack(ack)) if enough(&ack) => return ack,
                Some(Message::Ack(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

pub fn hello(number: u8, role: Role) -> Hello {
    Hello::new(role, node_id(number), None)
}

pub fn bounded(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(300), test)
            .await
            .expect("no answer");
    });
}
