//! Where something stands in a TOML file, and which name was meant.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A name that is this many letters away, at most, was meant; a third of a long one.
const LETTERS_WRONG_MAX: usize = 3;

/// A parsed file, for whoever says where in it something is wrong.
#[derive(Debug)]
pub struct Document<'t> {
    text: &'t str,
    /// Its keys and values with their places.
    pub table: DeTable<'t>,
}

impl<'t> Document<'t> {
    /// Parses a file.
    ///
    /// # Errors
    /// A line with the place.
    pub fn parse(text: &'t str) -> Result<Document<'t>, String> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Document {
                text,
                table: table.into_inner(),
            }),
            Err(error) => Err(explain(&error, text)),
        }
    }

    /// `line 3, column 1`, counted in letters.
    pub fn place(&self, span: &Range<usize>) -> String {
        place(self.text, span.start)
    }

    /// The place of a key's value.
    pub fn place_of(&self, key: &str) -> Option<String> {
        Some(self.place(&self.span_of(key)?))
    }

    /// Where that stands, bytes of the file.
    pub(super) fn span_of(&self, key: &str) -> Option<Range<usize>> {
        Some(self.value(key)?.span())
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&Spanned<DeValue<'t>>> {
        find(&self.table, key)
    }

    /// The value of a key in a table.
    pub(super) fn value_in(&self, table: &str, key: &str) -> Option<&Spanned<DeValue<'t>>> {
        match self.value(table)?.get_ref() {
            DeValue::Table(table) => find(table, key),
            _ => None,
        }
    }

    /// A line for each key of `table` that is not in `names`.
    pub fn unknown_keys(&self, table: &DeTable<'_>, names: &[&str]) -> Vec<String> {
        let mut lines: Vec<(usize, String)> = Vec::new();
        for (key, _) in table.iter() {
            let name = key.get_ref().as_ref();
            if names.contains(&name) {
                continue;
            }
            let place = self.place(&key.span());
            lines.push((
                key.span().start,
                format!("{place}: {}", unknown(name, names)),
            ));
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// The text of a key in a table, with its place.
    ///
    /// # Errors
    /// A line that says what is there instead.
    pub fn text_of<'a>(
        &self,
        table: &'a DeTable<'_>,
        owner: &Range<usize>,
        key: &str,
    ) -> Result<(&'a str, String), String> {
        let Some(value) = find(table, key) else {
            return Err(format!("{}: {key} is not set", self.place(owner)));
        };
        let place = self.place(&value.span());
        match value.get_ref() {
            DeValue::String(text) => Ok((text, place)),
            other => Err(format!(
                "{place}: {key}: a text is needed, this is of type {}",
                other.type_str()
            )),
        }
    }
}

fn find<'a, 't>(table: &'a DeTable<'t>, key: &str) -> Option<&'a Spanned<DeValue<'t>>> {
    let mut entries = table.iter();
    let (_, value) = entries.find(|(found, _)| found.get_ref() == key)?;
    Some(value)
}

/// What is said of a name that is none of these.
pub(super) fn unknown(name: &str, names: &[&str]) -> String {
    let meant = match nearest(name, names) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("the keys are {}", names.join(", ")),
    };
    format!("unknown key `{name}`, {meant}")
}

/// A TOML error as one line with its place.
pub fn explain(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim().replace('\n', ", ");
    match error.span() {
        Some(span) => format!("{}: {message}", place(text, span.start)),
        None => message,
    }
}

fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("line {line}, column {column}")
}

/// The name that was meant, if one is near.
pub fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let mut longer = names.iter().filter(|other| other.starts_with(name));
    if let (Some(&meant), None) = (longer.next(), longer.next()) {
        return Some(meant);
    }
    let letters_max = LETTERS_WRONG_MAX.max(name.len() / 3);
    let distances = names
        .iter()
        .map(|&other| (strsim::damerau_levenshtein(name, other), other));
    let (distance, meant) = distances.min_by_key(|&(distance, _)| distance)?;
    (distance <= letters_max).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_found() {
        let names = ["az", "listen", "page_cache_mib", "hot_log_mib"];
        assert_eq!(nearest("page_cache_mb", &names), Some("page_cache_mib"));
        assert_eq!(nearest("lsiten", &names), Some("listen"));
        assert_eq!(nearest("page_cache", &names), Some("page_cache_mib"));
        assert_eq!(nearest("certificate_authority", &names), None);
    }

    #[test]
    fn places_count_lines_and_letters_from_one() {
        let document = Document::parse("a = 1\n  \"bö\" = 2\n").unwrap();
        assert_eq!(document.place_of("bö").unwrap(), "line 2, column 10");
        let line = Document::parse("a = 1\nb =\n").unwrap_err();
        assert!(line.starts_with("line 2, column "), "{line}");
    }
}
