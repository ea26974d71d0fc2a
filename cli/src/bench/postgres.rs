//! PostgreSQL's crash recovery, for `bench reopen`: a server of its own in a directory of its own, ended at once (SIGQUIT, what
//! `pg_ctl -m immediate stop` sends) when enough of its log lies behind the last checkpoint, and started again.
//!
//! It listens on a socket file only. Started by root, it runs as the user `postgres`. It ends with this process, however that ends.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use sixfold_benches::reopen::median;

use super::reopen_writer::millis;

/// Where distributions keep the programs of each version.
const VERSIONS_DIR: &str = "/usr/lib/postgresql";
/// Whose server it is when root starts it: it refuses to run as root.
const USER: &str = "postgres";
/// Recoveries of the same directory.
const ROUNDS: usize = 3;
/// How long a server may take to answer, recovery included.
const START_LIMIT: Duration = Duration::from_secs(600);
/// How long one may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often a server that recovers is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(5);
/// What a start is measured to.
const FIRST_COMMIT: &str = "INSERT INTO answered VALUES (1);";
/// Rows of the table, as in the load of the reopenings, and of each update.
const ROW_COUNT: u64 = 4_000;
const ROWS_PER_UPDATE: u64 = 2_000;

/// The programs that are installed.
#[derive(Debug)]
pub(super) struct Postgres {
    bin: PathBuf,
    version: String,
    /// Root starts everything through `setpriv`, as another user.
    as_root: bool,
}

/// One size in numbers; the times are medians.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Recovery {
    /// Log behind the last checkpoint when the server was ended.
    #[serde(rename = "postgresql_wal_bytes")]
    wal_bytes: u64,
    /// From the start of the server's process to the first answered commit.
    #[serde(rename = "postgresql_first_commit_ms")]
    pub(super) first_commit_ms: f64,
    /// The same after an orderly stop: what a start takes without a recovery.
    #[serde(rename = "postgresql_clean_start_ms")]
    clean_start_ms: f64,
}

impl Postgres {
    /// Looks for an installation.
    pub(super) fn find() -> Result<Postgres> {
        let mut found: Vec<(u32, PathBuf)> = Vec::new();
        for entry in fs::read_dir(VERSIONS_DIR).context("PostgreSQL is not installed")? {
            let entry = entry.context("PostgreSQL is not installed")?;
            let bin = entry.path().join("bin");
            let major = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(major) = major
                && bin.join("postgres").is_file()
                && bin.join("initdb").is_file()
            {
                found.push((major, bin));
            }
        }
        let (_, bin) = found
            .into_iter()
            .max_by_key(|(major, _)| *major)
            .context("PostgreSQL is not installed")?;
        let as_root = rustix::process::getuid().is_root();
        let mut postgres = Postgres {
            bin,
            version: String::new(),
            as_root,
        };
        let said = output(&mut postgres.command("postgres", &["--version"]))
            .context("PostgreSQL's server does not run")?;
        postgres.version = said.trim().to_owned();
        Ok(postgres)
    }

    /// What it says that it is.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// One of its programs, under the right user; it ends with this process.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=QUIT");
        if self.as_root {
            command.args([
                &format!("--reuid={USER}"),
                &format!("--regid={USER}"),
                "--init-groups",
            ]);
        }
        let program = match program {
            "psql" => PathBuf::from("psql"),
            other => self.bin.join(other),
        };
        command
            .arg("--")
            .arg(program)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        // The directory of whoever runs the bench may be closed to that user.
        command.current_dir("/");
        command
    }

    /// Writes until this much of its log lies behind the last checkpoint, ends the server at once, and starts it again.
    pub(super) async fn recovery(&self, wal_bytes: u64) -> Result<Recovery> {
        let (_root, guard) = crate::demo::root_dir(None)?;
        let guard = guard.context("a temporary directory goes with its guard")?;
        let site = Site::new(self, guard.path())?;
        site.make(wal_bytes)?;
        let server = site.start("SELECT 1;").await?.0;
        let found = site.fill(wal_bytes)?;
        server.end(Signal::QUIT).await?;
        let crashed = guard.path().join("crashed");
        fs::rename(&site.data, &crashed).context("cannot move the data directory")?;
        let mut crash_ms = Vec::new();
        let mut clean_ms = Vec::new();
        for _ in 0..ROUNDS {
            self.copy(&crashed, &site.data)?;
            let (server, time) = site.start(FIRST_COMMIT).await?;
            crash_ms.push(millis(time));
            server.end(Signal::INT).await?;
            let (server, time) = site.start(FIRST_COMMIT).await?;
            clean_ms.push(millis(time));
            server.end(Signal::INT).await?;
            fs::remove_dir_all(&site.data).context("cannot remove the data directory")?;
        }
        Ok(Recovery {
            wal_bytes: found,
            first_commit_ms: median(&crash_ms),
            clean_start_ms: median(&clean_ms),
        })
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(from).arg(to);
        output(&mut copy).context("cannot copy the data directory")?;
        // What was copied is on disk before anything is measured.
        rustix::fs::sync();
        Ok(())
    }
}

/// A data directory and the directory of its socket.
struct Site<'a> {
    postgres: &'a Postgres,
    root: PathBuf,
    data: PathBuf,
}

