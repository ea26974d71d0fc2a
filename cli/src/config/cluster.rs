//! `cluster.toml`: which volume, which nodes, where the certificates are, how a writer and a standby behave. The library reads and judges it
//! (`sixfold::settings`); this writes one with comments, and looks at what it names.

use std::path::Path;

use anyhow::Result;
use sixfold::settings::{self, Document, check_text};
use sixfold::{READER_IDENTITY, WRITER_IDENTITY};
use sixfold_log_format::wire::Role;
use sixfold_log_format::{NodeId, VolumeId};
use sixfold_transport::Identity;

use crate::cluster_dir::{NODE_COUNT, az_of, random_bytes};

/// Nodes of a zone in the written file.
const NODES_PER_ZONE: usize = 2;

/// Whether a file looks like a cluster's rather than a node's.
pub(crate) fn is_one(text: &str) -> bool {
    let document = Document::parse(text);
    document.is_ok_and(|document| {
        let mut keys = document.table.iter().map(|(key, _)| key.get_ref().as_ref());
        keys.any(|key| key == "volume" || key == "nodes")
    })
}

/// A file with new ids and addresses to be filled in.
pub(crate) fn template(tls_dir: &Path) -> Result<String> {
    let mut text = format!(
        "# A Sixfold cluster, for whoever opens its volume: applications, and the verbs of `sixfold` (--dir names the directory of this\n\
         # file, which must be called cluster.toml). `sixfold config check FILE` says what is wrong with it.\n\
         # `sixfold node add` and `node forget` write it anew, without comments and with all settings.\n\
         \n\
         # The volume's id, 32 hexadecimal digits. Drawn at random when this file was written; `sixfold volume create` makes the volume.\n\
         volume = \"{}\"\n\
         \n\
         # Directory with ca.pem and, for whoever uses this file, writer.pem, reader.pem or operator.pem with their keys\n\
         # (`sixfold cert issue`). Relative to this file.\n\
         tls_dir = {}\n\
         \n\
         # File with the volume's token, which opens it beside a certificate; relative to this file. `sixfold volume create` draws one.\n\
         # SIXFOLD_VOLUME_TOKEN goes before it. Unless set: volume.token in tls_dir, where that is there.\n\
         # volume_token_file = \"tls/volume.token\"\n\
         \n\
         # The storage nodes: two in each of three availability zones at least; more are spares. `node` is the id in the node's\n\
         # certificate and in its settings; `address` is where it listens, an IP address with a port.\n",
        VolumeId::from_bytes(random_bytes()?),
        toml::Value::String(tls_dir.to_string_lossy().into_owned()),
    );
    for index in 0..NODE_COUNT {
        let node = NodeId::from_bytes(random_bytes()?);
        text.push_str(&format!(
            "\n[[nodes]]\nnode = \"{node}\"\naz = \"{}\"\naddress = \"10.0.{}.{}:7070\"\n",
            az_of(index),
            index / NODES_PER_ZONE + 1,
            index % NODES_PER_ZONE + 11,
        ));
    }
    text.push_str(&settings::template());
    Ok(text)
}

/// All that is wrong with a file, with its places.
pub(crate) fn check(path: &Path, text: &str, file_only: bool) -> Vec<String> {
    let mut wrong = check_text(text);
    if wrong.is_empty() && !file_only {
        wrong.extend(check_certificates(path));
    }
    wrong
        .into_iter()
        .map(|line| match line.starts_with("line ") {
            true => format!("{}: {line}", path.display()),
            false => line,
        })
        .collect()
}

