//! What stands under packaging/: the Debian package is built, installed into an empty root, run under start-stop-daemon, and purged; the
//! storage node runs under the container's seccomp profile; systemd has nothing to say against the unit.
//!
//! The Containerfile itself is not built here: that takes minutes and two base images. `packaging/README.md` says how it was tried last.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{BpfMap, TargetArch, apply_filter, compile_from_json};
use sixfold::Database;

use crate::load::block_on;
use crate::observe::get;
use crate::process::{LIMIT, eventually, scratch};
use crate::real_cluster::RealCluster;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("packaging")
}

/// Runs a program to its end; `None` where the system does not have it.
fn tool(name: &str, args: &[&str]) -> Option<Output> {
    let output = Command::new(name).args(args).output().ok()?;
    Some(output)
}

#[track_caller]
fn well(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// A daemon that is killed with the test.
struct Daemon(Pid);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended mostly.
        let _ended = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn the_debian_package_installs_runs_under_start_stop_daemon_and_purges() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    if ["dpkg-deb", "start-stop-daemon"]
        .iter()
        .any(|name| tool(name, &["--version"]).is_none())
    {
        eprintln!("no Debian here");
        return;
    }
    let built = Command::new(packaging().join("deb/build.sh"))
        .args([env!("CARGO_BIN_EXE_sixfold"), &path("out")])
        .env("SIXFOLD_DEB_COMPRESSION", "none")
        .output()
        .unwrap();
    well(&built);
    let package = String::from_utf8(built.stdout).unwrap().trim().to_owned();

    // An empty system: nothing outside of it is touched.
    let root = path("root");
    for name in ["info", "updates", "triggers"] {
        std::fs::create_dir_all(format!("{root}/var/lib/dpkg/{name}")).unwrap();
    }
    std::fs::write(format!("{root}/var/lib/dpkg/status"), "").unwrap();
    let into_root = format!("--root={root}");
    let log = format!("--log={root}/dpkg.log");
    let dpkg = |args: &[&str]| {
        let common = [
            &into_root,
            &log,
            "--force-script-chrootless",
            "--force-depends",
            "--force-not-root",
        ];
        tool("dpkg", &[&common[..], args].concat()).unwrap()
    };
    well(&dpkg(&["-i", &package]));
    for name in [
        "usr/bin/sixfold",
        "usr/lib/systemd/system/sixfold-node.service",
        "usr/lib/sysctl.d/90-sixfold.conf",
        "usr/share/man/man1/sixfold-storage-node.1.gz",
        "usr/share/bash-completion/completions/sixfold",
        "usr/share/doc/sixfold/OPERATIONS.md",
        "etc/sixfold/tls",
        "var/lib/sixfold",
    ] {
        assert!(Path::new(&root).join(name).exists(), "{name}");
    }

    // A node of it, as on a system without systemd; who started it hears when it is ready.
    let cluster = RealCluster::lay_out();
    let notify = UnixDatagram::bind(path("notify")).unwrap();
    notify.set_read_timeout(Some(LIMIT)).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let count = notify.recv(&mut buffer).expect("nothing was heard");
            let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if said.starts_with(wanted) {
                return said;
            }
        }
    };
    let pid_file = path("pid");
    let program = format!("{root}/usr/bin/sixfold");
    let config = cluster.config(0);
    let started = Command::new("start-stop-daemon")
        .args([
            "--start",
            "--background",
            "--make-pidfile",
            "--pidfile",
            &pid_file,
        ])
        .args(["--exec", &program, "--", "storage-node", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", path("notify"))
        .env("WATCHDOG_USEC", "200000")
        .output()
        .unwrap();
    well(&started);
    let pid = || {
        Pid::from_raw(
            std::fs::read_to_string(&pid_file)
                .ok()?
                .trim()
                .parse()
                .ok()?,
        )
    };
    eventually("the daemon has a pid", || pid().is_some());
    let daemon = Daemon(pid().unwrap());
    let address = cluster.cluster.nodes[0].address;
    assert_eq!(
        hear("READY=1"),
        format!("READY=1\nSTATUS=serving at {address}")
    );
    hear("WATCHDOG=1");
    let stop = [
        "--stop",
        "--retry",
        "TERM/30/KILL/5",
        "--pidfile",
        &pid_file,
        "--exec",
        &program,
    ];
    well(&tool("start-stop-daemon", &stop).unwrap());
    hear("STOPPING=1");
    // One that ended and that nobody has reaped yet has no command line.
    let pid = daemon.0.as_raw_nonzero();
    let left = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(left.is_empty(), "it runs still");

    // A removal keeps settings and data; a purge keeps nothing.
    let data = Path::new(&root).join("var/lib/sixfold/data");
    std::fs::write(&data, "precious").unwrap();
    well(&dpkg(&["--remove", "sixfold"]));
    assert!(data.exists() && !Path::new(&program).exists());
    well(&dpkg(&["--purge", "sixfold"]));
    for name in ["var/lib/sixfold", "etc/sixfold"] {
        assert!(!Path::new(&root).join(name).exists(), "{name}");
    }
}

/// The container's profile as a filter, with the names that this architecture has.
fn profile() -> BpfMap {
    let text = std::fs::read_to_string(packaging().join("container/seccomp.json")).unwrap();
    let profile: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let groups = profile["syscalls"].as_array().unwrap();
    let names = groups.iter().flat_map(|group| {
        assert_eq!(group["action"], "SCMP_ACT_ALLOW");
        group["names"].as_array().unwrap()
    });
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let compile = |names: &[&serde_json::Value]| {
        let rules: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({ "syscall": name }))
            .collect();
        let filter = serde_json::json!({ "node": {
            "mismatch_action": { "errno": 1 }, "match_action": "allow", "filter": rules,
        }});
        compile_from_json(filter.to_string().as_bytes(), arch)
    };
    let known: Vec<_> = names.filter(|name| compile(&[*name]).is_ok()).collect();
    assert!(known.len() > 100, "only {} names are known", known.len());
    compile(&known).unwrap()
}

