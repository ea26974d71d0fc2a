//! `sixfold local` and `sixfold shell` as a user has them.

use std::path::Path;

use rustix::process::Signal;

use crate::process::{Finished, Running, run, scratch};

fn local(dir: &Path) -> Running {
    let args = [
        "local",
        "--hot-log-file-mib",
        "8",
        "--stop-with-stdin",
        "--dir",
        dir.to_str().unwrap(),
    ];
    let mut local = Running::start(&args);
    local.wait_for("ready: sixfold shell --dir ");
    local
}

fn shell(dir: &Path, input: &str) -> Finished {
    run(&["shell", "--dir", dir.to_str().unwrap()], input)
}

/// What a shell says, `N` for LSNs.
fn said(finished: &Finished) -> Vec<String> {
    let hide = |line: &String| match line.strip_prefix("committed at ") {
        Some(lsn) => {
            assert!(lsn.parse::<u64>().is_ok(), "{line}");
            "committed at N".to_owned()
        }
        None => line.clone(),
    };
    finished.output.iter().map(hide).collect()
}

#[test]
fn a_piped_shell_does_what_its_lines_say_and_the_data_stays() {
    let dir = scratch();
    let first = local(dir.path());
    let session = "\
        put fruit/apple red and sweet\n\
        \n\
        get fruit/apple\n\
        get fruit/banana\n\
        begin\n\
        put fruit/banana yellow\n\
        put \\x00\\xff \\\\\n\
        get fruit/banana\n\
        commit\n\
        begin\n\
        delete fruit/apple\n\
        scan\n\
        rollback\n\
        scan fruit/ fruit/b\n\
        put gone 1\n\
        delete gone\n\
        scan\n\
        exit\n\
        no command is read behind exit\n";
    let finished = shell(dir.path(), session).well();
    assert_eq!(
        finished.errors,
        "the volume does not exist yet; creating it\n"
    );
    let apple = "fruit/apple red and sweet";
    let (banana, bytes) = ("fruit/banana yellow", "\\x00\\xff \\\\");
    assert_eq!(
        said(&finished),
        [
            "committed at N",
            "red and sweet",
            "(absent)",
            "yellow",
            "committed at N",
            bytes,
            banana,
            apple,
            "committed at N",
            "committed at N",
            bytes,
            apple,
            banana,
        ]
    );

    // Right behind it.
    let finished = shell(dir.path(), "help\nstatus\nget fruit/apple\n").well();
    assert_eq!(finished.errors, "");
    let text = finished.output.join("\n");
    for word in [
        "scan [FROM [TO]]",
        "volume epoch 3",
        "vdl ",
        "segment ",
        "scl ",
        "red and sweet",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(text.matches("segment ").count(), 6, "{text}");

    // The nodes are stopped and come back where they were.
    let ended = first.finish().well();
    assert_eq!(ended.errors, "");
    let second = local(dir.path());
    let finished = shell(dir.path(), "scan fruit/ fruit0\n").well();
    assert_eq!(said(&finished), [apple, banana]);
    second.signal(Signal::TERM);
    second.wait().well();
}

#[test]
fn the_first_bad_line_ends_a_piped_shell_with_an_error() {
    let dir = scratch();
    let _local = local(dir.path());
    shell(dir.path(), "").well();
    let cases = [
        (
            "put good 1\nfrobnicate\nput never 1\n",
            "line 2: no command \"frobnicate\"; help lists them",
        ),
        ("get\n", "line 1: one key is needed"),
        ("get two keys\n", "line 1: one key is needed"),
        ("put lonely\n", "line 1: put KEY VALUE"),
        ("scan a b c\n", "line 1: scan [FROM [TO]]"),
        ("commit\n", "line 1: no transaction is open"),
        ("rollback\n", "line 1: no transaction is open"),
        (
            "begin\nput never 1\nbegin\n",
            "line 3: a transaction is open; commit or rollback first",
        ),
        (
            "get \\x\n",
            "line 1: \"\\\\x\": a backslash needs xHH or another backslash behind it",
        ),
    ];
    for (input, expected) in cases {
        assert_eq!(shell(dir.path(), input).one_line(), expected);
    }
    let long = format!("put {} 1\n", "k".repeat(1_025));
    assert!(
        shell(dir.path(), &long)
            .one_line()
            .starts_with("line 1: invalid: ")
    );
    // Lines before a bad one count, those behind it and a transaction without its commit do not.
    let finished = shell(dir.path(), "scan\nbegin\nput never 1\n").well();
    assert_eq!(said(&finished), ["good 1"]);
    let finished = shell(dir.path(), "scan\n").well();
    assert_eq!(said(&finished), ["good 1"]);
}

#[test]
fn a_second_shell_is_refused_or_takes_over() {
    let dir = scratch();
    let _local = local(dir.path());
    let path = dir.path().to_str().unwrap();
    let mut first = Running::start(&["shell", "--dir", path]);
    first.tell("put key first");
    first.wait_for("committed at ");

    let line = shell(dir.path(), "get key\n").one_line();
    assert!(
        line.contains("the volume is in use") && line.contains("--take-over"),
        "{line}"
    );
    // Refusing harmed nobody.
    first.tell("put key again");
    first.wait_for("committed at ");

    let finished = run(
        &["shell", "--dir", path, "--take-over"],
        "get key\nput key second\nget key\n",
    )
    .well();
    assert_eq!(said(&finished), ["again", "committed at N", "second"]);

    first.tell("put key too late");
    let finished = first.finish();
    assert!(!finished.status.success(), "{finished:?}");
    // The log may tell of the fence, too; the last line says what became of the command.
    assert!(
        finished
            .errors
            .lines()
            .last()
            .unwrap()
            .starts_with("sixfold: line 3: "),
        "{finished:?}"
    );
    assert!(
        !finished.errors.contains('\u{1b}'),
        "colors without a terminal: {finished:?}"
    );
    let finished = shell(dir.path(), "get key\n").well();
    assert_eq!(said(&finished), ["second"]);
}

#[test]
fn a_writer_that_slept_through_its_succession_reads_nothing_old() {
    let dir = scratch();
    let _local = local(dir.path());
    let path = dir.path().to_str().unwrap();
    let mut first = Running::start(&["shell", "--dir", path]);
    first.tell("put key first");
    first.wait_for("committed at ");
    first.tell("get key");
    assert_eq!(first.line(), "first");
    first.signal(Signal::STOP);
    run(&["shell", "--dir", path, "--take-over"], "put key second\n").well();
    // Both are there when it wakes up: the command, and the news that it was replaced.
    first.tell("get key");
    first.signal(Signal::CONT);
    let finished = first.finish();
    assert!(
        !finished.output.contains(&"first".to_owned()),
        "{finished:?}"
    );
    assert!(
        !finished.status.success() || finished.output == ["second"],
        "{finished:?}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let dir = scratch();
    let _local = local(dir.path());
    shell(dir.path(), "put key value\n").well();
    for verb in ["shell", "status"] {
        let mut running = Running::start_unread(&[verb, "--dir", dir.path().to_str().unwrap()]);
        if verb == "shell" {
            running.tell("get key");
        }
        let line = running.finish().one_line();
        assert!(
            line.contains("cannot write to standard output: Broken pipe"),
            "{line}"
        );
    }
}

#[test]
fn a_node_of_a_local_cluster_that_is_killed_is_started_again() {
    let dir = scratch();
    let mut local = Running::start(&[
        "local",
        "--hot-log-file-mib",
        "8",
        "--stop-with-stdin",
        "--dir",
        dir.path().to_str().unwrap(),
    ]);
    let pid: i32 = local
        .wait_for("node 1 ")
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    local.wait_for("ready: ");
    shell(dir.path(), "put key value\n").well();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL)
        .unwrap();
    // All six answer again.
    crate::process::eventually("the node is back", || {
        let status = run(&["status", "--dir", dir.path().to_str().unwrap()], "").well();
        !status.output.iter().any(|line| line.contains(" silent: "))
            && !crate::process::processes_of(dir.path()).contains(&(pid as u32))
    });
    let finished = shell(dir.path(), "get key\n").well();
    assert_eq!(said(&finished), ["value"]);
    let ended = local.finish().well();
    assert_eq!(
        ended.errors,
        "sixfold: node 1 ended with signal: 9 (SIGKILL); starting it again\n"
    );
}

#[test]
fn an_operator_lists_segments_and_drops_one_of_a_single_node() {
    let dir = scratch();
    let _local = local(dir.path());
    shell(dir.path(), "put key value\n").well();
    let at = dir.path().to_str().unwrap();
    let list = || run(&["node", "list", "--dir", at], "").well().output;
    let lines = list();
    assert_eq!(lines.len(), 6, "{lines:?}");
    let words: Vec<&str> = lines[5].split(' ').collect();
    let (node, segment, volume) = (words[1], words[3], words[5]);
    let drop = |volume: &str| {
        let args = [
            "node",
            "drop",
            "--dir",
            at,
            "--node",
            node,
            "--segment",
            segment,
        ];
        run(&[&args[..], &["--volume", volume]].concat(), "")
    };
    let other = "0".repeat(32);
    assert!(drop(&other).one_line().contains("refused: "));
    assert!(
        drop("x")
            .one_line()
            .contains("is not 32 hexadecimal digits")
    );
    drop(volume).well();
    assert_eq!(list(), lines[..5]);
    assert!(drop(volume).one_line().contains("holds no segment"));
    // Five of six are enough.
    let finished = shell(dir.path(), "put key other\nget key\n").well();
    assert_eq!(said(&finished).last().unwrap(), "other");
}
