//! `FORMAT.md` says what the code does: its constants, flags, kinds, tags and numbers.

use std::collections::BTreeMap;

use sixfold_log_format::record_codec::kind;
use sixfold_log_format::wire::{Message, tag};
use sixfold_log_format::{
    CellFlags, PageKind, batch, history, hot_log, layer, limits, manifest, page, record_codec, wire,
};

use crate::messages::{messages, refusals};

const PAGE: &str = include_str!("../../FORMAT.md");

/// The rows of the table whose header line is `header`, cell by cell, without backticks.
fn table(header: &str) -> Vec<Vec<String>> {
    let (_, behind) = PAGE
        .split_once(&format!("{header}\n"))
        .unwrap_or_else(|| panic!("{header}"));
    let rows = behind
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect()
    };
    rows.map(cells).collect()
}

fn number(text: &str) -> u64 {
    let digits = text
        .strip_prefix("0x")
        .map(|digits| u64::from_str_radix(digits, 16));
    digits
        .unwrap_or_else(|| text.parse())
        .unwrap_or_else(|_| panic!("{text} is no number"))
}

/// The table as name -> number.
fn numbers(header: &str, name: usize, value: usize) -> BTreeMap<String, u64> {
    let rows = table(header);
    let numbers: BTreeMap<_, _> = rows
        .iter()
        .map(|row| (row[name].clone(), number(&row[value])))
        .collect();
    assert_eq!(
        numbers.len(),
        rows.len(),
        "a name stands twice below {header}"
    );
    numbers
}

fn named<const N: usize>(pairs: [(&str, u64); N]) -> BTreeMap<String, u64> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

macro_rules! constants {
    ($($module:ident::$name:ident),+ $(,)?) => {
        named([$((stringify!($name), $module::$name as u64)),+])
    };
}

#[test]
fn constants_are_as_the_page_says() {
    let expected = constants![
        batch::BATCH_VERSION,
        batch::BATCH_HEADER_BYTES,
        page::PAGE_HEADER_BYTES,
        page::SLOT_BYTES,
        page::CELL_HEADER_BYTES,
        page::CELL_OVERHEAD_BYTES,
        page::DEADLINE_BYTES,
        history::HISTORY_VERSION,
        history::HISTORY_HEADER_BYTES,
        history::ANNULLED_RANGE_BYTES,
        manifest::MANIFEST_VERSION,
        hot_log::HOT_LOG_VERSION,
        hot_log::SUPERBLOCK_COPY_BYTES,
        hot_log::SUPERBLOCK_BYTES,
        hot_log::GROUP_HEADER_BYTES,
        hot_log::ENTRY_HEADER_BYTES,
        hot_log::GROUP_BYTES_MAX,
        hot_log::BLOCK_BYTES_MIN,
        hot_log::BLOCK_BYTES_MAX,
        layer::LAYER_VERSION,
        layer::CATALOG_VERSION,
        layer::LAYER_HEADER_BYTES,
        layer::LAYER_FOOTER_BYTES,
        layer::BLOCK_HEADER_BYTES,
        layer::BLOCK_BYTES_USUAL,
        layer::BLOCK_BYTES_LIMIT,
        layer::LAYER_BYTES_MAX,
        layer::CATALOG_LAYERS_MAX,
        layer::CATALOG_LAYER_BYTES,
        layer::FILTER_BITS_PER_PAGE,
        layer::FILTER_PROBES,
        wire::WIRE_VERSION,
        wire::WIRE_VERSION_MIN,
        wire::FRAME_LENGTH_BYTES,
        limits::FRAME_BYTES_MAX,
        limits::BATCH_BYTES_MAX,
        limits::RECORD_BYTES_MAX,
        limits::KEY_BYTES_MAX,
        limits::PAGE_BYTES_MIN,
        limits::PAGE_BYTES_MAX,
        limits::PAGES_REQUEST_COUNT_MAX,
        limits::PG_COUNT_MAX,
        limits::SET_COUNT_MAX,
        limits::HISTORY_RANGES_MAX,
        limits::HINTS_LEFT_MAX,
        limits::TEXT_BYTES_MAX,
        limits::LAL_MAX,
    ];
    assert_eq!(numbers("| name | value |", 0, 1), expected);
}

