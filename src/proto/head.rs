//! The head of a message: where it ends, and its parts as checked views.
//!
//! Heads are read in two steps. A [`Scanner`] looks at each byte once, as it arrives, for the empty line that ends
//! the head; it refuses everything over which two readers could disagree (bare CR, bare LF, folded lines, control
//! bytes), which httparse is lenient about. Only then is the whole head parsed, once: parsing again at each byte is
//! a known denial of service (RUSTSEC-2023-0065). This is the only file that calls httparse.

use std::mem::MaybeUninit;

use crate::error::Refusal;

/// Why a head was refused while it was scanned.
pub type Fault = &'static str;

/// Finds the end of a head in bytes that arrive in pieces, looking at each byte once.
#[derive(Debug, Default)]
pub struct Scanner {
    scanned: usize,
    at: At,
    /// Where the first line ends, until somebody has asked.
    first_line: Option<usize>,
}

/// Where in a head the next byte stands.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// Before the first line: empty lines are skipped (RFC 9112, 2.2).
    #[default]
    Start,
    /// Behind a CR before the first line.
    StartCr,
    /// In the first line.
    First,
    /// Behind a CR that ends the first line.
    FirstCr,
    /// In another line.
    Line,
    /// Behind a CR that ends a line.
    LineCr,
    /// At the beginning of a line that is not the first.
    Next,
    /// Behind a CR at the beginning of a line: the LF that comes ends the head.
    NextCr,
}

impl Scanner {
    /// Scans what has been added to `bytes` since the last call, and says how many bytes the head has once its end
    /// is there. `bytes` must begin where it began before.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        loop {
            if let At::First | At::Line = self.at {
                self.scanned += before_control(&bytes[self.scanned..]);
                // A line that ends in front of another one, as most do, in one step instead of three.
                if let [b'\r', b'\n', b'!'..=b'~', ..] = bytes[self.scanned..] {
                    self.scanned += 2;
                    if let At::First = self.at {
                        self.first_line = Some(self.scanned);
                        self.at = At::Line;
                    }
                    continue;
                }
                // And the last one.
                if let (At::Line, [b'\r', b'\n', b'\r', b'\n', ..]) = (self.at, &bytes[self.scanned..]) {
                    self.scanned += 4;
                    self.at = At::NextCr;
                    return Ok(Some(self.scanned));
                }
            }
            let Some(&byte) = bytes.get(self.scanned) else { return Ok(None) };
            self.scanned += 1;
            self.at = match (self.at, byte) {
                (At::Start, b'\r') => At::StartCr,
                (At::StartCr, b'\n') => At::Start,
                (At::First, b'\r') => At::FirstCr,
                (At::Line, b'\r') => At::LineCr,
                (At::FirstCr, b'\n') => {
                    self.first_line = Some(self.scanned);
                    At::Next
                }
                (At::LineCr, b'\n') => At::Next,
                (At::Next, b'\r') => At::NextCr,
                (At::NextCr, b'\n') => return Ok(Some(self.scanned)),
                (At::StartCr | At::FirstCr | At::LineCr | At::NextCr, _) => {
                    return Err("a CR without LF in the head");
                }
                (At::Start | At::First | At::Line | At::Next, b'\n') => {
                    return Err("an LF without CR in the head");
                }
                (At::Next, b' ' | b'\t') => return Err("a folded header field"),
                (At::Start | At::First | At::Line | At::Next, byte) if is_control(byte) => {
                    return Err("a control character in the head");
                }
                (At::Start | At::First, _) => At::First,
                (At::Line | At::Next, _) => At::Line,
            };
        }
    }

    /// Where the first line ends: said once, when that has been scanned.
    pub fn found_first_line(&mut self) -> Option<usize> {
        self.first_line.take()
    }
}

