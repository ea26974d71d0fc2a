//! PostgreSQL: a primary and six standbys; a commit is answered when the primary and any four standbys have it on disk.
//!
//! One directory is made, and copied for the standbys while no server runs on it. Started by root, all run as the user `postgres`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tokio_postgres::{NoTls, Statement};

use crate::CommitArgs;
use crate::commits::{Client, drive};
use crate::outcome::{About, CommitRow, NotHere};
use crate::server::{Server, free_ports, guarded, until, version};

/// Where distributions keep the programs of each version.
const VERSIONS_DIR: &str = "/usr/lib/postgresql";
/// Whose servers they are when root starts them: they refuse to run as root.
const USER: &str = "postgres";
/// Copies beside the primary's, and how many of them a commit waits for.
const STANDBYS: usize = 6;
const STANDBYS_WAITED_FOR: usize = 4;
/// Connections that a server needs for others than the clients.
const OTHER_CONNECTIONS: usize = 20;

const CREATE: &str = "CREATE TABLE kv (key text PRIMARY KEY, value bytea NOT NULL)";
const PUT: &str =
    "INSERT INTO kv VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const STREAMING: &str = "SELECT count(*) FROM pg_stat_get_wal_senders() WHERE state = 'streaming'";

/// The programs of the newest version that is installed.
fn find_bin() -> Result<PathBuf> {
    let not_here = || NotHere(format!("PostgreSQL is not in {VERSIONS_DIR}"));
    let entries = fs::read_dir(VERSIONS_DIR).map_err(|_| not_here())?;
    let found = entries.flatten().filter_map(|entry| {
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bin = entry.path().join("bin");
        let whole = bin.join("postgres").is_file() && bin.join("initdb").is_file();
        whole.then_some((major, bin))
    });
    let newest = found.max_by_key(|(major, _)| *major);
    Ok(newest.ok_or_else(not_here)?.1)
}

pub(crate) async fn commits(args: &CommitArgs) -> Result<CommitRow> {
    let site = Site {
        bin: find_bin()?,
        user: rustix::process::getuid().is_root().then_some(USER),
        root: args.dir.canonicalize().context("the directory")?,
        ports: free_ports(1 + STANDBYS)?,
        connections: args.clients + OTHER_CONNECTIONS,
    };
    let about = About {
        system: args.system.clone(),
        version: version(&site.bin.join("postgres"), "--version")?,
        copies: u32::try_from(1 + STANDBYS)?,
        durable_copies: u32::try_from(1 + STANDBYS_WAITED_FOR)?,
        settings: format!(
            "a primary and {STANDBYS} standbys, synchronous_standby_names = 'ANY {STANDBYS_WAITED_FOR} (...)', synchronous_commit \
             = on (standbys have it on disk), fsync = on, defaults otherwise; one TCP connection a client on loopback, prepared \
             INSERT ... ON CONFLICT DO UPDATE, autocommit"
        ),
    };
    site.make_primary().await?;
    let mut servers = site.start_all()?;
    let port = site.ports[0];
    until("all standbys stream", &mut servers, async || {
        let (client, connection) = tokio_postgres::connect(&site.address(port), NoTls).await?;
        let driver = tokio::spawn(connection);
        let row = client.query_one(STREAMING, &[]).await?;
        driver.abort();
        let streaming: i64 = row.get(0);
        ensure!(
            usize::try_from(streaming) == Ok(STANDBYS),
            "{streaming} standbys stream"
        );
        Ok(())
    })
    .await?;
    let mut clients = Vec::new();
    for _ in 0..args.clients {
        let (client, connection) = tokio_postgres::connect(&site.address(port), NoTls).await?;
        tokio::task::spawn_local(async move {
            // An error of it shows as one of the client's requests.
            let _ = connection.await;
        });
        let put = client.prepare(PUT).await?;
        clients.push(PostgresClient { client, put });
    }
    drive(args, about, clients).await
}

