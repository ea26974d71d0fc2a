//! The template and the defaults are the same thing; a flag comes before the file; each kind of wrong setting is one line.

use super::*;

fn sample() -> NodeConfig {
    NodeConfig {
        node: Some("0123456789abcdef0123456789abcdef".to_owned()),
        az: Some("az1".to_owned()),
        listen: Some("127.0.0.1:7100".parse().unwrap()),
        data_dir: Some("data".into()),
        tls_dir: Some("tls".into()),
        ..NodeConfig::default()
    }
}

fn read(text: &str) -> Result<Loaded, Vec<String>> {
    Loaded::of(Path::new("node.toml"), text.to_owned())
}

/// The one line that a file ends with.
fn refused(text: &str) -> String {
    match read(text) {
        Err(lines) => {
            assert_eq!(lines.len(), 1, "{lines:?}");
            lines.into_iter().next().unwrap()
        }
        Ok(loaded) => resolve(NodeConfig::default(), Some(&loaded))
            .unwrap_err()
            .to_string(),
    }
}

#[test]
fn the_written_file_loads_and_equals_the_defaults() {
    let text = template(&sample()).unwrap();
    let loaded = read(&text).unwrap();
    assert_eq!(loaded.config, sample());
    let options = resolve(NodeConfig::default(), Some(&loaded)).unwrap();
    let defaults = NodeOptions::with_defaults(
        "data".into(),
        options.node,
        "az1".to_owned(),
        options.listen,
        "tls".into(),
    );
    assert_eq!(format!("{options:?}"), format!("{defaults:?}"));
    // With every default said aloud it is the same.
    let aloud: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.contains(" = ") && !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let mut loaded = read(&aloud).unwrap();
    assert_eq!(loaded.config.mtu_bytes.take(), Some(8_900));
    assert_eq!(loaded.config.metrics.take().unwrap(), "127.0.0.1:9706");
    assert_eq!(loaded.config, sample().filled());
    let options = resolve(NodeConfig::default(), Some(&loaded)).unwrap();
    assert_eq!(format!("{options:?}"), format!("{defaults:?}"));
}

#[test]
fn the_written_file_names_every_key_that_the_daemon_has() {
    let text = template(&sample()).unwrap();
    for name in names() {
        assert!(
            text.lines().any(|line| line
                .trim_start_matches('#')
                .starts_with(&format!("{name} = "))),
            "{name} is missing in\n{text}"
        );
    }
    let command = NodeConfig::augment_args(clap::Command::new("node"));
    let flags: Vec<_> = command.get_arguments().collect();
    assert_eq!(flags.len(), names().len());
    for flag in flags {
        let name = flag.get_id().as_str();
        assert!(names().contains(&name), "{name}");
        let variable = format!("SIXFOLD_{}", name.to_uppercase());
        assert_eq!(flag.get_env().unwrap(), variable.as_str());
        assert_eq!(flag.get_long().unwrap(), name.replace('_', "-"));
    }
}

#[test]
fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
    let text = template(&sample()).unwrap() + "page_cache_mib = 7\nlayer_cache_mib = 9\n";
    let loaded = read(&text).unwrap();
    let flags = NodeConfig {
        page_cache_mib: Some(5),
        az: Some("az9".to_owned()),
        ..NodeConfig::default()
    };
    let options = resolve(flags, Some(&loaded)).unwrap();
    assert_eq!(options.page_cache_bytes_max, 5 << 20);
    assert_eq!(options.layer_cache_bytes_max, 9 << 20);
    assert_eq!(options.index_bytes_max, 64 << 20);
    assert_eq!(options.az, "az9");
}

