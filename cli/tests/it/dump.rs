//! `sixfold dump` and `sixfold load`: what a volume holds, in a file and back.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sixfold::{Bytes, Database, Snapshot};

use crate::load::block_on;
use crate::process::run;
use crate::real_cluster::RealCluster;

/// Keyspace, key -> value and deadline.
type Picture = BTreeMap<(String, Bytes), (Bytes, Option<u64>)>;

async fn picture(snapshot: &Snapshot) -> Picture {
    let mut picture = Picture::new();
    let mut spaces = vec![(String::new(), snapshot.clone())];
    for name in snapshot.keyspaces().await.unwrap() {
        // An empty keyspace is there, too.
        picture.insert((name.clone(), Bytes::new()), (Bytes::new(), None));
        let space = snapshot.within_name(&name).await.unwrap().unwrap();
        spaces.push((name, space));
    }
    for (name, space) in spaces {
        let mut range = space.range(..);
        while let Some((key, value, deadline)) = range.next_with_deadline().await.unwrap() {
            picture.insert((name.clone(), key), (value, deadline));
        }
    }
    picture
}

/// Binary keys, empty and large values, deadlines, keyspaces with something in them and without.
async fn fill(database: &Database) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let in_an_hour = (now + Duration::from_secs(3_600)).as_millis() as u64;
    let users = database.create_keyspace("users").await.unwrap();
    database.create_keyspace("émpty").await.unwrap();
    let large: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
    let txn = database.begin().await.unwrap();
    txn.put(b"\x00", b"").unwrap();
    txn.put(b"\xff\xff\x00\n", b"\x00\xff").unwrap();
    txn.put(vec![b'k'; 1_024], b"the longest key").unwrap();
    txn.put("large", &large).unwrap();
    txn.put_until("session", "alice", in_an_hour).unwrap();
    txn.put_with_ttl("brief", "bob", Duration::from_millis(1))
        .unwrap();
    txn.add("count", 42).unwrap();
    txn.within(&users).put("7", "Alice").unwrap();
    txn.within(&users)
        .put_until("8", "Bob", in_an_hour + 1)
        .unwrap();
    txn.commit().await.unwrap();
    // More than one chunk holds.
    for batch in 0..3 {
        let txn = database.begin().await.unwrap();
        for number in 0..2_000 {
            txn.put(format!("many/{batch}/{number:05}"), [batch; 100])
                .unwrap();
        }
        txn.commit().await.unwrap();
    }
}

async fn empty(database: &Database) {
    for name in database.keyspaces().await.unwrap() {
        assert!(database.drop_keyspace(&name).await.unwrap());
    }
    let txn = database.begin().await.unwrap();
    txn.delete_range(..).unwrap();
    txn.commit().await.unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The load of a file on standard input.
fn load_piped(dir: &Path, file: &Path, flags: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sixfold"))
        .args([&["load", "--dir", text(dir), "-"], flags].concat())
        .stdin(Stdio::from(File::open(file).unwrap()))
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), errors)
}

