//! The access log: one line about a session, as `key=value` text or as a JSON object.
//!
//! Pure: values in, bytes out; where the line goes is the caller's. Both formats carry the same fields under the
//! same names in the same order, and leave out what a session does not have. Much of it is a peer's choice, so
//! whatever a peer sends, it stays inside its own value: a line is ASCII without control bytes, it ends where we
//! end it, and no value can look like another field.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::plan::LogFormat;

/// What a line reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A tunnel was opened.
    Open,
    /// A tunnel is open for a while.
    Still,
    /// A session ended.
    Close,
}

impl Event {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Open => "open",
            Event::Still => "still",
            Event::Close => "close",
        }
    }
}

/// What a line says about a session. `None`: there is no such thing, and the field is left out.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// When it happened, as a [`Stamp`] has it.
    pub time: &'a [u8; 24],
    /// The session's id, the same in all its lines.
    pub id: &'a [u8],
    /// What happened.
    pub event: Event,
    /// The client's address.
    pub client: &'a [u8],
    /// The listener's address.
    pub listener: &'a str,
    /// The request's host.
    pub host: Option<&'a [u8]>,
    /// The request's method.
    pub method: Option<&'a [u8]>,
    /// The request's path; with its query string only where the caller was told to log it.
    pub path: Option<&'a [u8]>,
    /// The status code that the client was sent.
    pub status: Option<u16>,
    /// The upstream's name in the configuration.
    pub upstream: Option<&'a str>,
    /// The server of that upstream.
    pub server: Option<&'a str>,
    /// Bytes from the client to the server.
    pub bytes_up: u64,
    /// Bytes from the server to the client.
    pub bytes_down: u64,
    /// Since accept; in the log in seconds, cut to milliseconds.
    pub duration: Duration,
    /// From accept to the tunnel; as above.
    pub handshake: Option<Duration>,
    /// Whom it waited for in vain.
    pub waited_for: Option<&'a str>,
    /// Why it ended.
    pub outcome: Option<&'a str>,
    /// Who ended it.
    pub ended_by: Option<&'a str>,
}

/// A field's key with what separates it from the field before, in text and in JSON.
macro_rules! key {
    ($name:literal) => {
        [concat!(" ", $name, "="), concat!(",\"", $name, "\":")]
    };
}

/// Appends one line about a session, its newline included.
pub(crate) fn write(entry: &Entry<'_>, format: LogFormat, out: &mut Vec<u8>) {
    let mut line = Line::begin(entry.time, format, out);
    line.text(key!("id"), entry.id);
    line.word(key!("event"), entry.event.as_str().as_bytes());
    line.text(key!("client"), entry.client);
    line.text(key!("listener"), entry.listener.as_bytes());
    line.any_text(key!("host"), entry.host);
    line.any_text(key!("method"), entry.method);
    line.any_text(key!("path"), entry.path);
    if let Some(status) = entry.status {
        line.number(key!("status"), status.into());
    }
    line.any_text(key!("upstream"), entry.upstream.map(str::as_bytes));
    line.any_text(key!("server"), entry.server.map(str::as_bytes));
    line.number(key!("bytes_up"), entry.bytes_up);
    line.number(key!("bytes_down"), entry.bytes_down);
    line.seconds(key!("duration"), entry.duration);
    if let Some(handshake) = entry.handshake {
        line.seconds(key!("handshake"), handshake);
    }
    line.any_text(key!("waited_for"), entry.waited_for.map(str::as_bytes));
    line.any_text(key!("outcome"), entry.outcome.map(str::as_bytes));
    line.any_text(key!("ended_by"), entry.ended_by.map(str::as_bytes));
    line.end();
}

/// Appends one line that says how many lines are missing here and why, in the form of the lines around it.
pub fn write_lost(time: SystemTime, lines: u64, reason: &str, format: LogFormat, out: &mut Vec<u8>) {
    let mut stamp = Stamp::default();
    let mut line = Line::begin(stamp.at(time), format, out);
    line.word(key!("event"), b"lost");
    line.number(key!("lines"), lines);
    line.text(key!("reason"), reason.as_bytes());
    line.end();
}

/// A time as in all our logs: `2026-11-22T09:00:00.123Z` (RFC 3339, UTC). A time that the format cannot say, before
/// 1970 or after 9999, is the nearest that it can.
pub fn rfc3339(time: SystemTime) -> impl Display {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_1970(time))
}

fn since_1970(time: SystemTime) -> Duration {
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST)
}

/// A time as [`rfc3339`] has it, for one who writes many: most are in the same second as the one before.
#[derive(Default)]
pub(crate) struct Stamp {
    /// The second that `text` tells.
    second: Option<u64>,
    text: [u8; 24],
}

impl Stamp {
    /// The text of a time.
    pub fn at(&mut self, time: SystemTime) -> &[u8; 24] {
        let since = since_1970(time);
        if self.second == Some(since.as_secs()) {
            self.text[20..23].copy_from_slice(&three_digits(since.subsec_millis()));
        } else {
            let written = write!(&mut self.text[..], "{}", rfc3339(time));
            debug_assert!(written.is_ok(), "a time has as many digits as any other");
            self.second = Some(since.as_secs());
        }
        &self.text
    }
}