#[test]
fn each_kind_of_wrong_setting_gives_one_line_with_its_place() {
    let good = toml::to_string(&sample()).unwrap();
    assert_eq!(good.lines().count(), 5);
    let cases = [
        (
            "page_cahe_mib = 1",
            "node.toml: line 6, column 1: unknown key `page_cahe_mib`, did you mean `page_cache_mib`?",
        ),
        (
            "page_cache_mib = \"much\"",
            "node.toml: line 6, column 18: invalid type: string \"much\", expected u64",
        ),
        (
            "page_cache_mib = -1",
            "node.toml: line 6, column 18: invalid value: integer `-1`, expected u64",
        ),
        (
            "page_cache_mib = 9000000000000000000",
            "node.toml: line 6, column 18: page_cache_mib: 9000000000000000000 is too large",
        ),
        (
            "hot_log_file_mib = 1",
            "node.toml: line 6, column 20: hot_log_file_mib: 1048576 is not in 8388608..=4294967296 (bytes)",
        ),
        (
            "hot_log_mib = 100",
            "node.toml: line 6, column 15: hot_log_mib: 104857600 bytes are not two files of 67108864 (bytes)",
        ),
        (
            "mtu_bytes = 100",
            "node.toml: line 6, column 13: mtu_bytes: 100 is not in 1200..=65000",
        ),
        (
            "gossip_interval_ms = 0",
            "node.toml: line 6, column 22: gossip_interval_ms: it is zero",
        ),
        ("az = \"az2\"", "node.toml: line 6, column 1: duplicate key"),
        (
            "page_cache_mib",
            "node.toml: line 6, column 15: key with no value, expected `=`",
        ),
    ];
    for (line, expected) in cases {
        // Redo must fit the hot log before its files are looked at.
        let fitting = match line.starts_with("hot_log_mib") {
            true => format!("{good}{line}\nunfolded_redo_mib = 1\n"),
            false => format!("{good}{line}\n"),
        };
        assert_eq!(refused(&fitting), expected);
    }
    let unfolded = format!("{good}hot_log_mib = 200\n");
    assert_eq!(
        refused(&unfolded),
        "node.toml: unfolded_redo_mib: 268435456 bytes of redo do not fit a hot log of 209715200 bytes (bytes)"
    );
    for (from, to, expected) in [
        (
            "\"0123456789abcdef0123456789abcdef\"",
            "\"me\"",
            "node.toml: line 1, column 8: node: \"me\" is not 32 hexadecimal digits",
        ),
        (
            "0123456789abcdef0123456789abcdef",
            "00000000000000000000000000000000",
            "node.toml: line 1, column 8: node: the id is all zeros",
        ),
        (
            "az = \"az1\"",
            "az = \"\"",
            "node.toml: line 2, column 6: az: its length is 0 bytes, not in 1..=64",
        ),
        (
            "az = \"az1\"\n",
            "",
            "az is not set (in the settings file, as a flag, or as SIXFOLD_AZ)",
        ),
        (
            "127.0.0.1:7100",
            "localhost",
            "node.toml: line 3, column 10: invalid socket address syntax",
        ),
    ] {
        assert_eq!(refused(&good.replace(from, to)), expected);
    }
}

#[test]
fn every_unknown_key_is_told() {
    let lines = read("zone = \"az1\"\nliisten = \"x\"\n").unwrap_err();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("node.toml: line 1, column 1: unknown key `zone`, "),
        "{lines:?}"
    );
    assert!(lines[1].ends_with("did you mean `listen`?"), "{lines:?}");
}

#[test]
fn a_wrong_flag_is_not_blamed_on_the_file() {
    let loaded = read(&toml::to_string(&sample()).unwrap()).unwrap();
    let flags = NodeConfig {
        mtu_bytes: Some(7),
        ..NodeConfig::default()
    };
    let line = resolve(flags, Some(&loaded)).unwrap_err().to_string();
    assert_eq!(line, "mtu_bytes: 7 is not in 1200..=65000");
}

#[test]
fn metrics_are_beside_the_port_unless_the_settings_say_where() {
    let text = template(&sample()).unwrap();
    for (line, expected) in [
        ("", MetricsAt::BesidePort),
        ("metrics = \"off\"\n", MetricsAt::Off),
        (
            "metrics = \"[::1]:9706\"\n",
            MetricsAt::Address("[::1]:9706".parse().unwrap()),
        ),
    ] {
        let loaded = read(&(text.clone() + line)).unwrap();
        let (_, metrics) = resolve_all(NodeConfig::default(), Some(&loaded)).unwrap();
        assert_eq!(metrics, expected);
    }
    let loaded = read(&(text + "metrics = \"here\"\n")).unwrap();
    let line = resolve_all(NodeConfig::default(), Some(&loaded))
        .unwrap_err()
        .to_string();
    assert!(line.contains("metrics: \"here\" is neither"), "{line}");
}
