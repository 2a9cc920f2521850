//! From an error to its place: line, column and the whole key.
//!
//! The checks know which value is at fault only by its span in the text. The key's path is found afterwards, by
//! walking the parsed tree again for the smallest key or value around that span: one error is reported, so the
//! second walk costs nothing that matters, and the checks need not carry paths along.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::{QUOTED_CHARS_MAX, Wrong, did_you_mean, quoted, wrong};
use crate::error::ConfigError;

/// What is wrong, and with which part of the text.
#[derive(Debug)]
pub(super) struct Fault {
    /// The bytes at fault.
    span: Range<usize>,
    /// A key that the table at `span` lacks; otherwise `span` is the fault itself.
    missing: Option<&'static str>,
    wrong: Wrong,
}

impl Fault {
    /// This key or value is wrong.
    pub(super) fn at<T>(value: &Spanned<T>, wrong: Wrong) -> Fault {
        Fault { span: value.span(), missing: None, wrong }
    }

    /// This table lacks a key.
    pub(super) fn lacks<T>(table: &Spanned<T>, key: &'static str, wrong: Wrong) -> Fault {
        Fault { span: table.span(), missing: Some(key), wrong }
    }

    /// The file lacks a table: said at its beginning, as there is no better place.
    pub(super) fn file_lacks(key: &'static str, wrong: Wrong) -> Fault {
        Fault { span: 0..0, missing: Some(key), wrong }
    }

    /// The error as it is shown.
    pub(super) fn place(self, text: &str) -> ConfigError {
        let (line, column) = position(text, self.span.start);
        let mut key = find(text, &self.span).map_or(String::new(), |found| found.path);
        if let Some(missing) = self.missing {
            push_key(&mut key, missing);
        }
        ConfigError { file: None, line, column, key, message: self.wrong.message, help: self.wrong.help }
    }
}

/// An error of the TOML parser. It has no key: there is no tree to find it in.
pub(super) fn broken_syntax(error: &toml::de::Error, text: &str) -> ConfigError {
    // The parser leaves the place out where the text ends too early.
    let span = error.span().unwrap_or(text.len()..text.len());
    let (line, column) = position(text, span.start);
    let found = text.get(span.clone()).filter(|found| !found.trim().is_empty());
    let wrong = match found {
        // The usual mistake, and the parser's words for it ("invalid float, expected `inf`") name another.
        Some(found) if is_value(text, span.start) && found.starts_with(char::is_alphanumeric) => {
            wrong(format!("not TOML: {} is no value", quoted(found))).help("text stands in quotes")
        }
        Some(found) => wrong(format!("not TOML: {} at {}", error.message(), quoted(found))),
        None => wrong(format!("not TOML: {}", error.message())),
    };
    ConfigError { file: None, line, column, key: String::new(), message: wrong.message, help: wrong.help }
}

/// Whether a value is expected at a byte, going by what stands before it on its line.
fn is_value(text: &str, offset: usize) -> bool {
    let line = text.get(..offset).and_then(|before| before.rsplit('\n').next()).unwrap_or("");
    line.contains('=') && line.trim_end().ends_with(['=', ',', '['])
}

/// An error of serde's: an unknown key or a value of the wrong type. Its message is made for programmers and is
/// taken apart here; what comes behind the last ", expected " is ours (names of fields, `expecting`), all before
/// it may be the file's.
pub(super) fn wrong_shape(error: &toml::de::Error, text: &str) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let expected = error.message().rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    let wrong = match find(text, &span) {
        // "one of `a`, `b`", "`a` or `b`": every other part is a name.
        Some(found) if error.message().starts_with("unknown field ") => {
            unknown_key(&found.name, &expected.split('`').skip(1).step_by(2).collect::<Vec<_>>())
        }
        Some(found) => wrong_type(&found, expected),
        None => wrong(error.message()),
    };
    Fault { span, missing: None, wrong }.place(text)
}

