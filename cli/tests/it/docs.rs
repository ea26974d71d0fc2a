//! The pages for operators name only verbs and flags that there are, and links that lead somewhere.

use std::collections::BTreeMap;
use std::path::Path;

use crate::process::run;

const PAGES: [&str; 4] = [
    "docs/OPERATIONS.md",
    "docs/GETTING-STARTED.md",
    "docs/GUARANTEES.md",
    "packaging/README.md",
];

/// Pieces of code: spans, and lines of blocks.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block || line.starts_with("    ") {
            found.push(line.to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The words of each call of the program in a piece of code, up to whatever is the shell's.
fn calls(code: &str) -> Vec<Vec<&str>> {
    let words: Vec<&str> = code.split_whitespace().collect();
    let starts = (0..words.len()).filter(|&at| words[at].trim_start_matches("$(") == "sixfold");
    starts
        .map(|start| {
            let rest = words[start + 1..].iter().copied();
            rest.take_while(|word| !["|", ">", "&&", "&", "#", "..."].contains(word))
                .map(|word| word.trim_end_matches([';', ')']))
                .collect()
        })
        .collect()
}

#[test]
fn every_verb_and_flag_that_the_pages_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut help = |verbs: &[&str]| {
        let key: Vec<String> = verbs.iter().map(ToString::to_string).collect();
        let made = helps.entry(key);
        made.or_insert_with(|| {
            run(&[verbs, &["--help"]].concat(), "")
                .well()
                .output
                .join("\n")
        })
        .clone()
    };
    let mut count = 0;
    for page in PAGES {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        for piece in code(&text) {
            for call in calls(&piece) {
                let Some(&verb) = call
                    .first()
                    .filter(|verb| verb.starts_with(char::is_lowercase))
                else {
                    continue;
                };
                count += 1;
                let mut verbs = vec![verb];
                let second = call
                    .get(1)
                    .filter(|word| word.starts_with(char::is_lowercase));
                if help(&verbs).contains("\nCommands:") {
                    verbs.extend(second);
                }
                let known = help(&verbs);
                for flag in call.iter().filter(|word| word.starts_with("--")) {
                    let flag = flag.trim_end_matches([']', ',']);
                    assert!(
                        known.contains(flag),
                        "{page}: {piece}: {verbs:?} has no {flag}"
                    );
                }
            }
        }
    }
    assert!(count > 60, "only {count} calls were found");
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for page in PAGES {
        let path = root.join(page);
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let file = target.split('#').next().unwrap();
            let there = file.is_empty() || path.parent().unwrap().join(file).exists();
            assert!(there, "{page}: {target}");
            if let Some(anchor) = target.strip_prefix('#') {
                let titles = text.lines().filter_map(|line| line.strip_prefix("## "));
                let anchors: Vec<String> = titles
                    .map(|title| title.to_lowercase().replace(',', "").replace(' ', "-"))
                    .collect();
                assert!(anchors.contains(&anchor.to_owned()), "{page}: {target}");
            }
        }
    }
}

#[test]
fn the_settings_of_writers_and_standbys_stand_on_their_page_with_their_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/OPERATIONS.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `["));
    let mut told: BTreeMap<String, Vec<&str>> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].to_owned(), cells)
        })
        .collect();
    for one in sixfold::settings::abouts() {
        let key = format!("`[{}] {}`", one.table, one.name);
        let cells = told.remove(&key).unwrap_or_else(|| panic!("no {key}"));
        let default = one
            .default
            .map_or("-".to_owned(), |value| value.to_string());
        assert_eq!(cells[1..], [default.as_str(), one.about], "{key}");
    }
    assert!(told.is_empty(), "nobody reads {told:?}");
}
