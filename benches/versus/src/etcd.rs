//! etcd: three or five members, each syncing its log; every put is agreed on by a majority of them.
//!
//! Its two messages that are needed here are written down by hand, so that nothing has to generate code.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use crate::CommitArgs;
use crate::commits::{Client, drive};
use crate::outcome::{About, CommitRow};
use crate::server::{Server, find, free_ports, until, version};

/// Clients that share a connection, as far as its benchmark's documentation goes: 1,000 clients on 100 connections.
const CLIENTS_PER_CONNECTION: usize = 10;
/// How long a request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`, without what is not looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// `etcdserverpb.StatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    /// The member that was elected.
    #[prost(uint64, tag = "4")]
    elected: u64,
}

pub(crate) async fn commits(args: &CommitArgs, members: usize) -> Result<CommitRow> {
    let program = find("etcd")?;
    let connections = args.clients.div_ceil(CLIENTS_PER_CONNECTION);
    let about = About {
        system: args.system.clone(),
        version: version(&program, "--version")?,
        copies: u32::try_from(members)?,
        durable_copies: u32::try_from(members / 2 + 1)?,
        settings: format!(
            "{members} members on loopback, defaults (each syncs its log), warnings logged; clients put over gRPC to the elected \
             member, {connections} connections"
        ),
    };
    let (mut servers, ports) = start(args, &program, members)?;
    let elected = until("etcd elects a member", &mut servers, async || {
        elected(&ports).await
    })
    .await?;
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(connect(elected).await?);
    }
    let clients: Vec<EtcdClient> = (0..args.clients)
        .map(|client| EtcdClient {
            grpc: Grpc::new(channels[client % connections].clone()),
        })
        .collect();
    drive(args, about, clients).await
}

/// Starts the members. Returns their ports for clients, too.
fn start(
    args: &CommitArgs,
    program: &std::path::Path,
    members: usize,
) -> Result<(Vec<Server>, Vec<u16>)> {
    let ports = free_ports(2 * members)?;
    let (client_ports, peer_ports) = ports.split_at(members);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let initial: Vec<String> = peer_ports
        .iter()
        .enumerate()
        .map(|(index, port)| format!("member-{index}={}", url(*port)))
        .collect();
    let mut servers = Vec::new();
    for (index, (client, peer)) in client_ports.iter().zip(peer_ports).enumerate() {
        let name = format!("member-{index}");
        let dir = args.dir.join(&name);
        let flags = [
            ("--name", name.clone()),
            (
                "--data-dir",
                dir.to_str()
                    .context("a directory that is not UTF-8")?
                    .to_owned(),
            ),
            ("--listen-client-urls", url(*client)),
            ("--advertise-client-urls", url(*client)),
            ("--listen-peer-urls", url(*peer)),
            ("--initial-advertise-peer-urls", url(*peer)),
            ("--initial-cluster", initial.join(",")),
            ("--initial-cluster-state", "new".to_owned()),
            ("--log-level", "warn".to_owned()),
        ];
        let flags: Vec<String> = flags
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let log = args.dir.join(format!("{name}.log"));
        servers.push(Server::start(
            &format!("etcd {name}"),
            program,
            &flags,
            None,
            Signal::KILL,
            &log,
        )?);
    }
    Ok((servers, client_ports.to_vec()))
}

async fn connect(port: u16) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .timeout(REQUEST_LIMIT);
    Ok(endpoint.connect().await?)
}

/// The client port of the member that was elected.
async fn elected(ports: &[u16]) -> Result<u16> {
    let mut found = None;
    for &port in ports {
        let mut grpc = Grpc::new(connect(port).await?);
        let status: StatusResponse = call(
            &mut grpc,
            "/etcdserverpb.Maintenance/Status",
            StatusRequest {},
        )
        .await?;
        let member = status
            .header
            .context("a status without a header")?
            .member_id;
        if status.elected != 0 && status.elected == member {
            found = Some(port);
        }
    }
    found.context("none is elected yet")
}

async fn call<Q, A>(grpc: &mut Grpc<Channel>, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    grpc.ready().await.context("the connection is gone")?;
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let answer = grpc
        .unary(tonic::Request::new(request), path, codec)
        .await?;
    Ok(answer.into_inner())
}

struct EtcdClient {
    grpc: Grpc<Channel>,
}

impl Client for EtcdClient {
    async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let request = PutRequest {
            key: key.to_vec(),
            value: value.to_vec(),
        };
        let _: PutResponse = call(&mut self.grpc, "/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }
}