/// How many bytes stand in front of the first control byte, HTAB counted as one. Heads have few of them, so eight bytes
/// are looked at together: byte by byte the two heads of a handshake took 5,900 instructions of the opening's 44,000.
fn before_control(bytes: &[u8]) -> usize {
    /// Times a byte: that byte eight times.
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let mut rest = bytes;
    while let Some((eight, behind)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*eight);
        // Most words hold nothing to look for, and no byte beyond ASCII, which would look like DEL here.
        let suspects = word.wrapping_sub(EACH * 0x20) | word.wrapping_add(EACH) | word;
        if suspects & (EACH * 0x80) == 0 {
            rest = behind;
            continue;
        }
        // In the high bit of each byte: whether it is below space, whether it is DEL. A subtraction borrows from the
        // byte above one that is found, so the first find alone is sure, and is what we are after.
        let below_space = word.wrapping_sub(EACH * 0x20) & !word;
        let from_del = word ^ (EACH * 0x7f);
        let is_del = from_del.wrapping_sub(EACH) & !from_del;
        let found = (below_space | is_del) & (EACH * 0x80);
        if found != 0 {
            return bytes.len() - rest.len() + found.trailing_zeros() as usize / 8;
        }
        rest = behind;
    }
    let in_rest = rest.iter().position(|byte| byte.is_ascii_control());
    bytes.len() - rest.len() + in_rest.unwrap_or(rest.len())
}

/// Control bytes that no head may hold: all but HTAB, DEL included (RFC 9110, 5.5). A chunked body's extensions and
/// trailer fields may not either.
pub fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// `tchar`: what the names of fields and protocols are made of (RFC 9110, 5.6.2).
pub fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The HTTP version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// A header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// Its name, in the sender's case.
    pub name: &'b str,
    /// Its value, without the white space around it.
    pub value: &'b [u8],
}

impl Field<'_> {
    /// Whether this is the field `name`, whatever the case.
    pub fn is(&self, name: &str) -> bool {
        is_spelled(self.name.as_bytes(), name)
    }
}

/// Whether two texts are the same, whatever the case. Where `usual` is what most write, most are found to be the same
/// by comparing memory; folding takes ten instructions a byte.
pub fn is_spelled(text: &[u8], usual: &str) -> bool {
    text == usual.as_bytes() || text.eq_ignore_ascii_case(usual.as_bytes())
}

/// The fields of a head, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Fields<'b>(Vec<Field<'b>>);

impl<'b> Fields<'b> {
    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Field<'b>> {
        self.0.iter()
    }

    /// The values of a field, in order.
    pub fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        self.0.iter().filter(move |field| field.is(name)).map(|field| field.value)
    }

    /// The value of a field that may come once at most.
    pub fn once(&self, name: &str) -> Result<Option<&'b [u8]>, Repeated> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Repeated),
        }
    }

    /// The members of a field that is a comma-separated list, over all its lines; empty members are skipped
    /// (RFC 9110, 5.6.1).
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.all(name).flat_map(members)
    }
}

/// What a head says about the body behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing: no body behind a request, all until the close behind a response.
    Unsaid,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Reads the framing of a message (RFC 9112, 6). What two readers could disagree over is refused: a length beside a
/// coding, two lengths, a coding other than `chunked` alone, a coding in HTTP/1.0.
pub fn framing(version: Version, fields: &Fields<'_>) -> Result<Framing, Fault> {
    let mut length = None;
    for value in fields.all("Content-Length") {
        let said = decimal(value).ok_or("Content-Length is not a number")?;
        if length.is_some_and(|length| length != said) {
            return Err("Content-Length comes twice with different values");
        }
        length = Some(said);
    }
    let mut codings = fields.all("Transfer-Encoding");
    match (codings.next(), codings.next(), length) {
        (None, _, None) => Ok(Framing::Unsaid),
        (None, _, Some(length)) => Ok(Framing::Length(length)),
        (Some(_), _, Some(_)) => Err("Content-Length beside Transfer-Encoding"),
        (Some(_), _, None) if version == Version::Http10 => Err("Transfer-Encoding in HTTP/1.0"),
        (Some(coding), None, None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), _, None) => Err("a Transfer-Encoding other than chunked"),
    }
}

/// A number of digits only: no sign, no white space, no list.
fn decimal(digits: &[u8]) -> Option<u64> {
    let number = |number: u64, digit: &u8| {
        digit.is_ascii_digit().then(|| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, number) }
}

/// Members of `Connection` that a head may have: more than anybody has use for. Each is compared with each field's
/// name, so that a head full of them would take as long as hundreds of others.
const CONNECTION_OPTIONS_MAX: usize = 100;

