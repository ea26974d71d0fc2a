//! What processes that hold a volume open for a while say of themselves over HTTP: shells, dumps, loads, the demo. And where their settings
//! come from.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use sixfold::Database;

use crate::load::block_on;
use crate::observe::{free_address, get};
use crate::process::{Running, eventually, run, scratch};
use crate::real_cluster::RealCluster;

fn dir_of(cluster: &RealCluster) -> String {
    cluster.path().to_str().unwrap().to_owned()
}

/// The value of a metric without labels.
fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let (status, text) = get(address, "/metrics")?;
    assert_eq!(status, 200);
    sixfold_metrics::parse(&text).unwrap().sum(name)
}

#[test]
fn a_shell_serves_the_metrics_of_its_writer_or_reader() {
    let cluster = RealCluster::start();
    let dir = dir_of(&cluster);
    let address = free_address();
    let at = address.to_string();
    let mut shell = Running::start(&["shell", "--dir", &dir, "--metrics", &at]);
    shell.tell("put a 1");
    shell.wait_for("committed at ");
    assert_eq!(get(address, "/readyz"), Some((200, "ok\n".to_owned())));
    assert!(metric(address, "sixfold_writer_commits_total").unwrap() >= 1.0);
    shell.finish().well();

    let mut shell = Running::start(&["shell", "--dir", &dir, "--read-only", "--metrics", &at]);
    shell.tell("get a");
    shell.wait_for("1");
    assert_eq!(get(address, "/readyz"), Some((200, "ok\n".to_owned())));
    let before = metric(address, "sixfold_reader_point_lsn").unwrap();
    block_on(async {
        let database = Database::take_over(cluster.options()).await.unwrap();
        let txn = database.begin().await.unwrap();
        txn.put("a", "2").unwrap();
        txn.commit().await.unwrap();
        database.close().await;
    });
    shell.tell("refresh");
    shell.wait_for("as of ");
    assert!(metric(address, "sixfold_reader_point_lsn").unwrap() > before);
    shell.finish().well();

    // An address that is taken is told before anything is opened.
    let taken = std::net::TcpListener::bind(address).unwrap();
    let line = run(&["shell", "--dir", &dir, "--metrics", &at], "").one_line();
    assert!(line.contains("cannot serve metrics at"), "{line}");
    drop(taken);
}

#[test]
fn a_dump_and_a_load_serve_metrics_while_they_run() {
    let cluster = RealCluster::start();
    let dir = dir_of(&cluster);
    block_on(async {
        let database = Database::create(cluster.options()).await.unwrap();
        // More than pipes and buffers hold: the dump waits for its reader.
        for number in 0..40 {
            let txn = database.begin().await.unwrap();
            txn.put(format!("{number:04}"), vec![number; 100_000])
                .unwrap();
            txn.commit().await.unwrap();
        }
        database.close().await;
    });
    let address = free_address();
    let at = address.to_string();
    let mut dump = Command::new(env!("CARGO_BIN_EXE_sixfold"))
        .args(["dump", "--dir", &dir, "--metrics", &at, "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the dump says what it reads", || {
        metric(address, "sixfold_reader_point_lsn").is_some_and(|lsn| lsn > 0.0)
    });
    let mut text = Vec::new();
    dump.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    assert!(dump.wait().unwrap().success());
    assert!(text.len() > 4_000_000, "{} bytes", text.len());

    // The load waits for the rest of its input.
    let other = RealCluster::start();
    let other_dir = dir_of(&other);
    let mut load = Command::new(env!("CARGO_BIN_EXE_sixfold"))
        .args(["load", "--dir", &other_dir, "--metrics", &at, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = load.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &text[..1_000_000]).unwrap();
    eventually("the load is a writer that is ready", || {
        get(address, "/readyz").is_some_and(|(status, _)| status == 200)
    });
    std::io::Write::write_all(&mut input, &text[1_000_000..]).unwrap();
    drop(input);
    assert!(load.wait().unwrap().success());
}

#[test]
fn the_demos_writers_serve_metrics_one_after_the_other() {
    let scratch = scratch();
    let dir = scratch.path().join("cluster");
    let address = free_address();
    let at = address.to_string();
    let demo = Running::start(&[
        "demo",
        "--seconds",
        "6",
        "--chunks",
        "4",
        "--clients",
        "4",
        "--json",
        "--dir",
        dir.to_str().unwrap(),
        "--metrics",
        &at,
    ]);
    let seen_after = |before: f64| {
        let mut seen = before;
        eventually("a writer serves", || {
            let epoch = metric(address, "sixfold_writer_volume_epoch");
            seen = epoch.unwrap_or(before);
            seen > before
        });
        seen
    };
    let first = seen_after(0.0);
    // It was killed, and the next one has its address.
    seen_after(first);
    demo.wait().well();
}

#[test]
fn settings_come_from_flags_environment_and_file_and_wrong_ones_give_one_line() {
    let cluster = RealCluster::start();
    let dir = dir_of(&cluster);
    let file = cluster.path().join("cluster.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let shell = ["shell", "--dir", &dir];
    let with = |more: &str| std::fs::write(&file, format!("{good}\n{more}")).unwrap();

    // The file is right; the environment goes before it, the flag before both.
    with("[writer]\nseals_in_flight = 3\n");
    let wrong = [("SIXFOLD_WRITER_SEALS_IN_FLIGHT", "9")];
    let line = Running::start_with(&shell, &wrong).finish().one_line();
    assert!(
        line.ends_with("SIXFOLD_WRITER_SEALS_IN_FLIGHT: 9 is not in 2..=4"),
        "{line}"
    );
    let with_flag = [&shell[..], &["--set", "writer.seals_in_flight=2"]].concat();
    Running::start_with(&with_flag, &wrong).finish().well();

    with("[writer]\nopen_deadlin_ms = 1\n");
    let expected = "unknown key `open_deadlin_ms`, did you mean `open_deadline_ms`?";
    for verb in ["shell", "standby", "dump", "status"] {
        let mut args = vec![verb, "--dir", &dir];
        args.extend((verb == "dump").then_some("out"));
        let line = run(&args, "").one_line();
        assert!(line.ends_with(expected), "{verb}: {line}");
        assert!(line.contains("cluster.toml: line "), "{verb}: {line}");
    }
    let line = run(&["config", "check", file.to_str().unwrap()], "").one_line();
    assert!(line.ends_with(expected), "{line}");
    with("[standby]\npatience_ms = 5\n");
    let line = run(&["standby", "--dir", &dir], "").one_line();
    assert!(line.contains("patience_ms: 5 is not in 200..="), "{line}");
    std::fs::write(&file, &good).unwrap();
    let line = run(
        &[&shell[..], &["--set", "writer.sels_in_flight=3"]].concat(),
        "",
    )
    .one_line();
    assert!(
        line.ends_with(
            "--set: unknown key `writer.sels_in_flight`, did you mean `writer.seals_in_flight`?"
        ),
        "{line}"
    );
    let ended = Running::start_with(
        &["standby", "--dir", &dir],
        &[("SIXFOLD_STANDBY_POLL_MS", "x")],
    );
    let line = ended.wait().one_line();
    assert!(
        line.ends_with("SIXFOLD_STANDBY_POLL_MS: \"x\" is not a whole number"),
        "{line}"
    );
}