fn unknown_key(name: &str, known: &[&str]) -> Wrong {
    let message = format!("there is no key {}", quoted(name));
    match did_you_mean(name, known) {
        Some(near) => wrong(message).help(format!("did you mean \"{near}\"?")),
        None => wrong(message).help(format!("the keys here are {}", known.join(", "))),
    }
}

fn wrong_type(found: &Found, expected: &str) -> Wrong {
    let expected = match expected {
        // What fits in no integer type at all is refused without a word about types.
        "" | "i64" if found.value.starts_with("the integer ") => {
            return wrong(format!("{} is too large", found.value));
        }
        "i64" => "an integer",
        "a sequence" => "an array",
        "a map" => "a table",
        ours => ours,
    };
    let message = wrong(format!("found {}, expected {expected}", found.value));
    match (found.value.as_str(), expected) {
        ("a table", "an array") => {
            message.help(format!("double brackets: [[{}]]", without_indices(&found.path)))
        }
        _ => message,
    }
}

/// A path as it stands in a header: `listener[0].route` is `listener.route`.
fn without_indices(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// Line and column of a byte, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    // Every byte that begins a character; the others are 10xxxxxx.
    let column = before[line_start..].iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
    (line, column)
}

/// The line of a key or value, from 1.
pub(super) fn line<T>(text: &str, value: &Spanned<T>) -> usize {
    position(text, value.span().start).0
}

/// A key or value of the tree.
struct Found {
    /// From the top: `listener[0].route[1].path`.
    path: String,
    /// The last key of it alone.
    name: String,
    /// The value in words.
    value: String,
    /// Bytes that it covers.
    size: usize,
}

/// The smallest key or value that covers all of `span`; the deepest of several. An empty span is the file's, not
/// that of the key that happens to begin there.
fn find(text: &str, span: &Range<usize>) -> Option<Found> {
    if span.is_empty() {
        return None;
    }
    let tree = DeTable::parse(text).ok()?;
    let mut best = None;
    find_in_table(tree.get_ref(), "", span, &mut best);
    best
}

/// A table's span is its header's alone, so that nothing can be passed over by looking at it. The depth is
/// bounded by the parser's own limit.
fn find_in_table(table: &DeTable<'_>, path: &str, span: &Range<usize>, best: &mut Option<Found>) {
    for (key, value) in table {
        let mut path = path.to_owned();
        push_key(&mut path, key.get_ref());
        offer(key.span(), &path, key.get_ref(), value.get_ref(), span, best);
        find_in_value(value, &path, key.get_ref(), span, best);
    }
}

fn find_in_value(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    name: &str,
    span: &Range<usize>,
    best: &mut Option<Found>,
) {
    offer(value.span(), path, name, value.get_ref(), span, best);
    match value.get_ref() {
        DeValue::Table(table) => find_in_table(table, path, span, best),
        DeValue::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                find_in_value(element, &format!("{path}[{index}]"), name, span, best);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

fn offer(
    candidate: Range<usize>,
    path: &str,
    name: &str,
    value: &DeValue<'_>,
    span: &Range<usize>,
    best: &mut Option<Found>,
) {
    let covers = candidate.start <= span.start && span.end <= candidate.end;
    if covers && best.as_ref().is_none_or(|best| candidate.len() <= best.size) {
        *best = Some(Found {
            path: path.to_owned(),
            name: name.to_owned(),
            value: in_words(value),
            size: candidate.len(),
        });
    }
}

fn in_words(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) => format!("the integer {number}"),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(truth) => format!("the boolean {truth}"),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A key as TOML writes it: bare, or quoted where it must be.
pub(super) fn key(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match !key.is_empty() && key.len() <= QUOTED_CHARS_MAX && key.bytes().all(bare) {
        true => key.to_owned(),
        false => quoted(key),
    }
}

/// Appends a key to a path.
fn push_key(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(&key(name));
}