impl Site<'_> {
    fn new<'a>(postgres: &'a Postgres, root: &Path) -> Result<Site<'a>> {
        let root = root.canonicalize().context("the temporary directory")?;
        let site = Site {
            postgres,
            data: root.join("data"),
            root,
        };
        if postgres.as_root {
            let mut owner = Command::new("chown");
            owner.arg(format!("{USER}:")).arg(&site.root);
            output(&mut owner).context("cannot give the directory to the server's user")?;
        }
        Ok(site)
    }

    fn text(path: &Path) -> Result<&str> {
        path.to_str().context("a path that is not UTF-8")
    }

    fn make(&self, wal_bytes: u64) -> Result<()> {
        let data = Self::text(&self.data)?;
        let args = [
            "-D",
            data,
            "-A",
            "trust",
            "--no-locale",
            "-E",
            "UTF8",
            "-U",
            USER,
        ];
        output(&mut self.postgres.command("initdb", &args)).context("initdb failed")?;
        let path = self.data.join("postgresql.conf");
        let mut text = fs::read_to_string(&path).context("cannot read postgresql.conf")?;
        // No checkpoint by itself: what is written behind the one that is asked for stays to be redone.
        text.push_str(&format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\nfsync = on\ncheckpoint_timeout = 1d\n\
             max_wal_size = {}MB\nmax_connections = 20\nlogging_collector = off\n",
            Self::text(&self.root)?,
            (wal_bytes >> 20) * 4 + 1_024
        ));
        fs::write(&path, text).context("cannot write postgresql.conf")
    }

    /// Starts the server and waits until it has carried this statement out. Returns how long that took.
    async fn start(&self, statement: &str) -> Result<(Server, Duration)> {
        let log = fs::File::create(self.root.join("server.log")).context("cannot make a log")?;
        let begun = Instant::now();
        let child = self
            .postgres
            .command("postgres", &["-D", Self::text(&self.data)?])
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start PostgreSQL")?;
        let mut server = Server { child };
        while self.sql(statement).is_err() {
            if let Some(status) = server
                .child
                .try_wait()
                .context("cannot wait for PostgreSQL")?
            {
                let log = fs::read_to_string(self.root.join("server.log")).unwrap_or_default();
                bail!("PostgreSQL ended with {status}: {}", last_line(&log));
            }
            ensure!(
                begun.elapsed() < START_LIMIT,
                "PostgreSQL did not answer within {START_LIMIT:?}"
            );
            tokio::time::sleep(ASK_INTERVAL).await;
        }
        Ok((server, begun.elapsed()))
    }

    fn fill(&self, wal_bytes: u64) -> Result<u64> {
        self.sql(&format!(
            "CREATE TABLE answered (number bigint); \
             CREATE TABLE rows (id bigint PRIMARY KEY, value text NOT NULL); \
             ALTER TABLE rows ALTER COLUMN value SET STORAGE PLAIN; \
             INSERT INTO rows SELECT id, repeat(md5(id::text), 31) FROM generate_series(0, {}) AS id;",
            ROW_COUNT - 1
        ))?;
        self.sql("CHECKPOINT;")?;
        let mut first = 0;
        loop {
            let found = self.wal_bytes()?;
            if found >= wal_bytes {
                return Ok(found);
            }
            self.sql(&format!(
                "UPDATE rows SET value = repeat(md5((id + {first})::text), 31) \
                 WHERE id >= {first} AND id < {};",
                first + ROWS_PER_UPDATE
            ))?;
            first = (first + ROWS_PER_UPDATE) % ROW_COUNT;
        }
    }

    /// Log behind the last checkpoint, bytes.
    fn wal_bytes(&self) -> Result<u64> {
        let said = self.sql(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn)::bigint FROM pg_control_checkpoint();",
        )?;
        said.trim()
            .parse()
            .context("PostgreSQL's log position cannot be read")
    }

    fn sql(&self, text: &str) -> Result<String> {
        let socket = Self::text(&self.root)?;
        let args = [
            "-X",
            "-q",
            "-t",
            "-A",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            socket,
            "-U",
            USER,
            "-d",
            "postgres",
            "-c",
            text,
        ];
        output(&mut self.postgres.command("psql", &args)).context("PostgreSQL refused a statement")
    }
}

/// A running server, ended and reaped on every way out.
struct Server {
    child: Child,
}

impl Server {
    /// Ends it and waits for its end. SIGQUIT: at once. SIGINT: in order.
    async fn end(mut self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot signal PostgreSQL")?;
        let until = Instant::now() + STOP_LIMIT;
        while self
            .child
            .try_wait()
            .context("cannot wait for PostgreSQL")?
            .is_none()
        {
            ensure!(
                Instant::now() < until,
                "PostgreSQL did not end within {STOP_LIMIT:?}"
            );
            tokio::time::sleep(ASK_INTERVAL).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It ends its own children; killing it would leave them for a moment.
            let _ = kill_process(Pid::from_child(&self.child), Signal::QUIT);
            let until = Instant::now() + Duration::from_secs(5);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(ASK_INTERVAL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or("it said nothing")
}

/// Runs a program to its end; an error says its last line.
fn output(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{}", last_line(&String::from_utf8_lossy(&stderr)));
    }
    String::from_utf8(stdout).context("said something that is not UTF-8")
}
