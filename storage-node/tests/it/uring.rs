//! The io_uring door on real files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_storage_node::open_synced;
use sixfold_storage_node::uring::{Completion, IN_FLIGHT_MAX, Ring, Setup, Watch};
use sixfold_storage_node_core::{DiskError, DiskToken, IoBuf};

use crate::scratch::scratch;

const BLOCK: usize = 4096;

/// A ring in a reactor, as the daemon has it.
struct Watched {
    ring: Ring,
    watch: Watch,
    ended: Vec<Completion>,
}

impl Watched {
    fn new() -> Watched {
        Watched::over(Ring::new().unwrap())
    }

    /// `None` where the kernel does not know the setup.
    fn with(setup: Setup) -> Option<Watched> {
        match Ring::with(setup) {
            Ok(ring) => Some(Watched::over(ring)),
            Err(error) => {
                println!("skipped: the kernel has no ring that is {setup:?}: {error}");
                assert_ne!(setup, Setup::Plain);
                None
            }
        }
    }

    fn over(ring: Ring) -> Watched {
        let watch = ring.watch().unwrap();
        Watched {
            ring,
            watch,
            ended: Vec::new(),
        }
    }

    /// Submits what was queued and waits, by the eventfd alone, until `count` operations ended.
    async fn wait(&mut self, count: usize) -> Vec<Completion> {
        self.ring.submit().unwrap();
        while self.ended.len() < count {
            self.watch.signaled().await.unwrap();
            self.ring.reap(&mut self.ended).unwrap();
        }
        assert_eq!(self.ended.len(), count);
        std::mem::take(&mut self.ended)
    }

    async fn write(
        &mut self,
        file: &Rc<File>,
        offset: u64,
        byte: u8,
        bytes: usize,
    ) -> Result<(), DiskError> {
        self.ring
            .write(DiskToken(7), Rc::clone(file), offset, filled(byte, bytes));
        match self.wait(1).await.pop().unwrap() {
            Completion::Written {
                token: DiskToken(7),
                result,
            } => result,
            other => panic!("{other:?}"),
        }
    }

    async fn read(
        &mut self,
        file: &Rc<File>,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, DiskError> {
        self.ring
            .read(DiskToken(8), Rc::clone(file), offset, bytes as u32);
        match self.wait(1).await.pop().unwrap() {
            Completion::Read {
                token: DiskToken(8),
                result,
            } => result,
            other => panic!("{other:?}"),
        }
    }
}

fn filled(byte: u8, bytes: usize) -> IoBuf {
    let mut buf = IoBuf::zeroed(bytes);
    buf.as_mut().fill(byte);
    buf
}

fn open(path: &Path) -> Rc<File> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap();
    Rc::new(open_synced(path).unwrap())
}

/// Runs a test in a runtime like the daemon's; a lost wake-up ends it with a failure instead of a hang.
fn bounded(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(900), test)
            .await
            .expect("a completion was not announced");
    });
}

#[test]
fn what_was_written_is_read_back() {
    bounded(async {
        let directory = scratch();
        let file = open(&directory.path().join("file"));
        let mut watched = Watched::new();
        watched.write(&file, 0, 1, 2 * BLOCK).await.unwrap();
        watched.write(&file, BLOCK as u64, 2, BLOCK).await.unwrap();
        let bytes = watched.read(&file, 0, 2 * BLOCK).await.unwrap();
        assert!(bytes[..BLOCK].iter().all(|byte| *byte == 1));
        assert!(bytes[BLOCK..].iter().all(|byte| *byte == 2));
        assert_eq!(watched.ring.pending(), 0);
    });
}

#[test]
fn more_operations_than_fit_the_ring_all_end_once() {
    bounded(async {
        let directory = scratch();
        let file = open(&directory.path().join("file"));
        let mut watched = Watched::new();
        let count = 3 * IN_FLIGHT_MAX as usize + 5;
        for index in 0..count {
            let offset = (index * BLOCK) as u64;
            watched.ring.write(
                DiskToken(index as u64),
                Rc::clone(&file),
                offset,
                filled(index as u8, BLOCK),
            );
        }
        assert_eq!(watched.ring.pending(), count);
        let mut tokens: Vec<u64> = (watched.wait(count).await.into_iter())
            .map(|ended| match ended {
                Completion::Written {
                    token,
                    result: Ok(()),
                } => token.0,
                other => panic!("{other:?}"),
            })
            .collect();
        tokens.sort_unstable();
        assert!(tokens.iter().copied().eq(0..count as u64));
        for index in 0..count {
            watched.ring.read(
                DiskToken(index as u64),
                Rc::clone(&file),
                (index * BLOCK) as u64,
                BLOCK as u32,
            );
        }
        for ended in watched.wait(count).await {
            let Completion::Read {
                token,
                result: Ok(bytes),
            } = ended
            else {
                panic!("{ended:?}")
            };
            assert!(bytes.len() == BLOCK && bytes.iter().all(|byte| *byte == token.0 as u8));
        }
    });
}

