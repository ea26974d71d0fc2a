//! Redis: one server, each write in its append-only file and synced before it is answered.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::CommitArgs;
use crate::commits::{Client, drive};
use crate::outcome::{About, CommitRow};
use crate::server::{Server, find, free_ports, until, version};

pub(crate) async fn commits(args: &CommitArgs) -> Result<CommitRow> {
    let program = find("redis-server")?;
    let about = About {
        system: args.system.clone(),
        version: version(&program, "--version")?,
        copies: 1,
        durable_copies: 1,
        settings: "one server, appendonly yes, appendfsync always, no snapshots (save ''); SET over one TCP connection a client, \
                   on loopback, nodelay"
            .to_owned(),
    };
    let port = free_ports(1)?[0];
    let dir = args.dir.to_str().context("a directory that is not UTF-8")?;
    let flags = [
        "--bind",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--dir",
        dir,
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
    ]
    .map(str::to_owned);
    let log = args.dir.join("redis.log");
    let mut servers = [Server::start(
        "redis-server",
        &program,
        &flags,
        None,
        Signal::KILL,
        &log,
    )?];
    until("redis", &mut servers, async || {
        RedisClient::connect(port).await?.ping().await
    })
    .await?;
    let mut clients = Vec::new();
    for _ in 0..args.clients {
        clients.push(RedisClient::connect(port).await?);
    }
    drive(args, about, clients).await
}

struct RedisClient {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl RedisClient {
    async fn connect(port: u16) -> Result<RedisClient> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(RedisClient {
            stream: BufReader::new(stream),
            request: Vec::new(),
            answer: Vec::new(),
        })
    }

    async fn ping(&mut self) -> Result<()> {
        let answer = self.ask(&[b"PING"]).await?;
        ensure!(answer == b"+PONG\r\n", "redis is not ready");
        Ok(())
    }

    async fn ask(&mut self, words: &[&[u8]]) -> Result<&[u8]> {
        self.request.clear();
        self.request
            .extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.request
                .extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.request.extend_from_slice(word);
            self.request.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        self.stream.read_until(b'\n', &mut self.answer).await?;
        Ok(&self.answer)
    }
}

impl Client for RedisClient {
    async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let answer = self.ask(&[b"SET", key, value]).await?;
        if answer != b"+OK\r\n" {
            bail!("redis said {:?}", String::from_utf8_lossy(answer));
        }
        Ok(())
    }
}
