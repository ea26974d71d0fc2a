//! A day of load, compressed: a process with small budgets and a small retention freezes, merges, collects and recycles as often as one
//! with usual ones does in a day or more, and its disk, files and memory are as large in the end as in the middle.

use std::path::Path;
use std::time::{Duration, Instant};

use sixfold_log_format::wire::{Message, PageAnswer, PageRequest, ReadPages, Refusal, Role};
use sixfold_log_format::{
    Batch, BatchBuilder, Lsn, Op, Page, PageId, PageKind, PgId, Record, apply,
};

use crate::client::{Client, LAL, LogStream, VOLUME_EPOCH, bounded, segment, volume};
use crate::cluster::Cluster;
use crate::crash::{Process, small};
use crate::script::{Draw, PAGE_BYTES};

/// How long it goes on, seconds; without it as long as a test may take.
pub const SECONDS: &str = "SIXFOLD_SOAK_SECONDS";
/// Redo of the short run, bytes.
const SHORT_BYTES: u64 = 24 << 20;
const PAGES: u64 = 400;
/// Batches under way.
const WINDOW: usize = 16;
/// How far behind its tip the writer's readers are, records.
const READERS_BEHIND: u64 = 2_000;

/// Endless redo, and what the pages are by now.
struct Endless {
    draw: Draw,
    pages: Vec<Page>,
    last: Lsn,
    bytes: u64,
}

impl Endless {
    fn new() -> Endless {
        let page = |index| Page::new(PageId::new(index + 1), PAGE_BYTES);
        Endless {
            draw: Draw(77),
            pages: (0..PAGES).map(page).collect(),
            last: Lsn::NONE,
            bytes: 0,
        }
    }

    fn batch(&mut self) -> Batch {
        let mut builder = BatchBuilder::new(volume(), PgId::ROOT, VOLUME_EPOCH, self.last);
        let vdl = self.last.max(Lsn::new(LAL));
        for _ in 0..40 {
            let index = self.draw.below(PAGES) as usize;
            let lsn = self.last.max(Lsn::new(LAL)).next();
            let page = &mut self.pages[index];
            let op = if page.lsn().is_none() {
                Op::Init {
                    kind: PageKind::Overflow,
                    level: 0,
                }
            } else {
                Op::WriteBytes {
                    offset: self.draw.below(7_000) as u16,
                    bytes: vec![lsn.get() as u8; 1 + self.draw.below(600) as usize].into(),
                }
            };
            let record = Record {
                lsn,
                page: page.id(),
                page_prev: page.lsn(),
                cpl: lsn,
                user_visible: false,
                op,
            };
            apply(page, &record).unwrap();
            assert!(builder.push(&record));
            self.last = lsn;
        }
        let batch = builder.seal(vdl, 1_700_000_000_000);
        self.bytes += batch.bytes().len() as u64;
        batch
    }
}

/// What a directory takes.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// All of it: hot log and layers, which follow, and the rest.
    bytes: u64,
    log_bytes: u64,
    layer_bytes: u64,
    files: u64,
    resident_bytes: u64,
}

impl Size {
    fn of(directory: &Path, process: &Process) -> Size {
        let mut size = Size {
            resident_bytes: process.resident_bytes(),
            ..Size::default()
        };
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                // What is deleted meanwhile takes nothing.
                let Ok(entry) = entry else { continue };
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                if metadata.is_dir() {
                    directories.push(entry.path());
                } else {
                    size.bytes += metadata.len();
                    let path = entry.path();
                    let of = |name: &str| path.to_string_lossy().contains(name);
                    size.log_bytes += if of("hot-log") { metadata.len() } else { 0 };
                    size.layer_bytes += if of("layer") { metadata.len() } else { 0 };
                    size.files += 1;
                }
            }
        }
        size
    }

    fn max(self, other: Size) -> Size {
        Size {
            bytes: self.bytes.max(other.bytes),
            log_bytes: self.log_bytes.max(other.log_bytes),
            layer_bytes: self.layer_bytes.max(other.layer_bytes),
            files: self.files.max(other.files),
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
        }
    }
}

/// A log stream; on a new connection where the last one is gone, which a host that is too busy may bring about.
async fn attached(cluster: &Cluster, client: &mut Client, process: &mut Process) -> LogStream {
    loop {
        if let Some(stream) = client.try_attach().await {
            return stream;
        }
        process.check_alive();
        *client = Client::connect_to(cluster, 1, process.address, Role::Writer).await;
    }
}

async fn check(client: &Client, endless: &Endless) {
    for pages in endless.pages.chunks(16) {
        let request = |page: &Page| PageRequest {
            page: page.id(),
            lsn: endless.last,
            pg_last: endless.last,
        };
        let read = ReadPages {
            segment: segment(1),
            history_epoch: VOLUME_EPOCH,
            pages: pages.iter().map(request).collect(),
        };
        let Message::Pages(answer) = client.call(Message::ReadPages(read)).await else {
            panic!("pages are refused")
        };
        for (page, answer) in pages.iter().zip(answer.pages) {
            let PageAnswer::Page(bytes) = answer else {
                panic!("{answer:?}")
            };
            let found = Page::decode(&bytes, page.id(), PAGE_BYTES).unwrap();
            assert!(found == *page, "page {} at {}", page.id(), endless.last);
        }
    }
}

