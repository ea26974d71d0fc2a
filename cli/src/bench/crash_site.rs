//! Where `bench crash` plays: nine nodes behind a relay, three in each zone, of which two hold the volume and one is a spare; the
//! processes that use the volume; and the record of what those said.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sixfold::{Cluster, ClusterNode};
use sixfold_benches::crash::relay::{Cut, Relay};
use sixfold_benches::crash::work::{Outcome, Record, Said};
use sixfold_benches::history::file::Collector;
use sixfold_log_format::wire::Message;
use sixfold_log_format::{PgEntry, VolumeEpoch};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::child::OwnedChild;
use crate::cluster_dir::{ClusterDir, az_of, path_text};
use crate::verbs::hands::Hands;

/// Nodes: two hosts and a spare in each zone.
pub(super) const FLEET: usize = 9;
/// Size of a node's hot-log file, MiB.
const HOT_LOG_FILE_MIB: u64 = 8;
/// Budgets of a node, small: redo goes into layers about once a second.
const BUDGETS: [&str; 5] = [
    "--resident-redo-mib=1",
    "--page-cache-mib=4",
    "--layer-cache-mib=4",
    "--unfolded-redo-mib=4",
    "--hot-log-mib=64",
];
/// How long a node may take to scan its log and answer, or to end.
pub(super) const NODE_LIMIT: Duration = Duration::from_secs(90);
/// How often processes are looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What stands between a node and its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskKind {
    /// Nothing.
    Plain,
    /// A disk that can be full or fail.
    Failing,
    /// One with a volatile cache.
    Volatile,
}

struct Node {
    child: OwnedChild,
    disk: DiskKind,
}

/// What was said in the run.
#[derive(Debug)]
pub(super) struct Log {
    /// Of all cycles.
    pub(super) record: Record,
    /// The cycle that runs.
    pub(super) cycle: u32,
    /// Its history.
    pub(super) events: Collector,
    /// When its answered commits were heard of, and of which clients they are.
    pub(super) answers: Vec<(Instant, u32)>,
}

/// How far a process that uses the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It opens.
    Started,
    /// It watches the writer.
    Following,
    /// Its clients work.
    Opened,
}

/// A writer or standby.
pub(super) struct Process {
    pub(super) child: OwnedChild,
    /// Ends with the process's output, however it ended.
    reader: JoinHandle<Result<()>>,
    stage: Rc<Cell<Stage>>,
    first_client: u32,
}

impl Process {
    /// The number of its first client: earlier processes have lower ones.
    pub(super) fn first_client(&self) -> u32 {
        self.first_client
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// An error when it ended by itself.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.child.check_alive()
    }

    /// SIGKILL. What it said before is taken all the same.
    pub(super) async fn kill(self) -> Result<()> {
        self.child.kill()?;
        self.reader.await.context("a reader failed")?
    }

    /// Ends its input, and waits for its end and for all that it said. What it had to say of its end, if it did not end well.
    pub(super) async fn finish(mut self, limit: Duration) -> Result<Option<anyhow::Error>> {
        self.child.end_input();
        let why = self.child.ended(limit).await?;
        self.reader.await.context("a reader failed")??;
        Ok(why)
    }
}

/// The site. Everything that runs in it ends with it.
pub(super) struct Site {
    root: PathBuf,
    dir: ClusterDir,
    /// As clients see it: through the relay.
    pub(super) cluster: Cluster,
    pub(super) relay: Relay,
    nodes: BTreeMap<usize, Node>,
    pub(super) hands: Rc<Hands>,
    /// Nodes that hold a segment.
    pub(super) hosts: Vec<usize>,
    pub(super) log: Rc<RefCell<Log>>,
    next_client: u32,
    begun: Instant,
    story: RefCell<File>,
}

impl Site {
    pub(super) async fn start(root: &Path) -> Result<Site> {
        let root = root.canonicalize()?;
        let dir = ClusterDir::at(&root)?;
        ensure!(!dir.exists(), "{} holds a cluster already", root.display());
        dir.lay_out_fleet(FLEET, HOT_LOG_FILE_MIB)?;
        let relay = dir.put_behind_relay()?;
        let cluster = dir.cluster()?;
        let log = Log {
            record: Record::default(),
            cycle: 0,
            events: Collector::new(0),
            answers: Vec::new(),
        };
        let mut site = Site {
            hands: Hands::new(&cluster, "operator")?,
            story: RefCell::new(File::create(root.join("story.log"))?),
            root,
            dir,
            cluster,
            relay,
            nodes: BTreeMap::new(),
            hosts: (0..6).collect(),
            log: Rc::new(RefCell::new(log)),
            next_client: 0,
            begun: Instant::now(),
        };
        let all: Vec<usize> = (0..FLEET).collect();
        site.start_nodes(&all, DiskKind::Plain).await?;
        Ok(site)
    }