#[test]
fn a_read_across_the_end_of_a_file_gives_what_is_there() {
    bounded(async {
        let directory = scratch();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![3; BLOCK + 100]).unwrap();
        let file = open(&path);
        let mut watched = Watched::new();
        assert_eq!(
            watched.read(&file, 0, 4 * BLOCK).await.unwrap(),
            vec![3; BLOCK + 100]
        );
        assert_eq!(
            watched.read(&file, 16 * BLOCK as u64, BLOCK).await.unwrap(),
            Bytes::new()
        );
    });
}

#[test]
fn a_full_device_is_told_apart_from_a_failed_one() {
    bounded(async {
        let directory = scratch();
        let path = directory.path().join("file");
        let mut watched = Watched::new();
        let full = Rc::new(OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert_eq!(
            watched.write(&full, 0, 1, BLOCK).await,
            Err(DiskError::Full)
        );
        std::fs::write(&path, vec![3; BLOCK]).unwrap();
        let read_only = Rc::new(File::open(&path).unwrap());
        assert_eq!(
            watched.write(&read_only, 0, 1, BLOCK).await,
            Err(DiskError::Failed)
        );
        let write_only = Rc::new(OpenOptions::new().write(true).open(&path).unwrap());
        assert_eq!(
            watched.read(&write_only, 0, BLOCK).await,
            Err(DiskError::Failed)
        );
        // The ring goes on after a failure.
        assert_eq!(watched.write(&open(&path), 0, 4, BLOCK).await, Ok(()));
    });
}

/// Writes one after the other, each awaited by the eventfd alone.
fn write_alone(setup: Setup) {
    bounded(async {
        let Some(mut watched) = Watched::with(setup) else {
            return;
        };
        let directory = scratch();
        let file = open(&directory.path().join("file"));
        for round in 0..10_000_u64 {
            watched
                .write(&file, (round % 64) * BLOCK as u64, round as u8, BLOCK)
                .await
                .unwrap();
        }
    });
}

#[test]
fn no_wake_up_is_lost_in_ten_thousand_lone_writes() {
    write_alone(Setup::Cooperative);
}

#[test]
fn no_wake_up_is_lost_in_ten_thousand_lone_writes_of_a_deferred_ring() {
    write_alone(Setup::Deferred);
}

#[test]
fn no_wake_up_is_lost_in_ten_thousand_lone_writes_of_a_ring_without_flags() {
    write_alone(Setup::Plain);
}

#[test]
fn no_wake_up_is_lost_while_the_thread_is_busy() {
    for setup in [Setup::Cooperative, Setup::Deferred, Setup::Plain] {
        write_beside_busy_tasks(setup);
    }
}

fn write_beside_busy_tasks(setup: Setup) {
    bounded(async {
        let Some(mut watched) = Watched::with(setup) else {
            return;
        };
        let directory = scratch();
        let file = open(&directory.path().join("file"));
        let local = tokio::task::LocalSet::new();
        // Tasks that are always ready: the thread rarely sleeps, completions arrive at any point of its loop.
        for _ in 0..4 {
            local.spawn_local(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        local
            .run_until(async {
                for round in 0..400_u64 {
                    let count = 1 + (round % 9) as usize;
                    for index in 0..count {
                        let offset = ((round + index as u64) % 64) * BLOCK as u64;
                        watched.ring.write(
                            DiskToken(0),
                            Rc::clone(&file),
                            offset,
                            filled(0, BLOCK),
                        );
                    }
                    watched.wait(count).await;
                }
            })
            .await;
    });
}

#[test]
fn a_dropped_ring_has_waited_for_what_was_in_flight() {
    let directory = scratch();
    let path = directory.path().join("file");
    let file = open(&path);
    let mut ring = Ring::new().unwrap();
    const BYTES: usize = 16 * BLOCK;
    for index in 0..64_usize {
        ring.write(
            DiskToken(0),
            Rc::clone(&file),
            (index * BYTES) as u64,
            filled(1 + index as u8, BYTES),
        );
    }
    ring.submit().unwrap();
    drop(ring);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 64 * BYTES);
    for (index, piece) in bytes.chunks(BYTES).enumerate() {
        assert!(piece.iter().all(|byte| *byte == 1 + index as u8));
    }
}

#[test]
fn an_operation_keeps_its_file_open() {
    bounded(async {
        let directory = scratch();
        let path = directory.path().join("file");
        let mut watched = Watched::new();
        watched
            .ring
            .write(DiskToken(0), open(&path), 0, filled(5, BLOCK));
        // The descriptor would be the next file's if it had been closed.
        let other = File::create(directory.path().join("other")).unwrap();
        watched.wait(1).await;
        assert_eq!(other.metadata().unwrap().len(), 0);
        let mut bytes = vec![0; BLOCK];
        File::open(&path)
            .unwrap()
            .read_exact_at(&mut bytes, 0)
            .unwrap();
        assert!(bytes.iter().all(|byte| *byte == 5));
    });
}
