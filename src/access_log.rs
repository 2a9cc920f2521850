//! The access log: one line about a session, as `key=value` text or as a JSON object.
//!
//! Pure: values in, bytes out; where the line goes is the caller's. Both formats carry the same fields under the
//! same names in the same order, and leave out what a session does not have. Much of it is a peer's choice, so
//! whatever a peer sends, it stays inside its own value: a line is ASCII without control bytes, it ends where we
//! end it, and no value can look like another field.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};

use crate::plan::LogFormat;

/// What a line reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    /// A tunnel was opened.
    Open,
    /// A session ended.
    Close,
}

impl Event {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Open => "open",
            Event::Close => "close",
        }
    }
}

/// What a line says about a session. `None`: there is no such thing, and the field is left out.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Entry<'a> {
    /// When it happened.
    #[serde(serialize_with = "as_time")]
    pub time: SystemTime,
    /// The session's id, the same in all its lines.
    pub id: &'a str,
    /// What happened.
    pub event: Event,
    /// The client's address.
    #[serde(serialize_with = "as_text")]
    pub client: &'a dyn Display,
    /// The listener's address.
    pub listener: &'a str,
    /// The request's host.
    #[serde(serialize_with = "as_bytes", skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a [u8]>,
    /// The request's method.
    #[serde(serialize_with = "as_bytes", skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a [u8]>,
    /// The request's path; with its query string only where the caller was told to log it.
    #[serde(serialize_with = "as_bytes", skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a [u8]>,
    /// The status code that the client was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The upstream's name in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// The server of that upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<&'a str>,
    /// Bytes from the client to the server.
    pub bytes_up: u64,
    /// Bytes from the server to the client.
    pub bytes_down: u64,
    /// Since accept; in the log in seconds, cut to milliseconds.
    #[serde(serialize_with = "as_seconds")]
    pub duration: Duration,
    /// From accept to the tunnel; as above.
    #[serde(serialize_with = "as_optional_seconds", skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Duration>,
    /// Whom it waited for in vain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_for: Option<&'a str>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'a str>,
    /// Who ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<&'a str>,
}

/// Appends one line about a session, its newline included.
pub(crate) fn write(entry: &Entry<'_>, format: LogFormat, out: &mut Vec<u8>) {
    match format {
        LogFormat::Text => write_text(entry, out),
        LogFormat::Json => write_json(entry, out),
    }
}

/// Appends one line that says how many lines are missing here and why, in the form of the lines around it.
pub fn write_lost(time: SystemTime, lines: u64, reason: &str, format: LogFormat, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Lost<'a> {
        #[serde(serialize_with = "as_time")]
        time: SystemTime,
        event: &'a str,
        lines: u64,
        reason: &'a str,
    }
    match format {
        LogFormat::Text => {
            let mut line = TextLine { out };
            line.plain("time", rfc3339(time));
            line.plain("event", "lost");
            line.plain("lines", lines);
            line.value("reason", Some(reason.as_bytes()));
            line.end();
        }
        LogFormat::Json => write_json(&Lost { time, event: "lost", lines, reason }, out),
    }
}

/// A time as in all our logs: `2026-11-22T09:00:00.123Z` (RFC 3339, UTC). A time that the format cannot say, before
/// 1970 or after 9999, is the nearest that it can.
pub fn rfc3339(time: SystemTime) -> impl Display {
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    humantime::format_rfc3339_millis(time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST))
}

fn write_text(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let mut line = TextLine { out };
    line.plain("time", rfc3339(entry.time));
    line.value("id", Some(entry.id.as_bytes()));
    line.plain("event", entry.event.as_str());
    line.value("client", Some(entry.client.to_string().as_bytes()));
    line.value("listener", Some(entry.listener.as_bytes()));
    line.value("host", entry.host);
    line.value("method", entry.method);
    line.value("path", entry.path);
    if let Some(status) = entry.status {
        line.plain("status", status);
    }
    line.value("upstream", entry.upstream.map(str::as_bytes));
    line.value("server", entry.server.map(str::as_bytes));
    line.plain("bytes_up", entry.bytes_up);
    line.plain("bytes_down", entry.bytes_down);
    line.plain("duration", Seconds(entry.duration));
    if let Some(handshake) = entry.handshake {
        line.plain("handshake", Seconds(handshake));
    }
    line.value("waited_for", entry.waited_for.map(str::as_bytes));
    line.value("outcome", entry.outcome.map(str::as_bytes));
    line.value("ended_by", entry.ended_by.map(str::as_bytes));
    line.end();
}

