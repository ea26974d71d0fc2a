//! The real binary as a child process: bounded waits, killed and reaped on every way out. And directories with pictures of
//! them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Bounds every wait; never reached by a healthy process, however busy the machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// An empty directory on the build's file system: the system's temporary directory may be a tmpfs, without `O_DIRECT`.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Every file below a directory with its contents; directories have none.
pub fn picture(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut picture = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
                picture.insert(path, None);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                picture.insert(path, Some(bytes));
            }
        }
    }
    picture
}

/// Waits until `done`; `what` names it when it never comes.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < until, "{what}: not within {LIMIT:?}");
        // Only how soon it is noticed depends on this.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ids of the processes whose command line names this path.
pub fn processes_of(path: &Path) -> Vec<u32> {
    let path = path.to_str().unwrap();
    let named = |id: &u32| {
        // A process that ends meanwhile has no command line.
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let ids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    ids.filter(named).collect()
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub output: Vec<String>,
    pub errors: String,
}

impl Finished {
    /// It ended well.
    pub fn well(self) -> Finished {
        assert!(self.status.success(), "{self:?}");
        self
    }

    /// It ended with an error, and said one line about it.
    pub fn one_line(self) -> String {
        assert!(!self.status.success(), "{self:?}");
        assert!(self.status.code().is_some(), "ended by a signal: {self:?}");
        assert_eq!(self.errors.lines().count(), 1, "{self:?}");
        let line = self
            .errors
            .lines()
            .next()
            .unwrap()
            .strip_prefix("sixfold: ");
        let line = line
            .unwrap_or_else(|| panic!("{:?}", self.errors))
            .to_owned();
        assert!(!line.contains("panicked") && !line.is_empty(), "{line}");
        line
    }
}

/// A running process of the real binary.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// A line that was looked at.
    seen: Option<String>,
    errors: Option<JoinHandle<String>>,
}

fn read_lines(output: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody reads any more when the test has ended.
            let _ = sender.send(line);
        }
    });
    lines
}

impl Running {
    pub fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Running {
        Running::start_with(args, &[])
    }

    /// `settings`: environment variables; those of the caller that the binary reads are hidden from it.
    pub fn start_with<S: AsRef<std::ffi::OsStr>>(args: &[S], settings: &[(&str, &str)]) -> Running {
        Running::spawn(args, settings, true)
    }

    /// Nobody reads its output: the pipe is broken.
    pub fn start_unread<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Running {
        Running::spawn(args, &[], false)
    }

    fn spawn<S: AsRef<std::ffi::OsStr>>(
        args: &[S],
        settings: &[(&str, &str)],
        reads_output: bool,
    ) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sixfold"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SIXFOLD_") || name == "RUST_BACKTRACE" {
                command.env_remove(name);
            }
        }
        command.envs(settings.iter().copied());
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let mut errors = child.stderr.take().unwrap();
        let lines = if reads_output {
            read_lines(child.stdout.take().unwrap())
        } else {
            mpsc::channel().1
        };
        drop(child.stdout.take());
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        Running {
            child,
            input,
            lines,
            seen: None,
            errors: Some(errors),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output, if there is one already.
    pub fn try_line(&mut self) -> Option<String> {
        self.seen.take().or_else(|| self.lines.try_recv().ok())
    }

    /// Whether there is a line already.
    pub fn has_line(&mut self) -> bool {
        self.seen = self.try_line();
        self.seen.is_some()
    }

    /// The next line of its output.
    pub fn line(&mut self) -> String {
        if let Some(line) = self.seen.take() {
            return line;
        }
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(error) => panic!("no line: {error}; {}", self.end_now()),
        }
    }

    /// The next line that begins with `prefix`, without it.
    pub fn wait_for(&mut self, prefix: &str) -> String {
        loop {
            if let Some(rest) = self.line().strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    /// Writes a line to its input.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends its input and waits for its end.
    pub fn finish(mut self) -> Finished {
        self.end_input();
        self.wait()
    }

    /// Waits for its end; its input stays open.
    pub fn wait(mut self) -> Finished {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < until,
                "it does not end: {}",
                self.end_now()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let output = self.lines.iter().collect();
        let errors = self.errors.take().unwrap().join().unwrap();
        Finished {
            status,
            output,
            errors,
        }
    }

    /// Kills it and gives what it said on standard error.
    fn end_now(&mut self) -> String {
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        let errors = self
            .errors
            .take()
            .and_then(|errors| errors.join().ok())
            .unwrap_or_default();
        format!("{status}, standard error: {errors}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended and was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end, with `input` on its standard input.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: &[S], input: &str) -> Finished {
    let mut running = Running::start(args);
    // It may end without reading all of it.
    let _ = running.input.as_mut().unwrap().write_all(input.as_bytes());
    running.finish()
}
