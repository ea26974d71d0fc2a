//! Metrics, health, console and `top` on real processes: what endpoints say is parsed strictly, stands in the documentation, and is all
//! that dashboard and alert rules ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sixfold::{Database, MetricsSnapshot};
use sixfold_metrics::{Parsed, parse};

use crate::load::block_on;
use crate::process::{LIMIT, Running, eventually, run};
use crate::real_cluster::RealCluster;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Sends bytes and reads all that comes back. `None` when nobody listens.
fn exchange(address: SocketAddr, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The other side may close before it has read everything.
    let _refused = stream.write_all(request);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Status and body of a page.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes())?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn write(database: &Database, count: usize) {
    for number in 0..count {
        let key = format!("key {number}");
        database
            .transact(|txn| {
                let key = key.clone();
                async move { txn.put(key, vec![7; 100]) }
            })
            .await
            .unwrap();
    }
}

/// `promtool check metrics`, where it is installed.
fn promtool(args: &[&str], input: &str) {
    let child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("no promtool here");
        return;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The console's page as a browser has it after a while, where one is installed: its script has run under its own policy.
fn in_chromium(address: SocketAddr, profile: &Path) -> Option<String> {
    let output = Command::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args([
            "--virtual-time-budget=6000",
            "--timeout=60000",
            "--dump-dom",
        ])
        .arg(format!("http://{address}/"))
        .output();
    let Ok(output) = output else {
        eprintln!("no chromium here");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What a node and a writer say under load, and all families of both.
fn scraped() -> (
    RealCluster,
    Parsed,
    Parsed,
    BTreeMap<String, (String, String)>,
) {
    let cluster = RealCluster::start();
    let node = cluster.cluster.nodes[0].address;
    let (node_text, writer_text, reader_text) = block_on(async {
        let database = Database::create(cluster.options()).await.unwrap();
        write(&database, 50).await;
        let reader = Database::open_read_only(cluster.options()).await.unwrap();
        let reader_text = reader.metrics().text();
        reader.close().await;
        let (status, node_text) = get(node, "/metrics").unwrap();
        assert_eq!(status, 200);
        let snapshot: MetricsSnapshot = database.metrics().await.unwrap();
        database.close().await;
        (node_text, snapshot.text(), reader_text)
    });
    promtool(&["check", "metrics"], &node_text);
    promtool(&["check", "metrics"], &writer_text);
    promtool(&["check", "metrics"], &reader_text);
    let (node, writer) = (parse(&node_text).unwrap(), parse(&writer_text).unwrap());
    let reader = parse(&reader_text).unwrap();
    assert_eq!(reader.sum("sixfold_reader_settled"), Some(1.0));
    let families = node.families.iter().chain(&writer.families);
    let families = families.chain(&reader.families);
    let all = families
        .map(|family| {
            let what = (family.kind.clone(), family.help.clone());
            (family.name.clone(), what)
        })
        .collect();
    (cluster, node, writer, all)
}

#[test]
fn endpoints_parse_count_what_was_done_and_stand_in_the_documentation() {
    let (_cluster, node, writer, all) = scraped();
    assert!(writer.sum("sixfold_writer_commits_total").unwrap() >= 50.0);
    assert!(writer.sum("sixfold_writer_commit_seconds_count").unwrap() >= 50.0);
    assert_eq!(writer.sum("sixfold_writer_writable"), Some(1.0));
    assert_eq!(writer.sum("sixfold_writer_segment_attached"), Some(6.0));
    let stage = |stage: &str| {
        let family = writer
            .family("sixfold_writer_commit_stage_seconds")
            .unwrap();
        let of_stage = |labels: &[(String, String)]| {
            labels
                .iter()
                .any(|(name, value)| name == "stage" && value == stage)
        };
        let counts = family
            .samples
            .iter()
            .filter(|sample| sample.name.ends_with("_count"));
        counts
            .filter(|sample| of_stage(&sample.labels))
            .map(|sample| sample.value)
            .sum::<f64>()
    };
    for name in ["seal", "ship", "quorum", "wake"] {
        assert!(stage(name) > 0.0, "{name}");
    }
    assert!(node.sum("sixfold_node_redo_bytes_total").unwrap() > 5_000.0);
    assert!(
        node.sum("sixfold_node_hot_log_write_seconds_count")
            .unwrap()
            > 0.0
    );
    assert_eq!(node.sum("sixfold_node_ready"), Some(1.0));
    assert_eq!(node.sum("sixfold_segment_horizon_held"), Some(1.0));

    let page = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `sixfold_"));
    let told: BTreeMap<String, (String, String)> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let name = cells[0].trim_matches('`').to_owned();
            (name, (cells[1].to_owned(), cells[3].to_owned()))
        })
        .collect();
    for (name, what) in &all {
        assert_eq!(told.get(name), Some(what), "docs/OPERATIONS.md: {name}");
    }
    for name in told.keys() {
        assert!(
            all.contains_key(name),
            "docs/OPERATIONS.md names {name}, which nobody says"
        );
    }

    for file in [
        "packaging/grafana/sixfold.json",
        "packaging/prometheus/sixfold.rules.yml",
    ] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let asked: BTreeSet<&str> = text
            .split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
            .filter(|word| word.starts_with("sixfold_"))
            .collect();
        assert!(asked.len() > 10, "{file}");
        for name in asked {
            let family = ["_bucket", "_sum", "_count"]
                .into_iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            assert!(
                all.contains_key(family),
                "{file} asks for {name}, which nobody says"
            );
        }
    }
    let dashboard = std::fs::read(root().join("packaging/grafana/sixfold.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&dashboard).unwrap();
    let rules = root().join("packaging/prometheus/sixfold.rules.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
}

#[test]
fn health_readiness_console_and_top_follow_what_happens_to_the_cluster() {
    let mut cluster = RealCluster::start();
    let node = cluster.cluster.nodes[0].address;
    assert_eq!(get(node, "/healthz"), Some((200, "ok\n".to_owned())));
    assert_eq!(get(node, "/readyz"), Some((200, "ok\n".to_owned())));
    block_on(async {
        let database = Database::create(cluster.options()).await.unwrap();
        write(&database, 5).await;
        database.close().await;
    });
    let dir = cluster.path().to_str().unwrap().to_owned();
    let (writer, console) = (free_address(), free_address());
    let standby = Running::start(&[
        "standby",
        "--dir",
        &dir,
        "--metrics",
        &writer.to_string(),
        "--stop-with-stdin",
    ]);
    eventually("the standby is the writer and ready", || {
        get(writer, "/readyz").is_some_and(|(status, _)| status == 200)
    });
    let served = Running::start(&[
        "console",
        "--dir",
        &dir,
        "--listen",
        &console.to_string(),
        "--writer",
        &writer.to_string(),
        "--stop-with-stdin",
    ]);
    let picture = || -> Option<serde_json::Value> {
        let (status, body) = get(console, "/api/status")?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    };
    eventually("all six are seen, and the writer", || {
        picture().is_some_and(|picture| {
            let nodes = picture["nodes"].as_array().unwrap();
            nodes.iter().all(|node| node["is_up"] == true)
                && nodes.len() == 6
                && picture["writer"]["state"] == "open"
        })
    });
    let answer = exchange(
        console,
        format!("GET / HTTP/1.1\r\nhost: {console}\r\nconnection: close\r\n\r\n").as_bytes(),
    )
    .unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'nonce-"));
    assert!(!page.contains("NONCE") && !page.contains("innerHTML"));

    cluster.kill(&[0, 1]);
    eventually("a lost zone is seen", || {
        picture().is_some_and(|picture| {
            let silent = picture["nodes"].as_array().unwrap().iter();
            silent.filter(|node| node["is_up"] == false).count() == 2
                && picture["notes"].as_array().unwrap().len() >= 2
        })
    });
    let profile = crate::process::scratch();
    if let Some(page) = in_chromium(console, profile.path()) {
        for wanted in [
            "writer open",
            "4 of 6",
            "silent",
            "a commit needs 4 of 6",
            "az3",
        ] {
            assert!(page.contains(wanted), "no {wanted:?} in {page}");
        }
        // In an element, not in the script.
        assert!(!page.contains(">no picture"), "{page}");
    }
    let top = run(
        &["top", "--dir", &dir, "--once", "--interval-ms", "200"],
        "",
    )
    .well();
    let text = top.output.join("\n");
    assert!(
        text.contains("nodes 4 of 6") && text.contains("silent"),
        "{text}"
    );
    cluster.kill(&[2]);
    eventually("a writer without its quorum is not ready", || {
        get(writer, "/readyz") == Some((503, "no write quorum\n".to_owned()))
    });
    served.finish().well();
    standby.kill();
}

#[test]
fn odd_requests_change_nothing() {
    let cluster = RealCluster::start_fleet(6);
    let node = cluster.cluster.nodes[0].address;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let requests: [&[u8]; 8] = [
        b"POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
        b"DELETE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"\x00\xff\xfe\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ];
    for request in requests {
        let answer = exchange(node, request).unwrap();
        assert!(!answer.contains(" 200 "), "{answer}");
        assert!(!answer.contains("root:"), "{answer}");
    }
    assert_eq!(get(node, "/healthz"), Some((200, "ok\n".to_owned())));
    // A caller who says nothing holds up nobody.
    let _silent = TcpStream::connect(node).unwrap();
    assert_eq!(get(node, "/readyz"), Some((200, "ok\n".to_owned())));
}

#[test]
fn log_lines_are_json_when_asked_for() {
    let cluster = RealCluster::lay_out();
    let config = cluster.config(0);
    let mut node = Running::start(&[
        "--log",
        "info",
        "--log-format",
        "json",
        "storage-node",
        "--stop-with-stdin",
        "--config",
        config.to_str().unwrap(),
    ]);
    node.wait_for("ready ");
    let ended = node.finish().well();
    let lines: Vec<serde_json::Value> = ended
        .errors
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let starts = |line: &&serde_json::Value| line["fields"]["message"] == "node starts";
    let line = lines.iter().find(starts).expect("it says that it starts");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["fields"]["az"], cluster.cluster.nodes[0].az);
}
