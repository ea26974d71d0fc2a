//! Sizes that a node meets in practice.

use sixfold_log_format::wire::Message;

use crate::shell::{Shell, found};
use crate::writer::{Writer, create};

fn large_node() -> Shell {
    let mut found = found(0);
    found.file_bytes = 8 << 20;
    found.bounds.group_bytes_max = 1 << 20;
    found.bounds.queued_bytes_max = 64 << 20;
    found.bounds.resident_redo_bytes_max = 256 << 20;
    found.bounds.page_cache_bytes_max = 0;
    let mut shell = Shell::with(found);
    create(&mut shell, 0);
    shell
}

/// 5,000 batches of 64 records, 8 of them on one hot page.
#[test]
fn a_page_with_forty_thousand_records_is_folded() {
    let mut shell = large_node();
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for number in 0..5_000_u64 {
        let pages: Vec<u64> = (0..64)
            .map(|at| {
                if at % 8 == 0 {
                    2
                } else {
                    3 + (number * 56 + at) % 2_000
                }
            })
            .collect();
        let batch = writer.batch(&pages);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.take(stream);
        // Only the newest versions are looked at.
        for versions in writer.pages.values_mut() {
            let old = versions.len().saturating_sub(2);
            versions.drain(..old);
        }
    }
    shell.settle();
    writer.check_pages(&mut shell, 0, &[2], writer.prev);

    let mut shell = shell.crash(&|_| false);
    assert_eq!(shell.status().segments[0].scl, writer.prev);

    let next = writer.reopen(writer.batches[2_500].header().last, 3);
    assert!(matches!(shell.ask(next.claim(0)), Message::Census(_)));
    assert!(matches!(shell.ask(next.install(0)), Message::Installed(_)));
    assert_eq!(
        shell.status().segments[0].scl,
        next.prev.max(writer.batches[2_500].header().last)
    );
}
