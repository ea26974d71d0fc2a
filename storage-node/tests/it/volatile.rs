//! A device whose write cache is volatile, on real files: what is not synced when the power goes is lost sector by sector, as it falls.
//!
//! The cache is a witness of the node: it keeps what lay under every write until the write is durable. Cut, it lets nothing end well any
//! more; when the node is gone it takes back any subset of the sectors that were not durable, and of the changes of directories all
//! behind some point, as a journal does. Needs no root and no file system of its own, unlike `power.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};
use sixfold_log_format::Lsn;
use sixfold_log_format::wire::{Message, Role};
use sixfold_storage_node::inspect::{Inspection, Verdict};
use sixfold_storage_node::witness::{Change, Witness, WriteNumber};
use sixfold_storage_node_core::IoBuf;

use crate::client::{Client, bounded};
use crate::cluster::{Cluster, Daemon};
use crate::crash::shrunk;
use crate::script::{Draw, Script};

const SECTOR: usize = 512;

/// A write that is not durable.
#[derive(Debug)]
struct Write {
    /// The file, whatever its name is by now.
    inode: u64,
    offset: u64,
    /// What lay there.
    before: Vec<u8>,
    /// How long the file was.
    length: u64,
    is_synced: bool,
    ended: bool,
}

/// A change of a directory that is not durable: how it is taken back.
#[derive(Debug)]
enum Undo {
    /// Deletes what was made.
    Unmake(PathBuf),
    /// Renames: from, to.
    Rename(PathBuf, PathBuf),
    /// Puts back what was deleted: a second name of it, and its own.
    Restore(PathBuf, PathBuf),
}

