//! Judges the text of a cluster's file: what is wrong, and where.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use sixfold_log_format::{NodeId, VolumeId};
use toml::de::{DeTable, DeValue};

use super::knobs;
use super::place::Document;

const KEYS: [&str; 6] = [
    "volume",
    "tls_dir",
    "volume_token_file",
    "nodes",
    knobs::WRITER,
    knobs::STANDBY,
];
const NODE_KEYS: [&str; 3] = ["node", "az", "address"];
/// Zones of a volume, and nodes in each of them.
const ZONES: usize = 3;
const NODES_PER_ZONE: usize = 2;

/// All that is wrong with a cluster's file, each with its place; also that it has too few nodes for a volume.
pub fn check_text(text: &str) -> Vec<String> {
    match Document::parse(text) {
        Ok(document) => check_document(&document, true),
        Err(line) => vec![line],
    }
}

/// The first thing that is wrong with a file by which an existing volume is opened: however few nodes it names.
pub(crate) fn check_for_opening(text: &str) -> Result<(), String> {
    let document = Document::parse(text)?;
    match check_document(&document, false).into_iter().next() {
        Some(line) => Err(line),
        None => Ok(()),
    }
}

fn check_document(document: &Document<'_>, for_creation: bool) -> Vec<String> {
    let mut wrong = document.unknown_keys(&document.table, &KEYS);
    if !wrong.is_empty() {
        // A key that is misspelled lacks under its right name, too: said once.
        return wrong;
    }
    let top = 0..0;
    match document.text_of(&document.table, &top, "volume") {
        Ok((id, place)) if VolumeId::from_hex(id).is_none() => {
            wrong.push(format!(
                "{place}: volume: {id:?} is not 32 hexadecimal digits"
            ));
        }
        found => wrong.extend(found.err()),
    }
    wrong.extend(document.text_of(&document.table, &top, "tls_dir").err());
    if document.place_of("volume_token_file").is_some() {
        let found = document.text_of(&document.table, &top, "volume_token_file");
        wrong.extend(found.err());
    }
    let nodes = document
        .table
        .iter()
        .find(|(key, _)| key.get_ref() == "nodes");
    let Some((_, nodes)) = nodes else {
        wrong.push("line 1, column 1: nodes is not set".to_owned());
        return wrong;
    };
    let DeValue::Array(list) = nodes.get_ref() else {
        let place = document.place(&nodes.span());
        wrong.push(format!("{place}: nodes: [[nodes]] begins each of them"));
        return wrong;
    };
    let mut seen = Seen::default();
    for node in list.iter() {
        match node.get_ref() {
            DeValue::Table(table) => match document.unknown_keys(table, &NODE_KEYS) {
                unknown if unknown.is_empty() => {
                    seen.check_node(document, table, &node.span(), &mut wrong);
                }
                unknown => wrong.extend(unknown),
            },
            _ => wrong.push(format!("{}: nodes: no table", document.place(&node.span()))),
        }
    }
    wrong.extend(knobs::check(document));
    if wrong.is_empty() && for_creation {
        wrong.extend(seen.check_zones());
    }
    wrong
}

/// What the nodes of a file say, with their places.
#[derive(Default)]
struct Seen {
    nodes: BTreeMap<String, String>,
    addresses: BTreeMap<SocketAddr, String>,
    zones: BTreeMap<String, usize>,
}

impl Seen {
    fn check_node(
        &mut self,
        document: &Document<'_>,
        table: &DeTable<'_>,
        span: &Range<usize>,
        wrong: &mut Vec<String>,
    ) {
        match document.text_of(table, span, "node") {
            Ok((id, place)) if NodeId::from_hex(id).is_none() => {
                wrong.push(format!(
                    "{place}: node: {id:?} is not 32 hexadecimal digits"
                ));
            }
            Ok((id, place)) => match self.nodes.get(id) {
                Some(first) => wrong.push(format!("{place}: node: {id} stands at {first} already")),
                None => {
                    self.nodes.insert(id.to_owned(), place);
                }
            },
            Err(line) => wrong.push(line),
        }
        match document.text_of(table, span, "az") {
            Ok(("", place)) => wrong.push(format!("{place}: az: it is empty")),
            Ok((az, _)) => *self.zones.entry(az.to_owned()).or_default() += 1,
            Err(line) => wrong.push(line),
        }
        match document.text_of(table, span, "address") {
            Ok((text, place)) => match text.parse::<SocketAddr>() {
                Err(_) => wrong.push(format!(
                    "{place}: address: {text:?} is not an IP address with a port"
                )),
                Ok(address) => match self.addresses.get(&address) {
                    Some(first) => {
                        wrong.push(format!(
                            "{place}: address: {address} stands at {first} already"
                        ));
                    }
                    None => {
                        self.addresses.insert(address, place);
                    }
                },
            },
            Err(line) => wrong.push(line),
        }
    }

    fn check_zones(&self) -> Option<String> {
        let wide = self
            .zones
            .values()
            .filter(|&&count| count >= NODES_PER_ZONE);
        if wide.count() >= ZONES {
            return None;
        }
        let found: Vec<String> = self
            .zones
            .iter()
            .map(|(az, count)| format!("{count} in {az:?}"))
            .collect();
        Some(format!(
            "line 1, column 1: nodes: a volume needs two in each of three availability zones, here are {}",
            if found.is_empty() {
                "none".to_owned()
            } else {
                found.join(", ")
            }
        ))
    }
}