/// What a head's `Connection` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection<'b> {
    /// Whether `upgrade` is one of its options.
    pub upgrade: bool,
    /// The fields that it names as ones for this hop and that are not so anyway.
    nominated: Vec<&'b [u8]>,
}

impl<'b> Connection<'b> {
    /// Reads all of it, and refuses one with too many members.
    pub fn read(fields: &Fields<'b>) -> Result<Connection<'b>, Fault> {
        let mut connection = Connection::default();
        let mut options = 0;
        for value in fields.all("Connection") {
            for option in members(value) {
                if options == CONNECTION_OPTIONS_MAX {
                    return Err("Connection has too many options");
                }
                options += 1;
                if is_spelled(option, "Upgrade") {
                    connection.upgrade = true;
                } else if !is_hop_by_hop(option) && may_be_nominated(option) {
                    connection.nominated.push(option);
                }
            }
        }
        Ok(connection)
    }

    fn nominates(&self, name: &str) -> bool {
        self.nominated.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Whether a field belongs to one hop and is never passed on (RFC 9110, 7.6.1).
pub fn is_hop_by_hop(name: impl AsRef<[u8]>) -> bool {
    const NAMES: [&str; 9] = [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
    ];
    NAMES.iter().any(|hop| is_spelled(name.as_ref(), hop))
}

/// Whether `Connection` may name this field as one for a single hop. A client must not be able to take off what
/// routes, identifies or frames its request.
fn may_be_nominated(name: &[u8]) -> bool {
    const NEVER: [&str; 6] = ["host", "content-length", "cookie", "authorization", "x-real-ip", "forwarded"];
    const NEVER_PREFIX: [&str; 2] = ["sec-", "x-forwarded-"];
    let is = |never: &str| name.eq_ignore_ascii_case(never.as_bytes());
    let begins = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    !NEVER.into_iter().any(is) && !NEVER_PREFIX.into_iter().any(begins)
}

/// The fields that are passed on: not those of one hop, not those that `Connection` names.
pub fn end_to_end<'h, 'b>(
    fields: &'h Fields<'b>,
    connection: &'h Connection<'b>,
) -> impl Iterator<Item = &'h Field<'b>> {
    fields.iter().filter(|field| !is_hop_by_hop(field.name) && !connection.nominates(field.name))
}

/// Appends a field line to a head that is being written.
pub fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put_name(out, name);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the front of a field line, up to its value.
pub fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
}

/// A field came twice that may come once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

/// The members of one comma-separated value.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// A request's head.
#[derive(Clone, Debug)]
pub struct RequestHead<'b> {
    /// The method, a token.
    pub method: &'b str,
    /// The request target as it came.
    pub target: &'b str,
    /// The version of the request line.
    pub version: Version,
    /// The header fields.
    pub fields: Fields<'b>,
}

/// A response's head.
#[derive(Clone, Debug)]
pub struct ResponseHead<'b> {
    /// The version of the status line.
    pub version: Version,
    /// The status code, 100 to 599.
    pub status: u16,
    /// The reason phrase, perhaps empty.
    pub reason: &'b str,
    /// The header fields.
    pub fields: Fields<'b>,
}

/// Room for this many fields is on the stack, more is allocated: the default limit is 100.
const STACK_FIELDS: usize = 128;

/// Calls `parse` with room for `headers_max` fields.
fn with_room<'b, T>(
    headers_max: usize,
    parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> T,
) -> T {
    if headers_max <= STACK_FIELDS {
        let mut room = [const { MaybeUninit::uninit() }; STACK_FIELDS];
        parse(&mut room[..headers_max])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); headers_max])
    }
}

fn fields<'b>(headers: &[httparse::Header<'b>]) -> Fields<'b> {
    let field = |header: &httparse::Header<'b>| Field { name: header.name, value: header.value.trim_ascii() };
    Fields(headers.iter().map(field).collect())
}