    /// Notes what happens, for whoever has to find out why, and for a person who waits.
    pub(super) fn note(&self, what: &str) {
        let line = format!("{:9.3} {what}", self.begun.elapsed().as_secs_f64());
        if std::io::stderr().is_terminal() {
            eprintln!("{line}");
        }
        // A story with a gap is better than none.
        let _ = writeln!(self.story.borrow_mut(), "{line}");
    }

    /// Where everything is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn data_dir(&self, index: usize) -> PathBuf {
        self.dir.node_dir(index).join("data")
    }

    /// Names of the layer files of a node.
    pub(super) fn layers(&self, index: usize) -> BTreeSet<std::ffi::OsString> {
        let entries = std::fs::read_dir(self.data_dir(index).join("layers"));
        let entries = entries.into_iter().flatten();
        entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect()
    }

    fn start_node(&mut self, index: usize, disk: DiskKind) -> Result<()> {
        let dir = self.dir.node_dir(index);
        let mut args = vec![
            "bench".to_owned(),
            "crash-node".to_owned(),
            format!("--config={}", path_text(&dir.join("node.toml"))?),
        ];
        args.extend(BUDGETS.map(str::to_owned));
        if disk != DiskKind::Plain {
            args.push("--disk".to_owned());
        }
        if disk == DiskKind::Volatile {
            let graves = dir.join("graves");
            std::fs::create_dir_all(&graves)?;
            args.push(format!("--graves={}", path_text(&graves)?));
        }
        // A disk that fails is what is asked for.
        let loud = if disk == DiskKind::Plain {
            "error"
        } else {
            "off"
        };
        quiet(&mut args, loud);
        let child = OwnedChild::start(&format!("node {}", index + 1), &args)?;
        self.nodes.insert(index, Node { child, disk });
        Ok(())
    }

    /// Starts nodes and waits until each serves.
    pub(super) async fn start_nodes(&mut self, indexes: &[usize], disk: DiskKind) -> Result<()> {
        for &index in indexes {
            self.start_node(index, disk)?;
        }
        for index in indexes {
            let node = self.nodes.get_mut(index).context("no such node")?;
            node.child.wait_for("ready ", NODE_LIMIT).await?;
        }
        Ok(())
    }

    /// Has these nodes run before such a disk, and all others before their own. Nobody uses the volume meanwhile.
    pub(super) async fn prepare(&mut self, indexes: &[usize], disk: DiskKind) -> Result<()> {
        for index in 0..FLEET {
            let wanted = match indexes.contains(&index) {
                true => disk,
                false => DiskKind::Plain,
            };
            if self
                .nodes
                .get(&index)
                .is_some_and(|node| node.disk == wanted)
            {
                continue;
            }
            if let Some(node) = self.nodes.remove(&index) {
                node.child.finish(NODE_LIMIT).await?;
            }
            self.start_nodes(&[index], wanted).await?;
        }
        Ok(())
    }

    pub(super) fn take_node(&mut self, index: usize) -> Result<OwnedChild> {
        let node = self.nodes.remove(&index).context("no such node")?;
        Ok(node.child)
    }

    pub(super) fn node(&mut self, index: usize) -> Result<&mut OwnedChild> {
        let node = self.nodes.get_mut(&index).context("no such node")?;
        Ok(&mut node.child)
    }

    pub(super) fn signal_nodes(&mut self, indexes: &[usize], signal: Signal) -> Result<()> {
        for index in indexes {
            self.node(*index)?.signal(signal)?;
        }
        Ok(())
    }

    /// An error when a node has ended by itself.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        for node in self.nodes.values_mut() {
            node.child.check_alive()?;
        }
        Ok(())
    }

    /// Starts a process that uses the volume.
    pub(super) fn start_process(
        &mut self,
        (clients, history_clients): (u32, u32),
        begun_ns: u64,
        flag: Option<&str>,
    ) -> Result<Process> {
        let mut args = vec![
            "bench".to_owned(),
            "crash-writer".to_owned(),
            format!("--cluster={}", path_text(&self.dir.cluster_file())?),
            format!("--cycle={}", self.log.borrow().cycle),
            format!("--first-client={}", self.next_client),
            format!("--clients={clients}"),
            format!("--history-clients={history_clients}"),
            format!("--begun-ns={begun_ns}"),
        ];
        args.extend(flag.map(str::to_owned));
        quiet(&mut args, "error");
        let first_client = self.next_client;
        self.next_client += clients + history_clients;
        let mut child = OwnedChild::start("a writer", &args)?;
        let stage = Rc::new(Cell::new(Stage::Started));
        let lines = child.take_lines();
        let collecting = collect(lines, Rc::clone(&self.log), Rc::clone(&stage));
        Ok(Process {
            child,
            reader: tokio::task::spawn_local(collecting),
            stage,
            first_client,
        })
    }

    /// Starts an operator's verb.
    pub(super) fn start_verb(
        &self,
        words: &[&str],
        flags: &[(&str, String)],
    ) -> Result<OwnedChild> {
        let mut args: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        args.extend(
            flags
                .iter()
                .map(|(name, value)| format!("--{name}={value}")),
        );
        args.push(format!("--dir={}", path_text(&self.root)?));
        quiet(&mut args, "error");
        OwnedChild::start(words.last().unwrap_or(&"a verb"), &args)
    }

    /// The next number that no client has had.
    pub(super) fn draw_client(&mut self) -> u32 {
        let client = self.next_client;
        self.next_client += 2;
        client
    }

    /// The highest claim that any host knows of; none while none of them answers.
    pub(super) async fn claim(&self) -> Option<VolumeEpoch> {
        let mut highest = None;
        for &host in &self.hosts {
            let node = self.cluster.nodes.get(host)?;
            let limit = Duration::from_millis(200);
            let asked = self.hands.call(node, &Message::AskStatus);
            if let Ok(Ok(Message::NodeStatus(status))) = tokio::time::timeout(limit, asked).await {
                highest = highest.max(status.segments.iter().map(|segment| segment.claim).max());
            }
            // Two are enough to see a claim come; more would take its time.
            if highest.is_some() {
                break;
            }
        }
        highest
    }

    /// Looks who holds the volume. Whether nothing is being replaced any more.
    pub(super) async fn look(&mut self) -> Result<bool> {
        let view = self.hands.look().await?;
        let silent = view.nodes.iter().filter(|node| node.status.is_err());
        ensure!(silent.count() == 0, "a node does not answer");
        let manifest = view.manifest()?;
        let past = manifest.hints.iter().find(|hint| {
            let mut nodes = self.cluster.nodes.iter();
            !nodes.any(|node| node.address.to_string() == hint.address)
        });
        ensure!(past.is_none(), "found past the relay: {past:?}");
        let entry = manifest.pgs.first().context("no group")?;
        let index_of = |id| {
            let mut nodes = self.cluster.nodes.iter();
            nodes.position(|node: &ClusterNode| node.node == id)
        };
        let hosts: Option<Vec<usize>> = PgEntry::members(entry)
            .iter()
            .map(|member| index_of(member.node))
            .collect();
        self.hosts = hosts.context("a node that nobody knows")?;
        Ok(self.hosts.len() == 6 && entry.sets.len() == 1)
    }

    /// The spare of a zone.
    pub(super) fn spare(&self, az: &str) -> Option<usize> {
        (0..FLEET).find(|index| az_of(*index) == az && !self.hosts.contains(index))
    }

    /// Nothing is cut any more.
    pub(super) fn join(&self) {
        self.relay.set(Cut::default());
    }
}