#[test]
fn record_kinds_and_flags_are_as_the_page_says() {
    let kinds = constants![
        kind::INIT,
        kind::INSERT,
        kind::REPLACE,
        kind::REMOVE,
        kind::TRUNCATE,
        kind::WRITE_BYTES,
        kind::IMAGE,
        kind::DELETE_RANGE,
        kind::CLOCK,
    ];
    assert_eq!(numbers("| kind | name | body |", 1, 0), kinds);
    let flags = constants![
        record_codec::RECORD_SAME_PAGE,
        record_codec::RECORD_NOT_CPL,
        record_codec::RECORD_USER_VISIBLE,
        record_codec::RECORD_CELL_EXTRA,
    ];
    assert_eq!(numbers("| flag | name | meaning |", 1, 0), flags);
    let cell_bits = named([
        ("OVERFLOW", CellFlags::OVERFLOW.bits().into()),
        ("DEADLINE", CellFlags::DEADLINE.bits().into()),
        ("CELL_STAMP_NONE", record_codec::CELL_STAMP_NONE.into()),
        ("CELL_STAMP_AT", record_codec::CELL_STAMP_AT.into()),
    ]);
    assert_eq!(
        numbers("| bit of the cell byte | name | meaning |", 1, 0),
        cell_bits
    );
    for kind in [
        PageKind::Free,
        PageKind::Meta,
        PageKind::Leaf,
        PageKind::Inner,
        PageKind::Overflow,
    ] {
        assert!(
            PAGE.contains(&format!("{} {kind:?}", kind.code())),
            "{kind:?}"
        );
    }
}

#[test]
fn tags_and_refusals_are_as_the_page_says() {
    let tags = constants![
        tag::HELLO,
        tag::WELCOME,
        tag::REFUSED,
        tag::DONE,
        tag::ECHO,
        tag::ATTACH,
        tag::ATTACHED,
        tag::APPEND,
        tag::HEARTBEAT,
        tag::ACK,
        tag::PROBE,
        tag::PROBE_ANSWER,
        tag::CLAIM,
        tag::CENSUS,
        tag::INSTALL,
        tag::INSTALLED,
        tag::REFILL,
        tag::READ_PAGES,
        tag::PAGES,
        tag::GOSSIP,
        tag::GOSSIP_ANSWER,
        tag::READ_LOG,
        tag::LOG_PIECE,
        tag::READ_LAYER,
        tag::LAYER_PIECE,
        tag::CREATE_SEGMENT,
        tag::ASK_STATUS,
        tag::NODE_STATUS,
        tag::WISH,
        tag::DROP_SEGMENT,
        tag::SURVEY,
        tag::WISH_REPORT,
        tag::ASK_WISH,
        tag::LEAVE_HINT,
        tag::ASK_HINTS,
        tag::HINTS,
        tag::RETIRE_VOLUME,
    ];
    let page = numbers("| tag | message | fields |", 1, 0);
    assert_eq!(page, tags);
    for (name, message) in messages() {
        let tag = message.encode().head[4];
        assert_eq!(page[&name.to_uppercase()], u64::from(tag), "{name}");
    }
    let page = numbers("| number | refusal | fields |", 1, 0);
    assert_eq!(page.len(), refusals().len());
    for refusal in refusals() {
        let debug = format!("{refusal:?}");
        let name = debug.split([' ', '{']).next().unwrap().to_owned();
        let code = Message::Refused(refusal).encode().head[5];
        assert_eq!(page[&name], u64::from(code), "{name}");
    }
}

#[test]
fn header_tables_add_up_to_the_header_sizes() {
    let sizes = [
        (
            "takes no room and keeps batches of other volumes out.\n",
            batch::BATCH_HEADER_BYTES,
        ),
        ("is 0 in memory.\n", page::PAGE_HEADER_BYTES),
        ("the file number (8 bytes):\n", hot_log::GROUP_HEADER_BYTES),
        (
            "Entry header, then the payload:\n",
            hot_log::ENTRY_HEADER_BYTES,
        ),
        ("Header (no seed):\n", layer::LAYER_HEADER_BYTES),
        ("Footer (no seed):\n", layer::LAYER_FOOTER_BYTES),
        ("an entry never spans two.\n", layer::BLOCK_HEADER_BYTES),
    ];
    for (before, bytes) in sizes {
        let (_, behind) = PAGE
            .split_once(before)
            .unwrap_or_else(|| panic!("{before}"));
        let mut end = 0;
        for row in behind
            .lines()
            .skip(3)
            .take_while(|line| line.starts_with('|'))
        {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(number(cells[0]), end, "{row}");
            end += number(cells[1]);
        }
        assert_eq!(end, bytes as u64, "{before}");
    }
}
