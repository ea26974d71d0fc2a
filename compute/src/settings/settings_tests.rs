//! Settings of writer and standby: from where they come, and what is said of wrong ones.

use std::time::Duration;

use super::*;
use crate::cluster::ClusterNode;

/// A cluster's file with these lines behind it.
fn file(more: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 4_100));
    let cluster = Cluster::new(
        vec![ClusterNode::new("az1", address)],
        dir.path().join("tls"),
    );
    cluster.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n{more}")).unwrap();
    (dir, path)
}

fn overrides(texts: &[&str]) -> Overrides {
    Overrides::parse(texts).unwrap()
}

#[test]
fn every_key_reaches_its_option() {
    let lines = |table: &str| {
        let all = abouts().into_iter().enumerate();
        let own = all.filter(|(_, one)| one.table == table);
        // No two the same, none the default, all within bounds.
        let value = |index: usize, name: &str| match name {
            "seals_in_flight" => 2,
            "token_retention_seconds" => 90_000,
            "mtu_bytes" => 1_400,
            _ => 40 + index as u64 + if table == "standby" { 300 } else { 0 },
        };
        let own: Vec<String> = own
            .map(|(index, one)| {
                assert_ne!(one.default, Some(value(index, one.name)), "{}", one.name);
                format!("{} = {}", one.name, value(index, one.name))
            })
            .collect();
        format!("[{table}]\n{}\n", own.join("\n"))
    };
    let (_dir, path) = file(&format!("{}{}", lines("writer"), lines("standby")));
    let options = Options::from_cluster_file(&path).unwrap();
    assert_eq!(options.cache_bytes, 40 << 20);
    assert_eq!(options.commit_deadline, Duration::from_millis(41));
    assert_eq!(options.read_deadline, Duration::from_millis(42));
    assert_eq!(options.open_deadline, Duration::from_millis(43));
    assert_eq!(options.transact_deadline, Duration::from_millis(44));
    assert_eq!(options.transact_bytes_max, 45 << 20);
    assert_eq!(options.token_retention, Duration::from_secs(90_000));
    assert_eq!(options.watch_bytes, 47 << 20);
    assert_eq!(options.seals_in_flight, 2);
    assert_eq!(options.repair_after, Some(Duration::from_secs(49)));
    assert_eq!(options.grow_below_free_pages, Some(50));
    assert_eq!(options.mtu_bytes, Some(1_400));
    let standby = StandbyOptions::from_cluster_file(&path).unwrap();
    let expected = StandbyOptions::new()
        .patience(Duration::from_millis(352))
        .poll(Duration::from_millis(353))
        .hold_down(Duration::from_millis(354))
        .hold_down_max(Duration::from_millis(355));
    assert_eq!(standby, expected);
}

#[test]
fn the_written_tables_say_the_defaults_with_and_without_their_hashes() {
    let (_dir, plain) = file("");
    let defaults = Options::from_cluster_file(&plain).unwrap();
    let text = |options: &Options| {
        let text = format!("{options:?}");
        let begin = text.find("cache_bytes").unwrap();
        text[begin..].to_owned()
    };
    let (_dir, hashed) = file(&template());
    let read = Options::from_cluster_file(&hashed).unwrap();
    assert_eq!(text(&read), text(&defaults));
    let bare: String = template()
        .lines()
        .filter(|line| !line.contains("mtu_bytes ="))
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(bare.contains("\nrepair_after_seconds = 300\n"), "{bare}");
    let (_dir, path) = file(&bare);
    assert_eq!(
        text(&Options::from_cluster_file(&path).unwrap()),
        text(&defaults)
    );
    assert_eq!(
        StandbyOptions::from_cluster_file(&path).unwrap(),
        StandbyOptions::new()
    );
}

#[test]
fn what_the_caller_says_goes_before_the_file() {
    let (_dir, path) = file("[writer]\npage_cache_mib = 64\nrepair_after_seconds = 0\n");
    let read = |texts: &[&str]| writer_options(&path, &overrides(texts)).unwrap();
    assert_eq!(read(&[]).cache_bytes, 64 << 20);
    assert_eq!(read(&[]).repair_after, None);
    // The last word counts.
    let said = ["writer.page_cache_mib=7", "writer.page_cache_mib=8"];
    assert_eq!(read(&said).cache_bytes, 8 << 20);
}

#[test]
fn each_kind_of_wrong_setting_gives_one_line_with_its_place() {
    for (more, expected) in [
        (
            "[writer]\npage_cahe_mib = 1\n",
            "line 10, column 1: unknown key `page_cahe_mib`, did you mean `page_cache_mib`?",
        ),
        (
            "[writter]\n",
            "line 9, column 2: unknown key `writter`, did you mean `writer`?",
        ),
        (
            "[writer]\nseals_in_flight = 9\n",
            "line 10, column 19: seals_in_flight: 9 is not in 2..=4",
        ),
        (
            "[writer]\nwatch_mib = \"1\"\n",
            "line 10, column 13: watch_mib: a whole number is needed, this is of type string",
        ),
        (
            "[standby]\npatience_ms = -1\n",
            "line 10, column 15: patience_ms: -1 is negative or too large",
        ),
        (
            "[standby]\npoll_ms = 1\n",
            "line 10, column 11: poll_ms: 1 is not in 10..=315360000000",
        ),
        (
            "[writer]\ntoken_retention_seconds = 30\n",
            "line 10, column 27: token_retention is 30s, it must be at least commit_deadline and transact_deadline together, 35s",
        ),
        (
            "[[writer]]\n",
            "line 9, column 1: writer: a table is needed ([writer]), this is of type array",
        ),
    ] {
        let (_dir, path) = file(more);
        let line = Options::from_cluster_file(&path).unwrap_err().to_string();
        assert!(
            line.ends_with(&format!("cluster.toml: {expected}")),
            "{line}"
        );
        // All that reads the file says the same.
        assert_eq!(Cluster::load(&path).unwrap_err().to_string(), line);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(check_text(&text)[0], expected);
    }
    let (_dir, path) = file("");
    let line = |text: &str| {
        let read = Overrides::parse(&[text]).map_err(Error::config);
        let read = read.and_then(|overrides| writer_options(&path, &overrides));
        read.unwrap_err().to_string()
    };
    assert!(line("writer.wach_mib=1").ends_with("did you mean `writer.watch_mib`?"));
    assert!(line("watch").ends_with("\"watch\" is not TABLE.KEY=VALUE"));
    assert!(line("writer.watch_mib=x").ends_with("writer.watch_mib: \"x\" is not a whole number"));
    assert!(line("writer.mtu_bytes=9").ends_with("writer.mtu_bytes: 9 is not in 1200..=65000"));
}

#[test]
fn a_cluster_that_is_saved_keeps_the_settings_of_its_file() {
    let (_dir, path) = file("[writer]\npage_cache_mib = 64\n[standby]\npoll_ms = 50\n");
    let cluster = Cluster::load(&path).unwrap();
    cluster.save(&path).unwrap();
    assert_eq!(Cluster::load(&path).unwrap(), cluster);
    let options = Options::from_cluster_file(&path).unwrap();
    assert_eq!(options.cache_bytes, 64 << 20);
    let standby = StandbyOptions::from_cluster_file(&path).unwrap();
    assert_eq!(
        standby,
        StandbyOptions::new().poll(Duration::from_millis(50))
    );
}