struct Site {
    bin: PathBuf,
    user: Option<&'static str>,
    root: PathBuf,
    ports: Vec<u16>,
    connections: usize,
}

impl Site {
    fn address(&self, port: u16) -> String {
        format!("host=127.0.0.1 port={port} user={USER} dbname=postgres connect_timeout=5")
    }

    /// The primary's directory is number 0.
    fn data(&self, number: usize) -> PathBuf {
        self.root.join(format!("data-{number}"))
    }

    fn start(&self, number: usize) -> Result<Server> {
        let data = text(&self.data(number))?;
        Server::start(
            &format!("postgres {number}"),
            &self.bin.join("postgres"),
            &["-D".to_owned(), data],
            self.user,
            // What ends it at once and takes its own processes with it.
            Signal::QUIT,
            &self.root.join(format!("postgres-{number}.log")),
        )
    }

    /// Makes the directory and the table, and leaves no server running.
    async fn make_primary(&self) -> Result<()> {
        if let Some(user) = self.user {
            let mut owner = Command::new("chown");
            finish(owner.arg(format!("{user}:")).arg(&self.root))?;
        }
        let mut initdb = guarded(&self.bin.join("initdb"), self.user, Signal::KILL);
        let data = text(&self.data(0))?;
        initdb.args(["-D", &data, "-A", "trust", "--no-locale", "-E", "UTF8"]);
        finish(initdb.args(["-U", USER]))?;
        let port = self.ports[0];
        self.append(
            &self.data(0),
            &format!(
                "\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nport = {port}\nmax_connections = {}\n",
                self.connections
            ),
        )?;
        let mut servers = [self.start(0)?];
        until("a table", &mut servers, async || {
            let (client, connection) = tokio_postgres::connect(&self.address(port), NoTls).await?;
            let driver = tokio::spawn(connection);
            let created = client.batch_execute(CREATE).await;
            driver.abort();
            Ok(created?)
        })
        .await?;
        let [server] = servers;
        server.end_in_order().await
    }

    /// Copies the directory for each standby, and starts everybody.
    fn start_all(&self) -> Result<Vec<Server>> {
        let names: Vec<String> = (1..=STANDBYS).map(|number| format!("s{number}")).collect();
        for (number, name) in (1..).zip(&names) {
            let data = self.data(number);
            let mut copy = Command::new("cp");
            finish(copy.arg("-a").arg(self.data(0)).arg(&data))?;
            self.append(
                &data,
                &format!(
                    "port = {}\ncluster_name = '{name}'\nprimary_conninfo = '{}'\n",
                    self.ports[number],
                    self.address(self.ports[0])
                ),
            )?;
            let signal = data.join("standby.signal");
            fs::write(&signal, "").context("cannot write standby.signal")?;
            if let Some(user) = self.user {
                finish(Command::new("chown").arg(format!("{user}:")).arg(&signal))?;
            }
        }
        self.append(
            &self.data(0),
            &format!(
                "synchronous_commit = on\nsynchronous_standby_names = 'ANY {STANDBYS_WAITED_FOR} ({})'\n",
                names.join(", ")
            ),
        )?;
        (0..=STANDBYS).map(|number| self.start(number)).collect()
    }

    fn append(&self, data: &Path, settings: &str) -> Result<()> {
        use std::io::Write;
        let path = data.join("postgresql.conf");
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(file.write_all(settings.as_bytes())?)
    }
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().context("a path that is not UTF-8")?;
    Ok(text.to_owned())
}

/// Runs a program to its end; an error says its last line.
fn finish(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.lines().last().unwrap_or("it said nothing"));
    }
    Ok(())
}

struct PostgresClient {
    client: tokio_postgres::Client,
    put: Statement,
}

impl Client for PostgresClient {
    async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let key = std::str::from_utf8(key).context("a key that is not UTF-8")?;
        let rows = self.client.execute(&self.put, &[&key, &value]).await?;
        ensure!(rows == 1, "{rows} rows were written");
        Ok(())
    }
}
