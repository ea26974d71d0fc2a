//! The cluster file.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sixfold::{Cluster, ClusterNode, Database, Error, Options};

fn six_nodes(dir: &Path) -> Cluster {
    let node = |index: u16| {
        ClusterNode::new(
            format!("az{}", index / 2 + 1),
            SocketAddr::from(([127, 0, 0, 1], 4_100 + index)),
        )
    };
    Cluster::new((0..6).map(node).collect(), dir.join("tls"))
}

fn config_line<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
    let line = error.to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

#[test]
fn a_cluster_file_is_read_as_it_was_written_and_moves_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = six_nodes(dir.path());
    cluster.save(dir.path().join("cluster.toml")).unwrap();
    assert_eq!(
        Cluster::load(dir.path().join("cluster.toml")).unwrap(),
        cluster
    );

    let moved = tempfile::tempdir().unwrap();
    std::fs::copy(
        dir.path().join("cluster.toml"),
        moved.path().join("cluster.toml"),
    )
    .unwrap();
    let loaded = Cluster::load(moved.path().join("cluster.toml")).unwrap();
    assert_eq!(loaded.tls_dir, moved.path().join("tls"));
    assert_eq!(loaded.nodes, cluster.nodes);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no draft is left"
    );
}

#[test]
fn what_is_wrong_with_a_cluster_file_is_said_in_one_line_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    let id = "0123456789abcdef0123456789abcdef";
    let node = |node: &str, address: &str| {
        format!("[[nodes]]\nnode = \"{node}\"\naz = \"az1\"\naddress = \"{address}\"\n")
    };
    let head = format!("volume = \"{id}\"\ntls_dir = \"tls\"\n");
    let cases = [
        ("volume = 7\n".to_owned(), "line 1"),
        (
            format!("{head}colour = 1\n"),
            "line 3, column 1: unknown key `colour`, the keys are volume, ",
        ),
        (
            format!("{head}voulme = 1\n"),
            "line 3, column 1: unknown key `voulme`, did you mean `volume`?",
        ),
        (format!("volume = \"{id}\"\n"), "tls_dir"),
        (
            "volume = \"12\"\ntls_dir = \"tls\"\n".to_owned(),
            "32 hexadecimal digits",
        ),
        (head.clone(), "line 1, column 1: nodes is not set"),
        (
            format!("{head}{}", node("xyz", "127.0.0.1:1")),
            "32 hexadecimal digits",
        ),
        (
            format!("{head}{}", node(id, "localhost")),
            "\"localhost\" is not an IP address with a port",
        ),
        (
            format!(
                "{head}{}{}",
                node(id, "127.0.0.1:1"),
                node(id, "127.0.0.1:2")
            ),
            "line 8, column 8: node: 0123456789abcdef0123456789abcdef stands at line 4, column 8 already",
        ),
    ];
    for (text, expected) in cases {
        std::fs::write(&path, &text).unwrap();
        let line = config_line(Cluster::load(&path));
        assert!(line.contains("cluster.toml"), "{line}");
        assert!(line.contains(expected), "{line:?} for {text:?}");
    }
    let line = config_line(Options::from_cluster_file(dir.path().join("absent.toml")));
    assert!(line.contains("absent.toml"), "{line}");
}

#[tokio::test]
async fn a_volume_needs_six_nodes_two_in_each_availability_zone() {
    let dir = tempfile::tempdir().unwrap();
    let mut five = six_nodes(dir.path());
    five.nodes.pop();
    let line = config_line(Database::create(Options::new(five)).await);
    assert!(
        line.contains("six storage nodes") && line.contains('5'),
        "{line}"
    );

    let mut uneven = six_nodes(dir.path());
    uneven.nodes[0].az = "az2".to_owned();
    let line = config_line(Database::create(Options::new(uneven)).await);
    assert!(line.contains("\"az2\" has 3"), "{line}");

    let line =
        config_line(Database::create(Options::new(six_nodes(dir.path())).page_bytes(1_000)).await);
    assert!(line.contains("page_bytes is 1000"), "{line}");
    let line = config_line(Database::create(Options::new(six_nodes(dir.path())).lal(0)).await);
    assert!(line.contains("lal is 0"), "{line}");
    let line =
        config_line(Database::open(Options::new(six_nodes(dir.path())).seals_in_flight(9)).await);
    assert!(line.contains("seals_in_flight is 9"), "{line}");
    let short = Options::new(six_nodes(dir.path())).token_retention(Duration::from_secs(30));
    let line = config_line(Database::open(short).await);
    assert!(line.contains("token_retention is 30s"), "{line}");
}

#[tokio::test]
async fn missing_certificates_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let line = config_line(Database::open(Options::new(six_nodes(dir.path()))).await);
    assert!(
        line.contains(&dir.path().join("tls").display().to_string()),
        "{line}"
    );
}
