//! Watches against real daemons: through kills of the writer, beside others, slow ones, and what each kind of event says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sixfold::{Bytes, Change, Database, Error, Lsn, Options, Watch, WatchEvent};

use crate::library_cluster::{LocalCluster, put, with_database};
use crate::load::block_on;
use crate::process::LIMIT;
use crate::real_cluster::RealCluster;

type Commit = (Lsn, Lsn, Vec<Change>);
type State = BTreeMap<Bytes, Bytes>;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The next commit; progress is passed over.
async fn next_commit(watch: &mut Watch) -> Commit {
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Commit {
                lsn,
                before,
                changes,
            } => return (lsn, before, changes),
            WatchEvent::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Everything up to a point.
async fn until(watch: &mut Watch, target: Lsn) -> Vec<Commit> {
    let mut commits = Vec::new();
    while watch.resume_lsn() < target {
        if let WatchEvent::Commit {
            lsn,
            before,
            changes,
        } = watch.next().await.unwrap()
        {
            assert!(watch.resume_lsn() >= lsn);
            commits.push((lsn, before, changes));
        }
    }
    commits
}

/// Does a commit's changes to a model; with `check`, old values must be what the model had before the commit.
fn apply(state: &mut State, changes: &[Change], check: bool) {
    let before = state.clone();
    for change in changes {
        match change {
            Change::Put {
                key, value, old, ..
            } => {
                state.insert(key.clone(), value.clone());
                assert!(
                    !check || before.get(key) == old.as_ref(),
                    "{key:?}: {old:?}"
                );
            }
            Change::Delete { key, old } => {
                state.remove(key);
                assert!(
                    !check || before.get(key) == old.as_ref(),
                    "{key:?}: {old:?}"
                );
            }
            Change::Expired { key } => drop(state.remove(key)),
            Change::DeleteRange { start, end } => {
                state.retain(|key, _| key < start || end.as_ref().is_some_and(|end| key >= end));
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn contents(database: &Database) -> (Lsn, State) {
    let snapshot = database.snapshot();
    let items = snapshot.range(..).collect().await.unwrap();
    (snapshot.lsn(), items.into_iter().collect())
}

/// One random transaction; its LSN, when it changed anything.
async fn random_commit(database: &Database, dice: &mut Dice) -> Option<Lsn> {
    let txn = database.begin().await.unwrap();
    for _ in 0..1 + dice.below(4) {
        let key = format!("key {:02}", dice.below(30));
        match dice.below(10) {
            0 => txn.delete(key).unwrap(),
            1 => txn.delete_range(key.clone()..format!("{key}~")).unwrap(),
            2 => txn.add("number", 1).unwrap(),
            3 => {
                let byte = u8::try_from(dice.below(256)).unwrap();
                txn.put(key, vec![byte; 20_000]).unwrap();
            }
            _ => txn
                .put(key, format!("value {}", dice.below(1_000)))
                .unwrap(),
        }
    }
    // Nothing was read: it cannot conflict.
    Some(txn.commit().await.unwrap().lsn)
}

#[tokio::test]
async fn four_watchers_beside_three_writers_are_told_the_same_and_all_of_it() {
    let cluster = LocalCluster::start();
    let ended = tokio::time::timeout(LIMIT, async {
        // A ring that holds next to nothing: who is slow reads the log.
        let options = cluster.options().watch_bytes(4_000).cache_bytes(64 * 8_192);
        let database = Database::create(options).await.unwrap();
        let from = database.snapshot().lsn();
        put(&database, "key 00", "before").await;

        let writers: Vec<_> = (1..=3_u64)
            .map(|seed| {
                let database = database.clone();
                tokio::spawn(async move {
                    let mut dice = Dice(seed * 7_919);
                    let mut lsns = Vec::new();
                    for _ in 0..80 {
                        lsns.extend(random_commit(&database, &mut dice).await);
                    }
                    lsns
                })
            })
            .collect();
        // Two that keep up, one with old values; one that begins anew all the time.
        let (stop, stopped) = tokio::sync::watch::channel(None);
        let watchers: Vec<_> = (0..3)
            .map(|kind| {
                let (database, stopped) = (database.clone(), stopped.clone());
                tokio::spawn(async move {
                    let mut commits: Vec<Commit> = Vec::new();
                    let mut watch = watching(&database, from, kind);
                    while stopped
                        .borrow()
                        .is_none_or(|end: Lsn| watch.resume_lsn() < end)
                    {
                        if let WatchEvent::Commit {
                            lsn,
                            before,
                            changes,
                        } = watch.next().await.unwrap()
                        {
                            commits.push((lsn, before, changes));
                            if kind == 2 && commits.len().is_multiple_of(7) {
                                watch = watching(&database, watch.resume_lsn(), kind);
                            }
                        }
                    }
                    commits
                })
            })
            .collect();
        let mut answered = Vec::new();
        for writer in writers {
            answered.extend(writer.await.unwrap());
        }
        let (end, state) = contents(&database).await;
        stop.send(Some(end)).unwrap();
        // So late that nothing is left in memory.
        let mut late = watching(&database, from, 3);
        let late = until(&mut late, end).await;
        assert!(late.is_sorted_by(|one, other| one.0 < other.0));

        for (kind, watcher) in watchers.into_iter().enumerate() {
            let commits = watcher.await.unwrap();
            let mut model = State::new();
            for (_, _, changes) in &commits {
                apply(&mut model, changes, kind == 0);
            }
            assert_eq!(model, state, "watcher {kind}");
            let told = |commits: &[Commit]| -> Vec<(Lsn, Lsn, usize)> {
                commits
                    .iter()
                    .map(|one| (one.0, one.1, one.2.len()))
                    .collect()
            };
            assert_eq!(told(&commits), told(&late), "watcher {kind}");
            if kind > 0 {
                assert_eq!(commits, late, "watcher {kind}");
            }
        }
        // What was answered and changed anything is there; a commit that changed nothing has the LSN of another one.
        let lsns: Vec<Lsn> = late.iter().map(|commit| commit.0).collect();
        for lsn in &lsns[1..] {
            assert!(answered.contains(lsn), "{lsn} was answered to nobody");
        }
        let with_records = answered.iter().filter(|lsn| lsns.contains(lsn)).count();
        assert!(with_records > 150, "{with_records}");
        database.close().await;
    });
    ended.await.expect("it ends in time");
}

fn watching(database: &Database, from: Lsn, kind: usize) -> Watch {
    let watch = database.watch(.., from).unwrap();
    if kind == 0 {
        watch.with_old_values()
    } else {
        watch
    }
}

#[tokio::test]
async fn each_event_says_what_its_contract_says() {
    with_database(async |database| {
        let first = put(&database, "b", "1").await;
        let mut watch = database.watch("b".."d", first).unwrap().with_old_values();
        let large = Bytes::from(vec![7; 500_000]);
        let txn = database.begin().await.unwrap();
        txn.put("a", "not watched").unwrap();
        txn.put("b", &large).unwrap();
        txn.put("c", "2").unwrap();
        let second = txn.commit().await.unwrap().lsn;
        let put_of = |key: &str, value: &Bytes, old: Option<&str>| Change::Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.clone(),
            old: old.map(|old| Bytes::copy_from_slice(old.as_bytes())),
            deadline_ms: None,
        };
        let (lsn, before, changes) = next_commit(&mut watch).await;
        assert_eq!((lsn, watch.resume_lsn()), (second, second));
        assert!(first <= before && before < second);
        let two = Bytes::from_static(b"2");
        assert_eq!(
            changes,
            [put_of("b", &large, Some("1")), put_of("c", &two, None)]
        );

        // A range delete is one event, clipped, before what its commit puts into the range; old values are at `before`.
        let txn = database.begin().await.unwrap();
        txn.delete_range("a".."c~").unwrap();
        txn.put("c", "3").unwrap();
        let third = txn.commit().await.unwrap().lsn;
        let (lsn, before, changes) = next_commit(&mut watch).await;
        let three = Bytes::from_static(b"3");
        assert_eq!(lsn, third);
        assert_eq!(
            changes,
            [
                Change::DeleteRange {
                    start: "b".into(),
                    end: Some("c~".into())
                },
                put_of("c", &three, Some("2")),
            ]
        );
        let then = database.snapshot_at(before).await.unwrap();
        assert_eq!(then.get("b").await.unwrap(), Some(large));
        let unbounded = database.watch(.., second).unwrap();
        let changes = until(&mut { unbounded }, third).await.remove(0).2;
        assert!(matches!(&changes[0], Change::DeleteRange { start, .. } if start == "a"));

        // Deletes of what is absent are no events; what expires is one, when it is removed.
        let txn = database.begin().await.unwrap();
        txn.delete("bb").unwrap();
        txn.put_with_ttl("b", "short", Duration::from_millis(300))
            .unwrap();
        txn.commit().await.unwrap();
        let (_, _, changes) = next_commit(&mut watch).await;
        assert!(
            matches!(&changes[..], [Change::Put { key, deadline_ms: Some(_), .. }] if key == "b"),
            "{changes:?}"
        );
        let (_, _, changes) = next_commit(&mut watch).await;
        assert_eq!(changes, [Change::Expired { key: "b".into() }]);

        // Numbers are told as they are then; one key is a range.
        let from = database.snapshot().lsn();
        let mut one_key = database.watch("n"..="n", from).unwrap();
        for _ in 0..2 {
            let txn = database.begin().await.unwrap();
            txn.add("n", 21).unwrap();
            txn.add("nn", 1).unwrap();
            txn.commit().await.unwrap();
        }
        next_commit(&mut one_key).await;
        let (_, _, changes) = next_commit(&mut one_key).await;
        let value = Bytes::copy_from_slice(&42_i64.to_le_bytes());
        assert_eq!(changes, [put_of("n", &value, None)]);

        // Nothing happens to what is watched: progress is told all the same.
        let far = put(&database, "z", "elsewhere").await;
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Progress { lsn } if lsn >= far => break,
                WatchEvent::Progress { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(watch.resume_lsn() >= far);
        let vdl = database.snapshot().lsn();
        let above = Lsn::new(vdl.get() + 1_000_000);
        assert!(matches!(
            database.watch(.., above),
            Err(Error::Invalid { .. })
        ));
        let reversed = database.watch("z".."a", Lsn::NONE).unwrap();
        assert_eq!(until(&mut { reversed }, vdl).await, []);
    })
    .await;
}

#[tokio::test]
async fn keyspaces_are_watched_apart_and_end_with_a_range_delete() {
    with_database(async |database| {
        let users = database.create_keyspace("users").await.unwrap();
        let from = database.snapshot().lsn();
        let mut watch = users.watch(.., from).unwrap();
        let mut default = database.watch(.., from).unwrap();
        let txn = database.begin().await.unwrap();
        txn.put("k", "default").unwrap();
        txn.within(&users).put("k", "users").unwrap();
        let lsn = txn.commit().await.unwrap().lsn;
        for (watch, expected) in [(&mut watch, "users"), (&mut default, "default")] {
            let (told, _, changes) = next_commit(watch).await;
            assert_eq!(told, lsn);
            assert!(
                matches!(&changes[..], [Change::Put { key, value, .. }] if key == "k" && value == expected),
                "{changes:?}"
            );
        }
        assert!(database.drop_keyspace("users").await.unwrap());
        let (_, _, changes) = next_commit(&mut watch).await;
        let all = Change::DeleteRange {
            start: Bytes::new(),
            end: None,
        };
        assert_eq!(changes, [all]);
        put(&database, "k", "2").await;
        let (_, _, changes) = next_commit(&mut default).await;
        assert_eq!(changes.len(), 1, "{changes:?}");
    })
    .await;
}

#[tokio::test]
async fn a_watch_ends_as_fenced_and_goes_on_at_the_next_writer() {
    let cluster = LocalCluster::start();
    let ended = tokio::time::timeout(LIMIT, async {
        let first = Database::create(cluster.options()).await.unwrap();
        let start = first.snapshot().lsn();
        let mut watch = first.watch(.., start).unwrap();
        let mut lsns = Vec::new();
        for number in 0..20 {
            lsns.push(put(&first, "key", number.to_string()).await);
        }
        let mut told = Vec::new();
        for _ in 0..5 {
            told.push(next_commit(&mut watch).await.0);
        }
        let second = Database::take_over(cluster.options()).await.unwrap();
        lsns.push(put(&second, "key", "of the second").await);
        // The first one finds out when it next writes or is told; what it knew to be durable it may still tell.
        let refused = async { first.begin().await?.put("key", "x") }.await;
        drop(refused);
        let error = loop {
            match watch.next().await {
                Ok(WatchEvent::Commit { lsn, .. }) => told.push(lsn),
                Ok(_) => {}
                Err(Error::Unavailable { .. }) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
        let mut watch = second.watch(.., watch.resume_lsn()).unwrap();
        while told.len() < lsns.len() {
            told.push(next_commit(&mut watch).await.0);
        }
        assert_eq!(told, lsns);
        second.close().await;
        assert!(matches!(watch.next().await, Err(Error::Closed { .. })));
        first.close().await;
    });
    ended.await.expect("it ends in time");
}

/// What a child of the test below has said.
#[derive(Debug, Default)]
struct Said {
    /// Commits that were answered, with what they put.
    answered: Vec<(u64, String)>,
    /// Commits that were told, with what they put.
    told: Vec<(u64, String)>,
    resume: u64,
}

const CHILD: &str = "SIXFOLD_WATCH_TEST_CHILD";

/// A process that writes and watches: not a test but the body of the one below.
#[test]
fn child_that_writes_and_watches() {
    let Ok(settings) = std::env::var(CHILD) else {
        return;
    };
    let (from, cluster_file) = settings.split_once(' ').unwrap();
    let options = Options::from_cluster_file(cluster_file)
        .unwrap()
        .watch_bytes(20_000);
    let from: u64 = from.parse().unwrap();
    block_on(async move {
        let database = if from == 0 {
            Database::create(options).await.unwrap()
        } else {
            Database::take_over(options).await.unwrap()
        };
        let mut watch = database.watch("k/".."k/~", Lsn::new(from)).unwrap();
        for writer in 0..4_u64 {
            let database = database.clone();
            tokio::spawn(async move {
                let mut dice = Dice(u64::from(std::process::id()) * 8 + writer + 1);
                for number in 0.. {
                    let txn = database.begin().await.unwrap();
                    let name = format!("{}-{writer}-{number}", std::process::id());
                    txn.put(format!("k/{:02}", dice.below(40)), &name).unwrap();
                    txn.put(format!("z/{:02}", dice.below(40)), "not watched")
                        .unwrap();
                    let lsn = txn.commit().await.unwrap().lsn;
                    println!("A {lsn} {name}");
                }
            });
        }
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Commit { lsn, changes, .. } => {
                    let [Change::Put { value, .. }] = &changes[..] else {
                        panic!("{changes:?}")
                    };
                    println!("C {lsn} {}", String::from_utf8_lossy(value));
                }
                WatchEvent::Progress { lsn } => println!("P {lsn}"),
                other => panic!("{other:?}"),
            }
        }
    });
}

/// Starts a child, lets it be told of so many commits, and kills it.
fn live_and_die(cluster: &RealCluster, said: &mut Said, count: usize) {
    let cluster_file = cluster.path().join("cluster.toml");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "watch::child_that_writes_and_watches",
            "--nocapture",
        ])
        .env(CHILD, format!("{} {}", said.resume, cluster_file.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let wanted = said.told.len() + count;
    let mut line = String::new();
    let mut killed = false;
    loop {
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The last line may be torn by the kill.
        if let Some(whole) = line.strip_suffix('\n') {
            take(whole, said);
        }
        if !killed && said.told.len() >= wanted {
            kill(&mut child);
            killed = true;
        }
    }
    if !killed {
        kill(&mut child);
        panic!("the child ended by itself");
    }
    child.wait().unwrap();
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
}

fn take(line: &str, said: &mut Said) {
    let mut words = line.split(' ');
    let (kind, lsn, name) = (words.next(), words.next(), words.next());
    let Some(lsn) = lsn.and_then(|lsn| lsn.parse().ok()) else {
        return;
    };
    match (kind, name) {
        (Some("A"), Some(name)) => said.answered.push((lsn, name.to_owned())),
        (Some("C"), Some(name)) => {
            said.told.push((lsn, name.to_owned()));
            said.resume = lsn;
        }
        (Some("P"), None) => said.resume = lsn,
        _ => {}
    }
}

#[test]
fn a_watch_goes_on_through_kills_of_its_writer_without_gap_or_duplicate() {
    let mut cluster = RealCluster::start();
    let mut said = Said::default();
    for count in [300, 50, 400, 1, 200] {
        live_and_die(&cluster, &mut said, count);
    }
    cluster.assert_alive();
    let resume = Lsn::new(said.resume);
    let (rest, state) = block_on(async {
        let database = Database::take_over(cluster.options()).await.unwrap();
        let (end, state) = contents(&database).await;
        let rest = until(&mut database.watch("k/".."k/~", resume).unwrap(), end).await;
        database.close().await;
        (rest, state)
    });
    for (lsn, _, changes) in &rest {
        let [Change::Put { value, .. }] = &changes[..] else {
            panic!("{changes:?}")
        };
        let name = String::from_utf8(value.to_vec()).unwrap();
        said.told.push((lsn.get(), name));
    }
    assert!(
        said.told.is_sorted_by(|one, other| one.0 < other.0),
        "a duplicate"
    );
    // Every answered commit was told at its LSN, by one writer or the next.
    let told: BTreeMap<&str, u64> = said
        .told
        .iter()
        .map(|(lsn, name)| (&name[..], *lsn))
        .collect();
    assert_eq!(told.len(), said.told.len(), "a commit was told twice");
    for (lsn, name) in &said.answered {
        assert_eq!(told.get(&name[..]), Some(lsn), "{name} was answered");
    }
    assert!(said.answered.len() > 500, "{}", said.answered.len());
    // Nothing else was told than what is there: the newest value of each key is the last that was told of it.
    for (key, value) in state.iter().filter(|(key, _)| key.starts_with(b"k/")) {
        let name = String::from_utf8(value.to_vec()).unwrap();
        assert!(told.contains_key(&name[..]), "{key:?} holds {name}");
    }
}