/// Parses a request head that a [`Scanner`] has found the end of.
pub fn parse_request(bytes: &[u8], headers_max: usize) -> Result<RequestHead<'_>, Refusal> {
    with_room(headers_max, |room| {
        let mut request = httparse::Request::new(&mut []);
        match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, room) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => {
                return Err(Refusal::BadRequest("the request head is not complete"));
            }
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooManyHeaders),
            Err(_) if names_other_version(first_line(bytes)) => return Err(Refusal::HttpVersion),
            Err(_) if !names_version(first_line(bytes)) => return Err(Refusal::BadRequest(NO_VERSION)),
            Err(error) => return Err(Refusal::BadRequest(fault(error))),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(Refusal::BadRequest("not an HTTP request line"));
        };
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        Ok(RequestHead { method, target, version, fields: fields(request.headers) })
    })
}

/// Parses a response head that a [`Scanner`] has found the end of. What is wrong with it is the server's fault.
pub fn parse_response(bytes: &[u8], headers_max: usize) -> Result<ResponseHead<'_>, Fault> {
    with_room(headers_max, |room| {
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, bytes, room)
            .map_err(|error| match error {
                httparse::Error::TooManyHeaders => "the response has too many header fields",
                httparse::Error::Version => "the response is not HTTP/1.0 or HTTP/1.1",
                _ => "the response head is malformed",
            })?;
        let (httparse::Status::Complete(_), Some(minor), Some(status)) =
            (parsed, response.version, response.code)
        else {
            return Err("the response head is not complete");
        };
        if !(100..=599).contains(&status) {
            return Err("the response's status is no HTTP status");
        }
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let reason = response.reason.unwrap_or_default();
        Ok(ResponseHead { version, status, reason, fields: fields(response.headers) })
    })
}

/// What is wrong with a request line that [`names_version`] says no to.
pub const NO_VERSION: Fault = "the request line has no HTTP version";

fn first_line(head: &[u8]) -> &[u8] {
    head.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default()
}

/// Whether a request line ends in something like a version. One of HTTP/0.9 does not.
pub fn names_version(line: &[u8]) -> bool {
    let words = line.trim_ascii().rsplit(|&byte| byte == b' ');
    words.map(|word| word.starts_with(b"HTTP/")).next().unwrap_or_default()
}

/// Whether the request line ends in a well-formed version that is not ours (`PRI * HTTP/2.0` is one).
fn names_other_version(line: &[u8]) -> bool {
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some(&[major, b'.', minor]) => {
            let ours = major == b'1' && (minor == b'0' || minor == b'1');
            major.is_ascii_digit() && minor.is_ascii_digit() && !ours
        }
        Some(_) | None => false,
    }
}

