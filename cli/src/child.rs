//! Child processes that never outlive their parent, and the signals that end a process in order.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Resolves at SIGTERM or Ctrl-C, and with `stdin` also when standard input ends: a child whose parent was killed
/// ends by itself.
pub(crate) async fn stop_signal(stdin: bool) {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    // Kept when standard input does not count, so that the receiver never resolves.
    let mut keep = Some(sender);
    if stdin {
        let sender = keep.take();
        // A thread of its own: a blocking read has no place on a runtime, and it dies with the process.
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            let mut buffer = [0; 256];
            while matches!(input.read(&mut buffer), Ok(count) if count > 0) {}
            drop(sender);
        });
    }
    let mut term = signal(SignalKind::terminate()).ok();
    let terminated = async {
        match term.as_mut() {
            Some(term) => {
                term.recv().await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = receiver => {}
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
    drop(keep);
}

/// A child that is killed and reaped when it is dropped, on every way out.
#[derive(Debug)]
pub(crate) struct OwnedChild {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// Ends with the child's standard error, and gives what it said last of why it ends.
    last_words: Option<JoinHandle<Option<String>>>,
}

/// Passes on what a child says on standard error, but for the line that says why it ends: that one is the parent's to tell, once.
fn pass_on(errors: ChildStderr) -> Option<String> {
    let mut last_words = None;
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        match line.strip_prefix("sixfold: ") {
            Some(words) => last_words = Some(words.to_owned()),
            None => eprintln!("{line}"),
        }
    }
    last_words
}

impl OwnedChild {
    /// Starts this very program with `args`. Standard output is read line by line; standard error is passed on.
    pub(crate) fn start(name: &str, args: &[String]) -> Result<OwnedChild> {
        let program = std::env::current_exe().context("cannot find the program itself")?;
        OwnedChild::start_program(name, &program, args)
    }

    /// The same with another program, which ends when its standard input does.
    pub(crate) fn start_program(name: &str, program: &Path, args: &[String]) -> Result<OwnedChild> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().expect("standard output was asked for");
        let errors = child.stderr.take().expect("standard error was asked for");
        let last_words = Some(std::thread::spawn(move || pass_on(errors)));
        let (sender, lines) = mpsc::channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        Ok(OwnedChild {
            name: name.to_owned(),
            child,
            input,
            lines,
            last_words,
        })
    }

    /// The child's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that begins with `prefix`, without it; other lines are dropped.
    pub(crate) async fn wait_for(&mut self, prefix: &str, limit: Duration) -> Result<String> {
        let found = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return Some(rest.trim().to_owned());
                }
            }
            None
        };
        match tokio::time::timeout(limit, found).await {
            Ok(Some(rest)) => Ok(rest),
            Ok(None) => {
                let status = self.child.wait().context("cannot wait for a child")?;
                Err(self.why_ended(status))
            }
            Err(_) => bail!(
                "{} did not say {:?} within {limit:?}",
                self.name,
                prefix.trim()
            ),
        }
    }

    /// All lines that are there already.
    pub(crate) fn lines_at_hand(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// All lines from now on, until its output ends: also those that it said before it was killed.
    pub(crate) fn take_lines(&mut self) -> mpsc::Receiver<String> {
        std::mem::replace(&mut self.lines, mpsc::channel(1).1)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Writes a line to the child's standard input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .with_context(|| format!("{} takes no input any more", self.name))?;
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .with_context(|| format!("cannot tell {}", self.name))
    }

    /// Whether it still runs; an error when it ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait for a child")? {
            None => Ok(()),
            Some(status) => Err(self.why_ended(status)),
        }
    }

    /// Why it ended, in its own words if it had any.
    fn why_ended(&mut self, status: ExitStatus) -> anyhow::Error {
        let last_words = self
            .last_words
            .take()
            .and_then(|thread| thread.join().ok())
            .flatten();
        match last_words {
            Some(words) => anyhow!("{}: {words}", self.name),
            None => anyhow!("{} ended with {status}", self.name),
        }
    }

    /// Waits for it to end by itself, however it ends: with what it said of why, if not well.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<Option<anyhow::Error>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                let why = (!status.success()).then(|| self.why_ended(status));
                return Ok(why);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end within {limit:?}", self.name);
            }
            // Only how soon the end is noticed depends on this.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it with SIGKILL and reaps it.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("cannot reap {}", self.name))?;
        Ok(())
    }

    /// Ends its standard input and waits for it to end by itself; an error when it did not end well.
    pub(crate) async fn finish(mut self, limit: Duration) -> Result<()> {
        self.end_input();
        self.ended(limit).await?.map_or(Ok(()), Err)
    }

    /// Ends its standard input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Killing fails only when it has just ended; waiting then reaps it all the same.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