#[test]
fn a_dump_is_loaded_as_it_was() {
    let cluster = RealCluster::start();
    let dir = text(cluster.path());
    let file = cluster.path().join("volume.dump");
    let (before, at) = block_on(async {
        let database = Database::create(cluster.options()).await.unwrap();
        fill(&database).await;
        // Behind the deadline of the brief one, by the volume's clock.
        while database.snapshot().get("brief").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let snapshot = database.snapshot();
        let before = picture(&snapshot).await;
        assert_eq!(before.len(), 6_006 + 2 + 2);
        // The writer goes on beside it.
        let said = run(&["dump", "--dir", dir, text(&file), "--json"], "").well();
        let object: serde_json::Value = serde_json::from_str(said.output.last().unwrap()).unwrap();
        assert_eq!(
            (&object["verb"], &object["state"]),
            (&"dump".into(), &"done".into())
        );
        assert_eq!(object["done"], 6_008);
        database.snapshot();
        empty(&database).await;
        assert!(picture(&database.snapshot()).await.is_empty());
        let at = snapshot.lsn();
        drop(snapshot);
        database.close().await;
        (before, at)
    });
    let again = run(&["dump", "--dir", dir, text(&file)], "").one_line();
    assert!(again.ends_with("volume.dump is there already"), "{again}");

    let said = run(&["load", "--dir", dir, "--dry-run", text(&file)], "").well();
    assert!(
        said.output[0].contains("a whole dump of volume"),
        "{said:?}"
    );
    let said = run(&["load", "--dir", dir, text(&file)], "").well();
    assert_eq!(
        said.output,
        ["loaded 6,008 of 6,008 entries of 3 keyspaces"]
    );
    let full = run(&["load", "--dir", dir, text(&file)], "").one_line();
    assert!(
        full.starts_with("the volume is not empty; --into-existing"),
        "{full}"
    );
    // To load it twice changes nothing.
    run(&["load", "--dir", dir, "--into-existing", text(&file)], "").well();

    let after = block_on(async {
        let database = loop {
            match Database::open(cluster.options()).await {
                Err(sixfold::Error::InUse { .. }) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                opened => break opened.unwrap(),
            }
        };
        let after = picture(&database.snapshot()).await;
        database.close().await;
        after
    });
    assert!(after == before, "something is not as it was");

    // The past, by its LSN: before everything was deleted.
    let past = cluster.path().join("past.dump");
    std::thread::sleep(Duration::from_millis(1_100));
    let said = run(
        &["dump", "--dir", dir, "--at", &at.to_string(), text(&past)],
        "",
    )
    .well();
    assert!(
        said.output[0].starts_with("dumped 6,008 entries of 3 keyspaces"),
        "{said:?}"
    );
}

#[test]
fn a_damaged_dump_changes_nothing_and_a_load_goes_on_where_it_stopped() {
    let cluster = RealCluster::start();
    let dir = text(cluster.path());
    let file = cluster.path().join("volume.dump");
    let before = block_on(async {
        let database = Database::create(cluster.options()).await.unwrap();
        fill(&database).await;
        let before = picture(&database.snapshot()).await;
        run(&["dump", "--dir", dir, text(&file)], "").well();
        empty(&database).await;
        database.close().await;
        before
    });
    let bytes = std::fs::read(&file).unwrap();
    let bad = cluster.path().join("bad.dump");
    let mut flipped = bytes.clone();
    *flipped.iter_mut().rev().nth(1_000).unwrap() ^= 4;
    for (bytes, expected) in [
        (
            &bytes[..bytes.len() - 10],
            "bad.dump: the dump is cut off at byte ",
        ),
        (&flipped, "is damaged: its checksum is "),
        (&b"something else"[..], "bad.dump: this is no dump"),
        (&[][..], "bad.dump: this is no dump"),
    ] {
        std::fs::write(&bad, bytes).unwrap();
        let line = run(&["load", "--dir", dir, text(&bad)], "").one_line();
        assert!(line.contains(expected), "{line}");
    }
    // From a pipe it cannot be looked at before: what came before the damage is there, and it says how to go on.
    std::fs::write(&bad, &bytes[..bytes.len() - 10]).unwrap();
    let (good, said) = load_piped(cluster.path(), &bad, &[]);
    assert!(!good, "{said}");
    let chunk = said.split("go on with --from-chunk ").nth(1).unwrap();
    let chunk = chunk
        .split(|letter: char| !letter.is_ascii_digit())
        .next()
        .unwrap();
    assert!(chunk.parse::<u64>().unwrap() > 3, "{said}");
    let (good, said) = load_piped(cluster.path(), &file, &["--from-chunk", chunk]);
    assert!(good, "{said}");
    let after = block_on(async {
        let reader = Database::open_read_only(cluster.options()).await.unwrap();
        let after = picture(&reader.snapshot()).await;
        reader.close().await;
        after
    });
    // Deadlines that have passed meanwhile are none of this: the brief one was gone before, or is gone now.
    let without = |mut picture: Picture| {
        picture.remove(&(String::new(), Bytes::from("brief")));
        picture
    };
    assert!(
        without(after) == without(before),
        "something is not as it was"
    );
}