impl Undo {
    fn directory(&self) -> &Path {
        match self {
            Undo::Unmake(path) | Undo::Rename(_, path) | Undo::Restore(_, path) => {
                path.parent().unwrap()
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    writes: BTreeMap<WriteNumber, Write>,
    changes: Vec<Undo>,
    /// Everything that was told.
    events: u64,
    /// The power goes at this one.
    cut_at: u64,
    is_cut: bool,
    /// Something was on its way, or in the cache, when it went.
    numbers: u64,
}

impl State {
    /// One more event; whether there is power.
    fn tick(&mut self) -> bool {
        self.events += 1;
        self.is_cut |= self.events >= self.cut_at;
        !self.is_cut
    }
}

/// A sync that is missing: what it would have made durable stays in the cache, as it would with a node that forgot it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    None,
    /// Of writes to the hot log.
    Log,
    /// Of layers, before a catalog names them.
    Layers,
    /// Of directories, behind a file that was made or renamed.
    Directories,
}

#[derive(Debug)]
struct Cache {
    missing: Missing,
    state: Mutex<State>,
    /// Where second names of deleted files are kept.
    graves: PathBuf,
}

fn no_power() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Witness for Cache {
    fn write_begins(&self, file: &File, offset: u64, bytes: usize, is_synced: bool) -> WriteNumber {
        let metadata = file.metadata().unwrap();
        let mut under = IoBuf::zeroed(bytes);
        let mut done = 0;
        while done < bytes {
            // Direct reads end at the end of the file.
            match file.read_at(&mut under.as_mut()[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) => panic!("{error}"),
            }
        }
        let mut state = self.state.lock().unwrap();
        state.tick();
        state.numbers += 1;
        let number = state.numbers;
        let write = Write {
            inode: metadata.ino(),
            offset,
            before: under.as_ref().to_vec(),
            length: metadata.len(),
            is_synced,
            ended: false,
        };
        state.writes.insert(number, write);
        number
    }

    fn write_ended(&self, number: WriteNumber) -> bool {
        let mut state = self.state.lock().unwrap();
        if !state.tick() {
            return false;
        }
        let write = state.writes.get_mut(&number).unwrap();
        write.ended = true;
        if write.is_synced && self.missing != Missing::Log {
            state.writes.remove(&number);
        }
        true
    }

    fn file_synced(&self, path: &Path) -> io::Result<()> {
        let inode = fs::metadata(path)?.ino();
        let mut state = self.state.lock().unwrap();
        if !state.tick() {
            return Err(no_power());
        }
        if self.missing == Missing::Layers && path.parent().is_some_and(|of| of.ends_with("layers"))
        {
            return Ok(());
        }
        state
            .writes
            .retain(|_, write| write.inode != inode || !write.ended);
        Ok(())
    }

    fn changes(&self, change: Change<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if !state.tick() {
            return Err(no_power());
        }
        let undo = match change {
            Change::Make(path) => Undo::Unmake(path.to_owned()),
            Change::Rename(from, to) => Undo::Rename(to.to_owned(), from.to_owned()),
            Change::Delete(path) => {
                let grave = self.graves.join(state.events.to_string());
                match fs::hard_link(path, &grave) {
                    Ok(()) => Undo::Restore(grave, path.to_owned()),
                    // It was never made.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        state.changes.push(undo);
        Ok(())
    }

    fn directory_synced(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if !state.tick() {
            return Err(no_power());
        }
        if self.missing != Missing::Directories {
            state.changes.retain(|undo| undo.directory() != path);
        }
        Ok(())
    }
}

/// What a power cut left undone.
#[derive(Debug, Default, Clone, Copy)]
struct Lost {
    sectors: usize,
    changes: usize,
    /// Writes of which a part survived.
    torn: usize,
}

impl Cache {
    fn new(graves: &Path, cut_at: u64, missing: Missing) -> Arc<Cache> {
        let state = State {
            cut_at,
            ..State::default()
        };
        Arc::new(Cache {
            missing,
            state: Mutex::new(state),
            graves: graves.to_owned(),
        })
    }

    /// Takes back what was not durable, when nobody works in `directory` any more.
    fn lose(&self, directory: &Path, draw: &mut Draw) -> Lost {
        let state = std::mem::take(&mut *self.state.lock().unwrap());
        let mut lost = Lost::default();
        let files = files_of(directory);
        for write in state.writes.values().rev() {
            // A file that was deleted meanwhile may come back below.
            let Some(path) = files.get(&write.inode) else {
                continue;
            };
            let before = lost.sectors;
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let shape = draw.below(4);
            let sectors = write.before.len() / SECTOR;
            let edge = draw.below(sectors as u64 + 1) as usize;
            for sector in 0..sectors {
                let survives = match shape {
                    0 => false,
                    1 => true,
                    2 => sector < edge,
                    _ => draw.below(2) == 0,
                };
                if !survives {
                    let at = sector * SECTOR;
                    let old = &write.before[at..at + SECTOR];
                    file.write_all_at(old, write.offset + at as u64).unwrap();
                    lost.sectors += 1;
                }
            }
            let gone = lost.sectors - before;
            lost.torn += usize::from(gone > 0 && gone < sectors);
            if shape == 0 && write.length < file.metadata().unwrap().len() {
                file.set_len(write.length.max(write.offset)).unwrap();
            }
        }
        let kept = draw.below(state.changes.len() as u64 + 1) as usize;
        for undo in state.changes[kept..].iter().rev() {
            lost.changes += 1;
            match undo {
                Undo::Unmake(path) => {
                    let _ = fs::remove_file(path);
                }
                Undo::Rename(from, to) => {
                    // What was told and then not done is not there.
                    if from.exists() && !to.exists() {
                        fs::rename(from, to).unwrap();
                    }
                }
                Undo::Restore(grave, path) => {
                    if !path.exists() {
                        fs::rename(grave, path).unwrap();
                    }
                }
            }
        }
        for entry in fs::read_dir(&self.graves).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        lost
    }
}

/// Every file of a data directory by its inode.
fn files_of(directory: &Path) -> BTreeMap<u64, PathBuf> {
    let mut files = BTreeMap::new();
    for name in ["hot-log", "layers", "damaged"] {
        for entry in fs::read_dir(directory.join(name)).into_iter().flatten() {
            let path = entry.unwrap().path();
            files.insert(fs::metadata(&path).unwrap().ino(), path);
        }
    }
    files
}

/// Waits until no helper of a node works in a directory any more.
fn until_free(directory: &Path) {
    let lock = File::open(directory.join("LOCK")).unwrap();
    for _ in 0..3_000 {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    panic!("a helper never ends");
}

/// Appends until the connection is gone. Returns the highest SCL that was acknowledged.
async fn append_until_cut(script: &Script, client: &Client, held: Lsn) -> Lsn {
    let mut acknowledged = held;
    'attach: loop {
        let Some(mut stream) = client.try_attach().await else {
            return acknowledged;
        };
        acknowledged = acknowledged.max(stream.scl);
        let batches = script.after(stream.scl);
        let mut sent = 0;
        loop {
            let acked = batches.partition_point(|batch| batch.header().last <= acknowledged);
            assert!(
                acked < batches.len(),
                "a script that is longer than the test"
            );
            while sent < batches.len().min(acked + 16) {
                if !stream.try_append(&batches[sent]).await {
                    continue 'attach;
                }
                sent += 1;
            }
            match stream.receiver.recv().await {
                Ok(Some(Message::Ack(ack))) => acknowledged = acknowledged.max(ack.scl),
                Ok(Some(Message::Refused(_)) | None) => continue 'attach,
                Ok(Some(other)) => panic!("{other:?}"),
                Err(_) => return acknowledged,
            }
        }
    }
}

/// Power cuts at events drawn at random, or as many seconds as the variable says.
const SECONDS: &str = "SIXFOLD_VOLATILE_SECONDS";

#[test]
fn acknowledged_redo_and_published_layers_survive_the_loss_of_a_volatile_write_cache() {
    let seconds: u64 = std::env::var(SECONDS).map_or(0, |text| text.parse().unwrap());
    cuts(Missing::None, seconds);
}

#[test]
fn a_sync_that_is_missing_is_found() {
    for missing in [Missing::Log, Missing::Layers, Missing::Directories] {
        let found = std::panic::catch_unwind(|| cuts(missing, 0));
        assert!(found.is_err(), "nobody missed the syncs of {missing:?}");
    }
}

/// Power cuts in a load, and what is left after each.
fn cuts(missing: Missing, seconds: u64) {
    let begun = std::time::Instant::now();
    let cluster = Cluster::new();
    let options = shrunk(cluster.options(1));
    let graves = options.data_dir.with_file_name("graves");
    fs::create_dir(&graves).unwrap();
    let script = Script::new(43, 60, if seconds > 0 { 60_000 } else { 4_000 });
    let mut draw = Draw(begun.elapsed().subsec_nanos().into());
    draw.0 = if seconds > 0 { draw.0 | 1 } else { 9 };
    let (mut acknowledged, mut layers, mut lost) = (Lsn::NONE, 0, Lost::default());
    // The directory is formatted and the segment there.
    let daemon = Daemon::start(options.clone()).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
    });
    daemon.stop().unwrap();
    let mut round = 0;
    while round < 20 || begun.elapsed().as_secs() < seconds {
        round += 1;
        // Now and then at a start, mostly somewhere in the load.
        let cut_at = draw.below(if round % 5 == 0 { 8 } else { 500 }) + 1;
        let cache = Cache::new(&graves, cut_at, missing);
        let witness: Arc<dyn Witness> = cache.clone();
        // Without power it does not start, either.
        if let Ok(daemon) = Daemon::start_before(options.clone(), Some(witness)) {
            bounded(async {
                let client = Client::try_connect(&cluster, &daemon, Role::Writer).await;
                if let Some(client) = client {
                    let held = acknowledged;
                    acknowledged = append_until_cut(&script, &client, held).await;
                }
            });
            assert!(daemon.stop().is_err(), "a failed write ends a node");
        }
        until_free(&options.data_dir);
        let now = cache.lose(&options.data_dir, &mut draw);
        lost.sectors += now.sectors;
        lost.changes += now.changes;
        lost.torn += now.torn;
        let found = Inspection::of(&options.data_dir).unwrap();
        assert_eq!(found.flaws, Vec::<String>::new(), "round {round}");
        assert!(!matches!(found.verdict, Verdict::Corrupt { .. }));
        let segment = found.segments.values().next().unwrap();
        assert!(
            segment.scl() >= acknowledged,
            "round {round}: {} after {acknowledged}",
            segment.scl()
        );
        layers = layers.max(found.layers.iter().filter(|layer| layer.listed).count());
        // It holds the directory.
        drop(found);
        if round % 4 == 0 {
            let daemon = Daemon::start(options.clone()).unwrap();
            bounded(async {
                let client = Client::connect(&cluster, &daemon, Role::Writer).await;
                let held = client.attach().await.scl;
                assert!(held >= acknowledged, "{held} after {acknowledged}");
                assert_eq!(script.check_pages(&client, held).await, []);
            });
            daemon.stop().unwrap();
        }
    }
    println!("{round} power cuts at LSN {acknowledged}: {lost:?}, {layers} layers");
    assert!(layers > 0, "no layer was ever written");
    assert!(
        lost.sectors > 0 && lost.torn > 0,
        "nothing was ever lost: {lost:?}"
    );
}