/// A line of text that grows by a field at a time, each with a space behind it until the end.
struct TextLine<'a> {
    out: &'a mut Vec<u8>,
}

impl TextLine<'_> {
    /// A value of our own making that needs no quotes.
    fn plain(&mut self, key: &str, value: impl Display) {
        // Writing to a vector cannot fail, and neither do the numbers, words and clamped times written here.
        let _ = write!(self.out, "{key}={value} ");
    }

    /// A value that may hold anything.
    fn value(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
        if is_plain(value) {
            self.out.extend_from_slice(value);
        } else {
            self.out.push(b'"');
            escape_text(value, self.out);
            self.out.push(b'"');
        }
        self.out.push(b' ');
    }

    /// The last field's space becomes the newline.
    fn end(self) {
        self.out.pop();
        self.out.push(b'\n');
    }
}

/// Whether a value reads as one word without quotes.
fn is_plain(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| byte.is_ascii_graphic() && !b"\"=\\".contains(byte))
}

fn escape_text(value: &[u8], out: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e => out.push(byte),
            _ => escape_byte(byte, out),
        }
    }
}

fn escape_byte(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
    out.extend_from_slice(&[b'\\', b'x', DIGITS[high], DIGITS[low]]);
}

/// Seconds with three decimals, as in `0.003`.
struct Seconds(Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.as_secs(), self.0.subsec_millis())
    }
}

fn write_json(line: &impl Serialize, out: &mut Vec<u8>) {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Ascii(CompactFormatter));
    let written = line.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "a struct of strings and numbers has a JSON form, and a vector takes it");
    out.push(b'\n');
}

/// JSON in ASCII. It may hold any character as it is, but not every reader of logs takes only LF for a line's end
/// (there are U+0085 and U+2028), and a terminal obeys U+009B. A parser sees no difference.
struct Ascii(CompactFormatter);

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| !matches!(c, ' '..='~')) {
            let (plain, other) = rest.split_at(at);
            self.0.write_string_fragment(writer, plain)?;
            let mut chars = other.chars();
            for unit in chars.next().unwrap_or_default().encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        self.0.write_string_fragment(writer, rest)
    }
}

fn as_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*time))
}

fn as_text<S: Serializer>(value: &&dyn Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Whole milliseconds, so that 3 ms is written 0.003 and not 0.003000001. Exact up to 2^53 ms.
    serializer.serialize_f64(duration.as_millis() as f64 / 1000.0)
}

fn as_optional_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    as_seconds(&duration.unwrap_or_default(), serializer)
}

fn as_bytes<S: Serializer>(bytes: &Option<&[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&unicode(bytes.unwrap_or_default()))
}