#[test]
fn endless_load_with_a_small_retention_leaves_disk_files_and_memory_flat() {
    let seconds: Option<u64> = std::env::var(SECONDS)
        .ok()
        .map(|text| text.parse().unwrap());
    let cluster = Cluster::new();
    let options = small(&cluster);
    let mut process = Process::start(&options);
    let mut endless = Endless::new();
    let begun = Instant::now();
    // How much of it is done, in hundredths.
    let done = |bytes: u64| match seconds {
        Some(seconds) => begun.elapsed().as_secs() * 100 / seconds.max(1),
        None => bytes * 100 / SHORT_BYTES,
    };
    // The largest of each quarter.
    let mut largest = [Size::default(); 4];
    let limit = Duration::from_secs(seconds.unwrap_or(0) + 280);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let load = async {
        let mut client = Client::connect_to(&cluster, 1, process.address, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        let mut waiting: std::collections::VecDeque<Batch> = std::collections::VecDeque::new();
        let mut looked = 0;
        'attach: while done(endless.bytes) < 100 {
            let mut stream = attached(&cluster, &mut client, &mut process).await;
            let mut scl = stream.scl;
            waiting.retain(|batch| batch.header().last > scl);
            let mut sent = 0;
            while done(endless.bytes) < 100 {
                while sent < waiting.len() || waiting.len() < WINDOW {
                    if sent == waiting.len() {
                        waiting.push_back(endless.batch());
                    }
                    let behind = endless.last.get().saturating_sub(READERS_BEHIND);
                    stream.pgmrpl = Lsn::new(behind).max(Lsn::new(LAL)).min(scl);
                    if !stream.try_append(&waiting[sent]).await {
                        continue 'attach;
                    }
                    sent += 1;
                }
                match stream.receiver.recv().await {
                    Ok(Some(Message::Ack(ack))) => scl = scl.max(ack.scl),
                    Ok(Some(Message::Refused(Refusal::Overloaded)) | None) | Err(_) => {
                        continue 'attach;
                    }
                    other => panic!("{other:?}"),
                }
                while waiting
                    .front()
                    .is_some_and(|batch| batch.header().last <= scl)
                {
                    waiting.pop_front();
                    sent -= 1;
                }
                let hundredth = done(endless.bytes).min(99);
                if hundredth > looked {
                    looked = hundredth;
                    let size = Size::of(&options.data_dir, &process);
                    let quarter = &mut largest[hundredth as usize / 25];
                    *quarter = quarter.max(size);
                }
            }
        }
        // What is under way still.
        'rest: loop {
            let mut stream = attached(&cluster, &mut client, &mut process).await;
            let mut scl = stream.scl;
            waiting.retain(|batch| batch.header().last > scl);
            for batch in &waiting {
                if !stream.try_append(batch).await {
                    continue 'rest;
                }
            }
            while scl < endless.last {
                match stream.receiver.recv().await {
                    Ok(Some(Message::Ack(ack))) => scl = scl.max(ack.scl),
                    Ok(Some(Message::Refused(Refusal::Overloaded)) | None) | Err(_) => {
                        continue 'rest;
                    }
                    other => panic!("{other:?}"),
                }
            }
            break;
        }
        check(&client, &endless).await;
    };
    runtime.block_on(async {
        tokio::time::timeout(limit, load)
            .await
            .expect("it stands still");
    });
    println!(
        "{} MiB of redo in {:?}; largest of each quarter: {largest:?}",
        endless.bytes >> 20,
        begun.elapsed()
    );
    let (middle, end) = (largest[1].max(largest[2]), largest[3]);
    assert!(end.bytes <= middle.bytes * 5 / 4, "{largest:?}");
    if seconds.is_some() {
        // Long after everything has been filled once, the last quarter takes no more than the second.
        let second = largest[1];
        assert!(end.bytes <= second.bytes * 11 / 10, "{largest:?}");
        assert!(end.layer_bytes <= second.layer_bytes * 6 / 5, "{largest:?}");
    }
    assert!(end.files <= middle.files * 5 / 4 + 2, "{largest:?}");
    let memory = middle.resident_bytes * 5 / 4 + (4 << 20);
    assert!(end.resident_bytes <= memory, "{largest:?}");
    drop(process);
    // And the next process knows all of it.
    let process = Process::start(&options);
    bounded(async {
        let client = Client::connect_to(&cluster, 1, process.address, Role::Writer).await;
        assert_eq!(client.attach().await.scl, endless.last);
        check(&client, &endless).await;
    });
}