/// A number below a thousand.
fn three_digits(number: u32) -> [u8; 3] {
    [number / 100, number / 10, number].map(|digits| b'0' + (digits % 10) as u8)
}

/// A line that grows by a field at a time.
///
/// There are two of these in a tunnel's life, and a tunnel's life is cheap: with `write!` for each field a line took as
/// many instructions as the opening of a tunnel. What takes a key is inlined so that the key's length is known where it
/// is copied.
struct Line<'a> {
    format: LogFormat,
    out: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    /// Begins with the time.
    fn begin(time: &[u8; 24], format: LogFormat, out: &'a mut Vec<u8>) -> Line<'a> {
        // As long as most are.
        out.reserve(512);
        match format {
            LogFormat::Text => {
                out.extend_from_slice(b"time=");
                out.extend_from_slice(time);
            }
            LogFormat::Json => {
                out.extend_from_slice(b"{\"time\":\"");
                out.extend_from_slice(time);
                out.push(b'"');
            }
        }
        Line { format, out }
    }

    #[inline(always)]
    fn key(&mut self, [in_text, in_json]: [&'static str; 2]) {
        match self.format {
            LogFormat::Text => self.out.extend_from_slice(in_text.as_bytes()),
            LogFormat::Json => self.out.extend_from_slice(in_json.as_bytes()),
        }
    }

    #[inline(always)]
    fn number(&mut self, key: [&'static str; 2], number: u64) {
        self.key(key);
        write_number(number, self.out);
    }

    /// Seconds with three decimals, as in `0.030`; in JSON with as many as it takes: `0.03`, and `0.0`.
    #[inline(always)]
    fn seconds(&mut self, key: [&'static str; 2], duration: Duration) {
        self.key(key);
        write_number(duration.as_secs(), self.out);
        let [tenths, hundredths, thousandths] = three_digits(duration.subsec_millis());
        self.out.extend_from_slice(&[b'.', tenths, hundredths, thousandths]);
        if self.format == LogFormat::Json {
            let zeros = match [hundredths, thousandths] {
                [b'0', b'0'] => 2,
                [_, b'0'] => 1,
                [_, _] => 0,
            };
            self.out.truncate(self.out.len() - zeros);
        }
    }

    /// A word of our own.
    #[inline(always)]
    fn word(&mut self, key: [&'static str; 2], word: &[u8]) {
        self.key(key);
        match self.format {
            LogFormat::Text => self.out.extend_from_slice(word),
            LogFormat::Json => write_json(word, self.out),
        }
    }

    /// Text that may hold anything, where there is any.
    #[inline(always)]
    fn any_text(&mut self, key: [&'static str; 2], text: Option<&[u8]>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    /// Text that may hold anything.
    #[inline(always)]
    fn text(&mut self, key: [&'static str; 2], text: &[u8]) {
        self.key(key);
        match self.format {
            LogFormat::Text => write_text(text, self.out),
            LogFormat::Json => write_json(text, self.out),
        }
    }

    fn end(self) {
        match self.format {
            LogFormat::Text => self.out.push(b'\n'),
            LogFormat::Json => self.out.extend_from_slice(b"}\n"),
        }
    }
}

/// Appends a number. Most have one digit.
pub(crate) fn write_number(number: u64, out: &mut Vec<u8>) {
    if number < 10 {
        out.push(b'0' + number as u8);
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

/// The formats in which a byte stands for itself: in text it needs no quotes around it, in JSON no escape.
const IN_TEXT: u8 = 1;
const IN_JSON: u8 = 2;
const STANDS_FOR_ITSELF: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        table[byte as usize] = match byte {
            b'"' | b'\\' => 0,
            b' ' | b'=' => IN_JSON,
            _ => IN_TEXT | IN_JSON,
        };
        byte += 1;
    }
    table
};

/// Whether all bytes stand for themselves. All are looked at, four at a time: nearly always they do.
fn is_plain(value: &[u8], format: u8) -> bool {
    let of = |byte: u8| STANDS_FOR_ITSELF[usize::from(byte)];
    let mut fours = value.chunks_exact(4);
    let plain = fours
        .by_ref()
        .fold(format, |plain, four| plain & of(four[0]) & of(four[1]) & of(four[2]) & of(four[3]));
    fours.remainder().iter().fold(plain, |plain, &byte| plain & of(byte)) != 0
}

fn write_text(value: &[u8], out: &mut Vec<u8>) {
    if is_plain(value, IN_TEXT) && !value.is_empty() {
        out.extend_from_slice(value);
    } else {
        out.push(b'"');
        escape_text(value, out);
        out.push(b'"');
    }
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

fn write_json(value: &[u8], out: &mut Vec<u8>) {
    if is_plain(value, IN_JSON) {
        out.push(b'"');
        out.extend_from_slice(value);
        out.push(b'"');
    } else {
        let mut serializer = serde_json::Serializer::with_formatter(out, Ascii(CompactFormatter));
        let written = unicode(value).serialize(&mut serializer);
        debug_assert!(written.is_ok(), "a string has a JSON form, and a vector takes it");
    }
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
            time: b"2026-11-22T09:00:00.123Z",
            id: b"7f3a",
            event: Event::Close,
            client: b"192.0.2.1:5000",
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

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
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
            id: evil.as_bytes(),
            client: evil.as_bytes(),
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
    fn a_stamp_is_the_time_that_it_is_asked_for() {
        let mut stamp = Stamp::default();
        let mut check = |time, text: &str| {
            assert_eq!(stamp.at(time).as_slice(), text.as_bytes());
            assert_eq!(rfc3339(time).to_string(), text);
        };
        check(at(0), "1970-01-01T00:00:00.000Z");
        check(at(7), "1970-01-01T00:00:00.007Z");
        let day = 1_795_338_000_000;
        check(at(day), "2026-11-22T09:00:00.000Z");
        check(at(day + 7), "2026-11-22T09:00:00.007Z");
        check(at(day + 99), "2026-11-22T09:00:00.099Z");
        check(at(day + 999), "2026-11-22T09:00:00.999Z");
        check(at(day + 999) + Duration::from_nanos(999_999), "2026-11-22T09:00:00.999Z");
        check(at(day + 1000), "2026-11-22T09:00:01.000Z");
        check(at(day + 1120), "2026-11-22T09:00:01.120Z");
        check(at(day + 59_999), "2026-11-22T09:00:59.999Z");
        check(at(day + 60_000), "2026-11-22T09:01:00.000Z");
        // Clocks are set back.
        check(at(day + 59_999), "2026-11-22T09:00:59.999Z");
        check(at(day + 59_001), "2026-11-22T09:00:59.001Z");
        check(at(1), "1970-01-01T00:00:00.001Z");
        let far = Duration::from_secs(300_000_000_000);
        check(SystemTime::UNIX_EPOCH + far, "9999-12-31T23:59:59.999Z");
        check(at(253_402_300_799_998), "9999-12-31T23:59:59.998Z");
        check(SystemTime::UNIX_EPOCH - far, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 9, 10, 99, 100, 999, 1000, 65_535, 1_000_000, u64::from(u32::MAX), u64::MAX] {
            let status = number as u16;
            let entry =
                Entry { bytes_up: number, bytes_down: u64::MAX - number, status: Some(status), ..entry() };
            let down = u64::MAX - number;
            let text = line(&entry, LogFormat::Text);
            assert!(text.contains(&format!(" bytes_up={number} bytes_down={down} duration=")), "{text}");
            assert!(text.contains(&format!(" status={status} upstream=")), "{text}");
            let json = line(&entry, LogFormat::Json);
            assert!(
                json.contains(&format!(",\"bytes_up\":{number},\"bytes_down\":{down},\"duration\":")),
                "{json}"
            );
            assert!(json.contains(&format!(",\"status\":{status},\"upstream\":")), "{json}");
        }
    }

    #[test]
    fn durations_are_cut_to_milliseconds() {
        let check = |duration: Duration, in_text: &str, in_json: &str| {
            let entry = Entry { duration, handshake: Some(duration), ..entry() };
            let text = line(&entry, LogFormat::Text);
            assert!(text.contains(&format!(" duration={in_text} handshake={in_text} waited_for")), "{text}");
            let json = line(&entry, LogFormat::Json);
            assert!(json.contains(&format!(",\"duration\":{in_json},\"handshake\":{in_json},\"w")), "{json}");
            // As a number in JSON is written.
            assert_eq!(serde_json::to_string(&(duration.as_millis() as f64 / 1000.0)).unwrap(), in_json);
        };
        let millis = Duration::from_millis;
        check(Duration::ZERO, "0.000", "0.0");
        check(Duration::from_micros(999), "0.000", "0.0");
        check(millis(1), "0.001", "0.001");
        check(millis(10), "0.010", "0.01");
        check(millis(100), "0.100", "0.1");
        check(millis(101), "0.101", "0.101");
        check(millis(120), "0.120", "0.12");
        check(millis(999), "0.999", "0.999");
        check(millis(1000), "1.000", "1.0");
        check(millis(10_000), "10.000", "10.0");
        check(Duration::from_nanos(59_999_999_999), "59.999", "59.999");
        check(millis(60_000), "60.000", "60.0");
        check(millis(3_600_007), "3600.007", "3600.007");
        check(millis(86_400_000), "86400.000", "86400.0");
        // As long as the loop's clock lasts.
        check(Duration::from_nanos(u64::MAX), "18446744073.709", "18446744073.709");
    }

    #[test]
    fn lost_lines_are_told_in_the_form_of_the_rest() {
        let told = |format| {
            let mut out = Vec::new();
            write_lost(at(1_795_338_000_123), 12, "the reader was too slow", format, &mut out);
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