/// The bytes as text. JSON strings hold no bytes that are not UTF-8, so those are shown as `\xNN`.
fn unicode(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut shown = String::with_capacity(bytes.len() * 2);
    for chunk in bytes.utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_338_000_123),
            id: "7f3a",
            event: Event::Close,
            client: &"192.0.2.1:5000",
            listener: "0.0.0.0:8020",
            host: Some(b"chat.example.com"),
            method: Some(b"GET"),
            path: Some(b"/wsapp/"),
            status: Some(101),
            upstream: Some("websocket"),
            server: Some("127.0.0.1:8010"),
            bytes_up: 12,
            bytes_down: 34,
            duration: Duration::from_micros(61_002_999),
            handshake: Some(Duration::from_millis(3)),
            waited_for: Some("server"),
            outcome: Some("finished"),
            ended_by: Some("client"),
        }
    }

    /// A tcp session that was just opened: everything optional is absent.
    fn bare() -> Entry<'static> {
        Entry {
            event: Event::Open,
            host: None,
            method: None,
            path: None,
            status: None,
            upstream: None,
            server: None,
            duration: Duration::ZERO,
            handshake: None,
            waited_for: None,
            outcome: None,
            ended_by: None,
            ..entry()
        }
    }

    fn line(entry: &Entry<'_>, format: LogFormat) -> String {
        let mut out = b"before\n".to_vec();
        write(entry, format, &mut out);
        let out = String::from_utf8(out).unwrap();
        out.strip_prefix("before\n").expect("what is there stays").to_string()
    }

    #[test]
    fn text_has_every_field_in_order() {
        assert_eq!(
            line(&entry(), LogFormat::Text),
            "time=2026-11-22T09:00:00.123Z id=7f3a event=close client=192.0.2.1:5000 listener=0.0.0.0:8020 \
             host=chat.example.com method=GET path=/wsapp/ status=101 upstream=websocket server=127.0.0.1:8010 \
             bytes_up=12 bytes_down=34 duration=61.002 handshake=0.003 \
             waited_for=server outcome=finished ended_by=client\n"
        );
    }

    #[test]
    fn json_has_the_same_fields_in_the_same_order() {
        assert_eq!(
            line(&entry(), LogFormat::Json),
            "{\"time\":\"2026-11-22T09:00:00.123Z\",\"id\":\"7f3a\",\"event\":\"close\",\
             \"client\":\"192.0.2.1:5000\",\"listener\":\"0.0.0.0:8020\",\"host\":\"chat.example.com\",\
             \"method\":\"GET\",\"path\":\"/wsapp/\",\"status\":101,\"upstream\":\"websocket\",\
             \"server\":\"127.0.0.1:8010\",\"bytes_up\":12,\"bytes_down\":34,\"duration\":61.002,\
             \"handshake\":0.003,\"waited_for\":\"server\",\"outcome\":\"finished\",\"ended_by\":\"client\"}\n"
        );
    }

    #[test]
    fn what_a_session_does_not_have_is_left_out() {
        assert_eq!(
            line(&bare(), LogFormat::Text),
            "time=2026-11-22T09:00:00.123Z id=7f3a event=open client=192.0.2.1:5000 listener=0.0.0.0:8020 \
             bytes_up=12 bytes_down=34 duration=0.000\n"
        );
        assert_eq!(
            line(&bare(), LogFormat::Json),
            "{\"time\":\"2026-11-22T09:00:00.123Z\",\"id\":\"7f3a\",\"event\":\"open\",\
             \"client\":\"192.0.2.1:5000\",\"listener\":\"0.0.0.0:8020\",\
             \"bytes_up\":12,\"bytes_down\":34,\"duration\":0.0}\n"
        );
    }

    /// What a path becomes in both formats: in text as it stands in the line, in JSON as it stands and as parsed.
    fn check(path: &[u8], text: &str, json: &str, parsed: &str) {
        let entry = Entry { path: Some(path), ..entry() };
        let line_of = |format| line(&entry, format);

        let found = line_of(LogFormat::Text);
        let value = found.split_once(" path=").unwrap().1.rsplit_once(" status=101").unwrap().0;
        assert_eq!(value, text, "text of {path:?}");

        let found_json = line_of(LogFormat::Json);
        let value = found_json.split_once("\"path\":").unwrap().1.rsplit_once(",\"status\":").unwrap().0;
        assert_eq!(value, json, "JSON of {path:?}");
        let back: serde_json::Value = serde_json::from_str(&found_json).unwrap();
        assert_eq!(back["path"], parsed, "parsed JSON of {path:?}");
        assert_eq!(back["status"], 101);
        assert_eq!(back["duration"], 61.002);

        for line in [found, found_json] {
            let (body, end) = line.split_at(line.len() - 1);
            assert!(end == "\n" && body.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
        }
    }

    #[test]
    fn a_value_stays_inside_itself() {
        check(b"/", "/", r#""/""#, "/");
        check(b"/a;b,c?d&e#~", "/a;b,c?d&e#~", r#""/a;b,c?d&e#~""#, "/a;b,c?d&e#~");
        check(b"", r#""""#, r#""""#, "");
        check(b"/a b", r#""/a b""#, r#""/a b""#, "/a b");
        check(b"/?a=b", r#""/?a=b""#, r#""/?a=b""#, "/?a=b");
        check(b"/\"", r#""/\"""#, r#""/\"""#, "/\"");
        check(b"/\\", r#""/\\""#, r#""/\\""#, "/\\");
        check(b"/\\\"", r#""/\\\"""#, r#""/\\\"""#, "/\\\"");
        check(b"/ status=200", r#""/ status=200""#, r#""/ status=200""#, "/ status=200");
        check(
            b"/\" status=200 x=\"",
            r#""/\" status=200 x=\"""#,
            r#""/\" status=200 x=\"""#,
            "/\" status=200 x=\"",
        );
        check(
            b"/\",\"status\":200,\"x\":\"",
            r#""/\",\"status\":200,\"x\":\"""#,
            r#""/\",\"status\":200,\"x\":\"""#,
            "/\",\"status\":200,\"x\":\"",
        );
        check(b"/\nid=1", r#""/\x0aid=1""#, r#""/\nid=1""#, "/\nid=1");
        check(b"/\r\n{}", r#""/\x0d\x0a{}""#, r#""/\r\n{}""#, "/\r\n{}");
        check(b"/\x1b[31m", r#""/\x1b[31m""#, r#""/\u001b[31m""#, "/\x1b[31m");
        check(b"/\0\t\x7f", r#""/\x00\x09\x7f""#, r#""/\u0000\t\u007f""#, "/\0\t\x7f");
        check("/é".as_bytes(), r#""/\xc3\xa9""#, r#""/\u00e9""#, "/é");
        check(
            "/\u{2028}\u{85}\u{9b}".as_bytes(),
            r#""/\xe2\x80\xa8\xc2\x85\xc2\x9b""#,
            r#""/\u2028\u0085\u009b""#,
            "/\u{2028}\u{85}\u{9b}",
        );
        check("/🦀x".as_bytes(), r#""/\xf0\x9f\xa6\x80x""#, r#""/\ud83e\udd80x""#, "/🦀x");
        check(b"/\xff", r#""/\xff""#, r#""/\\xff""#, "/\\xff");
        check(b"/\xc3", r#""/\xc3""#, r#""/\\xc3""#, "/\\xc3");
        check(
            b"/\xc3\xa9\xed\xa0\x80z",
            r#""/\xc3\xa9\xed\xa0\x80z""#,
            r#""/\u00e9\\xed\\xa0\\x80z""#,
            "/é\\xed\\xa0\\x80z",
        );
    }

    #[test]
    fn every_byte_stays_inside_the_value() {
        for byte in 0..=u8::MAX {
            let entry = Entry { path: Some(&[byte]), ..entry() };
            for format in [LogFormat::Text, LogFormat::Json] {
                let line = line(&entry, format);
                assert!(line.trim_end_matches('\n').bytes().all(|b| matches!(b, b' '..=b'~')), "{line:?}");
                assert_eq!(line.matches('\n').count(), 1);
            }
        }
    }

    #[test]
    fn a_long_value_is_whole() {
        let long = [b'a'; 1 << 20];
        let text = "a".repeat(1 << 20);
        check(&long, &text, &format!("\"{text}\""), &text);
        let raw = [0xff; 1 << 16];
        check(
            &raw,
            &format!("\"{}\"", r"\xff".repeat(1 << 16)),
            &format!("\"{}\"", r"\\xff".repeat(1 << 16)),
            &r"\xff".repeat(1 << 16),
        );
    }

    #[test]
    fn every_field_that_holds_text_is_escaped() {
        let evil = "a\n\" b=c";
        let entry = Entry {
            id: evil,
            client: &evil,
            listener: evil,
            host: Some(evil.as_bytes()),
            method: Some(evil.as_bytes()),
            path: Some(evil.as_bytes()),
            upstream: Some(evil),
            server: Some(evil),
            waited_for: Some(evil),
            outcome: Some(evil),
            ended_by: Some(evil),
            ..entry()
        };
        let text = line(&entry, LogFormat::Text);
        assert_eq!(text.matches(r#"="a\x0a\" b=c""#).count(), 11, "{text}");
        let json = line(&entry, LogFormat::Json);
        assert_eq!(json.matches(r#":"a\n\" b=c""#).count(), 11, "{json}");
    }

    #[test]
    fn times_that_rfc_3339_cannot_say_are_the_nearest_it_can() {
        let far = Duration::from_secs(300_000_000_000);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - far).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + far).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn lost_lines_are_told_in_the_form_of_the_rest() {
        let told = |format| {
            let mut out = Vec::new();
            write_lost(entry().time, 12, "the reader was too slow", format, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            told(LogFormat::Text),
            "time=2026-11-22T09:00:00.123Z event=lost lines=12 reason=\"the reader was too slow\"\n"
        );
        assert_eq!(
            told(LogFormat::Json),
            "{\"time\":\"2026-11-22T09:00:00.123Z\",\"event\":\"lost\",\"lines\":12,\
             \"reason\":\"the reader was too slow\"}\n"
        );
    }
}