/// Faults are what is asked for, and warnings of them say nothing.
fn quiet(args: &mut Vec<String>, level: &str) {
    if std::env::var_os("SIXFOLD_LOG").is_none() {
        args.push(format!("--log={level}"));
    }
}

/// Takes what a process says until its output ends. A kill may cut the last line: what was not said whole was not said.
async fn collect(
    mut lines: mpsc::Receiver<String>,
    log: Rc<RefCell<Log>>,
    stage: Rc<Cell<Stage>>,
) -> Result<()> {
    while let Some(line) = lines.recv().await {
        let taken = match line.as_str() {
            "opened" => {
                stage.set(Stage::Opened);
                Ok(())
            }
            "following" => {
                stage.set(Stage::Following);
                Ok(())
            }
            event if event.starts_with('{') => serde_json::from_str(event)
                .map(|event| log.borrow_mut().events.event(event))
                .map_err(anyhow::Error::from),
            said => Said::parse(said).and_then(|said| {
                let log = &mut *log.borrow_mut();
                log.record.note(log.cycle, said)?;
                if matches!(said.outcome, Outcome::Answered(_)) {
                    log.answers.push((Instant::now(), said.client));
                }
                Ok(())
            }),
        };
        if let Err(error) = taken
            && lines.recv().await.is_some()
        {
            bail!("a writer said {line:?}: {error}");
        }
    }
    Ok(())
}