fn fault(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::HeaderName => "a header field's name is malformed",
        httparse::Error::HeaderValue => "a header field's value is malformed",
        httparse::Error::Version => NO_VERSION,
        httparse::Error::Token => "the request line is malformed",
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::TooManyHeaders => {
            "the request head is malformed"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scanner's verdict, which must be the same for the bytes at once and one by one.
    fn scan(bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let whole = Scanner::default().scan(bytes);
        let mut scanner = Scanner::default();
        let mut dribbled = Ok(None);
        for end in 1..=bytes.len() {
            dribbled = scanner.scan(&bytes[..end]);
            if dribbled != Ok(None) {
                break;
            }
        }
        assert_eq!(whole, dribbled, "{:?}", String::from_utf8_lossy(bytes));
        whole
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        for (bytes, end) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Some(18)),
            (b"GET / HTTP/1.1\r\n\r\ntrailing\r\n\r\n", Some(18)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(27)),
            (b"\r\nGET / HTTP/1.1\r\n\r\n", Some(20)),
            (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Some(24)),
            (b"GET / HTTP/1.1\r\nA: b\tc\r\n\r\n", Some(26)),
            (b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n", Some(24)),
            (b"", None),
            (b"\r\n\r\n\r\n", None),
            (b"GET / HTTP/1.1\r\n\r", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
        ] {
            assert_eq!(scan(bytes), Ok(end), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_control_byte_is_found_wherever_it_stands() {
        for (length, around) in (0..=20).zip([b' ', b'~', 0x80, 0xff].into_iter().cycle()) {
            assert_eq!(before_control(&vec![around; length]), length, "none among {length} of {around}");
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    // What stands behind the first one must not matter.
                    let mut bytes = vec![0x7f; length];
                    bytes[..place].fill(around);
                    bytes[place] = byte;
                    let expected = if byte.is_ascii_control() { place } else { (place + 1).min(length) };
                    assert_eq!(before_control(&bytes), expected, "{byte} in place {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn what_two_readers_could_disagree_over_is_refused() {
        for (bytes, fault) in [
            (&b"GET / HTTP/1.1\n\n"[..], "an LF without CR in the head"),
            (b"\nGET / HTTP/1.1\r\n\r\n", "an LF without CR in the head"),
            (b"GET / HTTP/1.1\r\nA: b\n\r\n", "an LF without CR in the head"),
            (b"GET / HTTP/1.1\r\n\n", "an LF without CR in the head"),
            (b"GET / HTTP/1.1\rA: b\r\n\r\n", "a CR without LF in the head"),
            (b"GET / HTTP/1.1\r\r\n\r\n", "a CR without LF in the head"),
            (b"\rGET / HTTP/1.1\r\n\r\n", "a CR without LF in the head"),
            (b"GET / HTTP/1.1\r\n\rX", "a CR without LF in the head"),
            (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "a folded header field"),
            (b"GET / HTTP/1.1\r\n\tA: b\r\n\r\n", "a folded header field"),
            (b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", "a control character in the head"),
            (b"GET / HTTP/1.1\r\nA: \x0b\r\n\r\n", "a control character in the head"),
            (b"GET / HTTP/1.1\r\nA: \x7f\r\n\r\n", "a control character in the head"),
            (b"\x16\x03\x01\x02\x00", "a control character in the head"),
        ] {
            assert_eq!(scan(bytes), Err(fault), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_first_line_is_told_once_and_may_have_no_version() {
        let mut scanner = Scanner::default();
        let line = b"\r\nGET /\r\nHost: a\r\n";
        assert_eq!((scanner.scan(&line[..8]), scanner.found_first_line()), (Ok(None), None));
        assert_eq!((scanner.scan(line), scanner.found_first_line()), (Ok(None), Some(9)));
        assert_eq!((scanner.scan(line), scanner.found_first_line()), (Ok(None), None));
        assert!(!names_version(b"\r\nGET /\r\n"));
        assert!(!names_version(b"GET /HTTP/1.1\r\n"));
        assert!(names_version(b"GET / HTTP/1.1\r\n"));
        assert!(names_version(b"PRI * HTTP/2.0\r\n"));
    }

    fn refused(head: &str) -> Refusal {
        parse_request(head.as_bytes(), 100).expect_err(head)
    }

    #[test]
    fn a_request_is_read_into_its_parts() {
        let head =
            parse_request(b"GET /a?b HTTP/1.1\r\nHost: x\r\nList: a, b ,,\r\nlist: c\r\n\r\n", 100).unwrap();
        assert_eq!((head.method, head.target, head.version), ("GET", "/a?b", Version::Http11));
        assert_eq!(head.fields.once("Host"), Ok(Some(&b"x"[..])));
        assert_eq!(head.fields.once("LIST"), Err(Repeated));
        assert_eq!(head.fields.once("none"), Ok(None));
        assert_eq!(head.fields.list("list").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (head, refusal) in [
            ("GET / HTTP/2.0\r\n\r\n", Refusal::HttpVersion),
            ("PRI * HTTP/2.0\r\n\r\n", Refusal::HttpVersion),
            ("\r\nGET / HTTP/3.0\r\n\r\n", Refusal::HttpVersion),
            ("GET / HTTP/1.2\r\n\r\n", Refusal::HttpVersion),
            ("GET / HTTP/0.9\r\n\r\n", Refusal::HttpVersion),
            ("GET /\r\n\r\n", Refusal::BadRequest(NO_VERSION)),
            ("GET / http/1.1\r\n\r\n", Refusal::BadRequest("the request line has no HTTP version")),
            ("GET / HTTP/11\r\n\r\n", Refusal::BadRequest("the request line has no HTTP version")),
            ("GET  / HTTP/1.1\r\n\r\n", Refusal::BadRequest("the request line is malformed")),
            ("GET / HTTP/1.1 \r\n\r\n", Refusal::BadRequest("the request head is malformed")),
            ("G(T / HTTP/1.1\r\n\r\n", Refusal::BadRequest("the request line is malformed")),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", Refusal::BadRequest("a header field's name is malformed")),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", Refusal::BadRequest("a header field's name is malformed")),
            ("GET / HTTP/1.1\r\nA\r\n\r\n", Refusal::BadRequest("a header field's name is malformed")),
            ("GET / HTTP/1.1\r\nA(: b\r\n\r\n", Refusal::BadRequest("a header field's name is malformed")),
        ] {
            assert_eq!(refused(head), refusal, "{head:?}");
        }
    }

    #[test]
    fn fields_are_counted() {
        let head = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(n));
        for limit in [1, 100, STACK_FIELDS, STACK_FIELDS + 1, 1000] {
            assert!(parse_request(head(limit).as_bytes(), limit).is_ok(), "{limit}");
            assert_eq!(
                parse_request(head(limit + 1).as_bytes(), limit).unwrap_err(),
                Refusal::TooManyHeaders,
                "{limit}"
            );
        }
    }

    #[test]
    fn the_framing_is_said_once_and_clearly() {
        let check = |version: &str, fields: &str| {
            let text = format!("POST / HTTP/{version}\r\n{fields}\r\n");
            let head = parse_request(text.as_bytes(), 100).unwrap();
            framing(head.version, &head.fields)
        };
        assert_eq!(check("1.1", ""), Ok(Framing::Unsaid));
        assert_eq!(check("1.1", "Content-Length: 0\r\n"), Ok(Framing::Length(0)));
        assert_eq!(check("1.0", "content-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(check("1.1", "Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        let most = "Content-Length: 18446744073709551615\r\n";
        assert_eq!(check("1.1", most), Ok(Framing::Length(u64::MAX)));
        assert_eq!(check("1.1", "Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for (version, fields) in [
            ("1.1", "Content-Length: 5\r\nContent-Length: 6\r\n"),
            ("1.1", "Content-Length: 5, 5\r\n"),
            ("1.1", "Content-Length: +5\r\n"),
            ("1.1", "Content-Length: -5\r\n"),
            ("1.1", "Content-Length: 0x5\r\n"),
            ("1.1", "Content-Length: 5 5\r\n"),
            ("1.1", "Content-Length: \r\n"),
            ("1.1", "Content-Length: 18446744073709551616\r\n"),
            ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            ("1.1", "Transfer-Encoding: gzip\r\n"),
            ("1.1", "Transfer-Encoding: gzip, chunked\r\n"),
            ("1.1", "Transfer-Encoding: chunked, chunked\r\n"),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
            ("1.1", "Transfer-Encoding: xchunked\r\n"),
            ("1.1", "Transfer-Encoding: \r\n"),
            ("1.0", "Transfer-Encoding: chunked\r\n"),
        ] {
            assert!(check(version, fields).is_err(), "{version} {fields:?}");
        }
    }

    #[test]
    fn connection_names_what_is_left_out_but_never_what_matters() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, host, Cookie, upgrade\r\nX-Hop: 1\r\n\
                    connection: sec-websocket-key,x-forwarded-for\r\nCookie: c\r\nSec-WebSocket-Key: k\r\n\
                    X-Forwarded-For: f\r\nUpgrade: websocket\r\nTE: trailers\r\nX-Stays: 1\r\n\r\n";
        let head = parse_request(text.as_bytes(), 100).unwrap();
        let connection = Connection::read(&head.fields).unwrap();
        assert!(connection.upgrade);
        let names: Vec<_> = end_to_end(&head.fields, &connection).map(|field| field.name).collect();
        assert_eq!(names, ["Host", "Cookie", "Sec-WebSocket-Key", "X-Forwarded-For", "X-Stays"]);
    }

    #[test]
    fn a_response_is_read_or_refused() {
        let head = parse_response(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n", 100).unwrap();
        assert_eq!((head.version, head.status, head.reason), (Version::Http11, 101, "Switching Protocols"));
        assert_eq!(parse_response(b"HTTP/1.0 200\r\n\r\n", 100).unwrap().reason, "");
        for bytes in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "HTTP/1.1 600 High\r\n\r\n",
            "HTTP/1.1 2000 Long\r\n\r\n",
            "HTTP/1.1 abc No\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n",
        ] {
            assert!(parse_response(bytes.as_bytes(), 1).is_err(), "{bytes:?}");
        }
    }
}
