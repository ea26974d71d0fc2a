//! Servers as child processes: found in PATH, killed and reaped on every way out, and killed by the system when this process is.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::outcome::NotHere;

/// How long a server may take to answer.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);
/// How long one may take to end in order.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often one that starts or ends is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// Ports of servers: below those that the system hands out.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A program in PATH.
///
/// # Errors
/// [`NotHere`].
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    found.ok_or_else(|| NotHere(format!("{program} is not in PATH")).into())
}

/// The first line that a program says of its version.
pub(crate) fn version(program: &Path, flag: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}

/// Free TCP ports on loopback. All are held until the last is found, so that they differ.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let span = u32::from(PORTS.end - PORTS.start);
    // Another place to begin at for each process.
    let first = std::process::id().wrapping_mul(97) % span;
    let mut held = Vec::new();
    for offset in 0..span {
        if held.len() == count {
            break;
        }
        let port = PORTS.start + u16::try_from((first + offset) % span).expect("below the span");
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    if held.len() < count {
        bail!("no {count} free ports");
    }
    held.iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    /// The signal that ends it in order, or as fast as it lets nothing of its own behind.
    end: Signal,
}

impl Server {
    /// Starts a program. What it says goes into `log`. `user`: whose process it is, when this one is root's.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        args: &[String],
        user: Option<&str>,
        end: Signal,
        log: &Path,
    ) -> Result<Server> {
        let output = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = guarded(program, user, end);
        let child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("a second handle of a log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Server {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            end,
        })
    }

    /// Ends it in order (SIGINT) and waits for that.
    pub(crate) async fn end_in_order(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT)
            .context("cannot signal a server")?;
        let until = Instant::now() + STOP_LIMIT;
        while self
            .child
            .try_wait()
            .context("cannot wait for a server")?
            .is_none()
        {
            if Instant::now() > until {
                bail!("{} did not end within {STOP_LIMIT:?}", self.name);
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
        Ok(())
    }

    /// An error when it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait for a server")? {
            None => Ok(()),
            Some(status) => {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it said nothing");
                bail!("{} ended with {status}: {last}", self.name)
            }
        }
    }
}

/// A command under the right user, whose process gets a signal when the thread that started it ends.
pub(crate) fn guarded(program: &Path, user: Option<&str>, end: Signal) -> Command {
    let mut command = Command::new("setpriv");
    let name = match end {
        Signal::QUIT => "QUIT",
        _ => "KILL",
    };
    command.arg(format!("--pdeathsig={name}"));
    if let Some(user) = user {
        command.args([
            &format!("--reuid={user}"),
            &format!("--regid={user}"),
            "--init-groups",
        ]);
    }
    // The directory of whoever runs this may be closed to that user.
    command.arg("--").arg(program).current_dir("/");
    command.env("LC_ALL", "C");
    command
}

/// Asks until it is answered, while all servers run.
pub(crate) async fn until<T>(
    what: &str,
    servers: &mut [Server],
    mut ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        for server in &mut *servers {
            server.check_alive()?;
        }
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if begun.elapsed() > START_LIMIT => {
                return Err(error.context(format!("{what}: not within {START_LIMIT:?}")));
            }
            Err(_) => tokio::time::sleep(ASK_INTERVAL).await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may have children of its own, which it ends.
            let _ = kill_process(Pid::from_child(&self.child), self.end);
            let until = Instant::now() + STOP_LIMIT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(ASK_INTERVAL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