#[test]
fn storage_nodes_run_under_the_containers_seccomp_profile() {
    let filter = profile();
    let mut cluster = RealCluster::lay_out();
    std::thread::scope(|scope| {
        // Handed down to the processes that this thread starts.
        let thread = scope.spawn(|| {
            apply_filter(&filter["node"]).unwrap();
            cluster.start_nodes(&[0, 1, 2, 3, 4, 5]);
        });
        thread.join().unwrap();
    });
    block_on(async {
        let database = Database::create(cluster.options()).await.unwrap();
        for number in 0..50 {
            let txn = database.begin().await.unwrap();
            txn.put(format!("{number}"), vec![7; 20_000]).unwrap();
            txn.commit().await.unwrap();
        }
        database.close().await;
    });
    let reader = block_on(Database::open_read_only(cluster.options())).unwrap();
    assert!(block_on(reader.get("49")).unwrap().is_some());
    // What orchestrators and Prometheus ask is answered, too.
    let node = cluster.cluster.nodes[0].address;
    assert_eq!(get(node, "/readyz"), Some((200, "ok\n".to_owned())));
    let (_, metrics) = get(node, "/metrics").unwrap();
    assert!(
        metrics.contains("sixfold_node_redo_bytes_total"),
        "{metrics}"
    );
    for index in 0..6 {
        cluster.terminate(index);
    }
}

#[test]
fn systemd_has_nothing_to_say_against_the_unit() {
    let dir = scratch();
    let unit = packaging().join("systemd/sixfold-node.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    // Its program must be there for the check.
    let text = text.replace("/usr/bin/sixfold", env!("CARGO_BIN_EXE_sixfold"));
    let copy = dir.path().join("sixfold-node.service");
    std::fs::write(&copy, text).unwrap();
    let Some(output) = tool(
        "systemd-analyze",
        &["verify", "--man=no", copy.to_str().unwrap()],
    ) else {
        eprintln!("no systemd here");
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // Of other units of this system it may say anything.
    let ours: Vec<&str> = errors
        .lines()
        .filter(|line| line.contains("sixfold-node"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}