/// The certificates beside the file: at least one party's, and none of another role than its name says.
fn check_certificates(path: &Path) -> Vec<String> {
    let cluster = match sixfold::Cluster::load(path) {
        Ok(cluster) => cluster,
        Err(error) => return vec![error.to_string()],
    };
    let dir = &cluster.tls_dir;
    let mut wrong: Vec<String> = Vec::new();
    let mut found = 0;
    wrong.extend(cluster.volume_token().err().map(|error| error.to_string()));
    for (name, role) in [
        (WRITER_IDENTITY, Role::Writer),
        (READER_IDENTITY, Role::Reader),
        ("operator", Role::Operator),
    ] {
        if !dir.join(format!("{name}.pem")).exists() {
            continue;
        }
        found += 1;
        match Identity::load(dir, name) {
            Err(error) => wrong.push(error.to_string()),
            Ok(identity) if identity.role() != role => {
                wrong.push(format!("{}/{name}.pem is of another role", dir.display()));
            }
            Ok(_) => {}
        }
    }
    if found == 0 {
        wrong.push(format!(
            "{} holds none of writer.pem, reader.pem and operator.pem",
            dir.display()
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_file_is_right_and_the_library_reads_it() {
        let text = template(Path::new("tls")).unwrap();
        assert!(is_one(&text));
        assert_eq!(
            check(Path::new("cluster.toml"), &text, true),
            Vec::<String>::new()
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.toml");
        std::fs::write(&path, &text).unwrap();
        let cluster = sixfold::Cluster::load(&path).unwrap();
        assert_eq!(cluster.nodes.len(), NODE_COUNT);
        assert_eq!(cluster.tls_dir, dir.path().join("tls"));
        let wrong = check(&path, &text, false);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].ends_with("holds none of writer.pem, reader.pem and operator.pem"));
    }

    #[test]
    fn each_kind_of_wrong_cluster_file_gives_one_line_with_its_place() {
        let good: String = (0..6)
            .map(|index| {
                format!(
                    "[[nodes]]\nnode = \"{index:032}\"\naz = \"{}\"\naddress = \"10.0.0.{index}:1\"\n",
                    az_of(index)
                )
            })
            .collect();
        let good = format!("volume = \"{:032}\"\ntls_dir = \"tls\"\n{good}", 7);
        for (from, to, expected) in [
            (
                "volume = ",
                "volune = ",
                "f: line 1, column 1: unknown key `volune`, did you mean `volume`?",
            ),
            (
                "tls_dir = \"tls\"\n",
                "",
                "f: line 1, column 1: tls_dir is not set",
            ),
            (
                "00000000000000000000000000000007",
                "7",
                "f: line 1, column 10: volume: \"7\" is not 32 hexadecimal digits",
            ),
            (
                "address = \"10.0.0.3:1\"",
                "adress = \"10.0.0.3:1\"",
                "f: line 18, column 1: unknown key `adress`, did you mean `address`?",
            ),
            (
                "10.0.0.3:1",
                "10.0.0.3",
                "f: line 18, column 11: address: \"10.0.0.3\" is not an IP address with a port",
            ),
            (
                "10.0.0.3:1",
                "10.0.0.2:1",
                "f: line 18, column 11: address: 10.0.0.2:1 stands at line 14, column 11 already",
            ),
            (
                "00000000000000000000000000000003",
                "00000000000000000000000000000002",
                "f: line 16, column 8: node: 00000000000000000000000000000002 stands at line 12, column 8 already",
            ),
            (
                "az = \"az1\"\naddress = \"10.0.0.1:1\"",
                "az = 1\naddress = \"10.0.0.1:1\"",
                "f: line 9, column 6: az: a text is needed, this is of type integer",
            ),
            (
                "az = \"az1\"\naddress = \"10.0.0.1:1\"",
                "az = \"az2\"\naddress = \"10.0.0.1:1\"",
                "f: line 1, column 1: nodes: a volume needs two in each of three availability zones, here are 1 in \"az1\", 3 in \"az2\", 2 in \"az3\"",
            ),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert_eq!(check(Path::new("f"), &bad, true), [expected], "{from}");
        }
        assert_eq!(check(Path::new("f"), &good, true), Vec::<String>::new());
    }
}
