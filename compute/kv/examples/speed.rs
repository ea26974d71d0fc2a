//! How long a lookup and a planned write take, on pages in memory: `cargo run --release -p sixfold-kv --example speed`.
//!
//! Pages are held in a vector, so that the figures are the tree's alone: no cache, no versions, no log.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use sixfold_kv::{PageSource, Plan, Write, get, plan, plan_creation};
use sixfold_log_format::{Lsn, Page, PageId, Record, apply};

const KEY_COUNT: u64 = 1_000_000;
const PAGE_BYTES: usize = 8_192;
const VALUE: [u8; 100] = [7; 100];

struct Volume {
    pages: Vec<Arc<Page>>,
    lsn: Lsn,
}

impl PageSource for Volume {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        self.pages.get(usize::try_from(id.get()).ok()?).cloned()
    }
}

impl Volume {
    fn apply(&mut self, plan: Plan<'_>) {
        let cpl = self.lsn.plus(plan.records.len() as u64);
        for planned in plan.records {
            let index = usize::try_from(planned.page.get()).expect("ids are small");
            while self.pages.len() <= index {
                let id = PageId::new(self.pages.len() as u64);
                self.pages.push(Arc::new(Page::new(id, PAGE_BYTES)));
            }
            let page = Arc::make_mut(&mut self.pages[index]);
            self.lsn = self.lsn.next();
            let record = Record {
                lsn: self.lsn,
                page: planned.page,
                page_prev: page.lsn(),
                cpl,
                user_visible: planned.user_visible,
                op: planned.op,
            };
            apply(page, &record).expect("the plan fits the pages");
        }
    }

    fn put(&mut self, key: &[u8]) {
        let write = Write::Put {
            key,
            value: &VALUE,
            deadline_ms: None,
        };
        // What the plan borrows from is the transaction, not the pages.
        let planned = plan(self, &[write], u64::MAX).expect("every page is in memory");
        self.apply(planned);
    }
}

/// 16-byte keys; `number` runs through all of `0..KEY_COUNT` in a scattered order.
fn scattered(number: u64) -> [u8; 16] {
    key(number.wrapping_mul(7_919_337_077) % KEY_COUNT)
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"user000000000000";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn measure(what: &str, count: u64, mut op: impl FnMut(u64)) {
    let start = Instant::now();
    (0..count).for_each(&mut op);
    let nanos = start.elapsed().as_nanos() / u128::from(count);
    println!("{what:<46} {nanos:>7} ns");
}

fn main() {
    let mut volume = Volume {
        pages: Vec::new(),
        lsn: Lsn::NONE,
    };
    volume.apply(plan_creation());
    measure("insert, ascending, plan + apply", KEY_COUNT, |n| {
        volume.put(&key(n))
    });
    println!("{} pages", volume.pages.len());
    measure("get, scattered", KEY_COUNT, |n| {
        assert!(get(&volume, &scattered(n)).is_ok_and(|found| found.is_some()));
    });
    measure("get, 1,000 keys", KEY_COUNT, |n| {
        assert!(get(&volume, &key(n % 1_000)).is_ok_and(|found| found.is_some()));
    });
    let plan_only = |key: [u8; 16]| {
        let write = Write::Put {
            key: &key,
            value: &VALUE,
            deadline_ms: None,
        };
        assert!(plan(&volume, &[write], u64::MAX).is_ok_and(|plan| plan.records.len() == 1));
    };
    measure("replace, scattered, plan only", KEY_COUNT, |n| {
        plan_only(scattered(n))
    });
    measure("replace, 1,000 keys, plan only", KEY_COUNT, |n| {
        plan_only(key(n % 1_000))
    });
    measure("replace, 1,000 keys, plan + apply", KEY_COUNT, |n| {
        volume.put(&key(n % 1_000))
    });
    measure("replace, scattered, plan + apply", KEY_COUNT, |n| {
        volume.put(&scattered(n))
    });
    let mut random = Volume {
        pages: Vec::new(),
        lsn: Lsn::NONE,
    };
    random.apply(plan_creation());
    measure("insert, scattered, plan + apply", KEY_COUNT, |n| {
        random.put(&scattered(n))
    });
    println!("{} pages, {} records", random.pages.len(), random.lsn);
}
