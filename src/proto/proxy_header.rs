//! The PROXY protocol's header, read and written: who the client is, said by the proxy before us, and by us to
//! the server (HAProxy's `doc/proxy-protocol.txt`; the sections named here are its own).
//!
//! It is the first thing on a connection, and says from where to where the connection goes that is proxied:
//!
//! ```text
//! version 1:  PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 CRLF
//! version 2:  signature (12), version and command (1), family and protocol (1), length of the rest (2),
//!             source address, destination address, source port, destination port, type-length-value vectors
//! ```
//!
//! Where it is demanded it is demanded of everyone, and a wrong byte is refused when it is there: somebody who
//! speaks HTTP to such a listener learns it at the first byte, not at a timeout. Nothing behind the header is
//! looked at. Whether the peer may say who its client is, is not known here: who asks for a header trusts
//! everyone who can connect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::plan::{ProxyHeaderIn, ProxyVersion};

/// The longest version 1 header, in bytes: the worst case of section 2.1, an `UNKNOWN` with two addresses.
pub const V1_BYTES_MAX: usize = 107;

/// The longest version 2 header that is taken, in bytes. The format has room for 64 KiB; this is nginx's limit,
/// so that whoever can talk to it can talk to us: both addresses and some certificate's worth of vectors.
pub const V2_BYTES_MAX: usize = 4096;

/// What a version 2 header begins with (2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes of a version 2 header up to its length field, and that.
const V2_FIXED_BYTES: usize = 16;

/// From where to where a proxied connection goes. Of an IPv6 address only the address and the port: flow
/// information and scope are not in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header: ask again with more bytes behind these.
    Incomplete,
    /// A whole header.
    Complete {
        /// Its length, at most [`V1_BYTES_MAX`] or [`V2_BYTES_MAX`]. What follows is the connection's own.
        header_bytes: usize,
        /// What it says; `None` where it says nothing that we use (`LOCAL`, `UNKNOWN`, a unix socket's client):
        /// the socket's own addresses count.
        endpoints: Option<Endpoints>,
    },
}

/// Why a header is not there yet, or never will be.
enum Halt {
    Incomplete,
    Refused(&'static str),
}

/// Reads the header at the front of `bytes`. An error is the rule that was broken, as soon as it is broken: a
/// byte that cannot stand where it stands, or a field that is not what it should be at the field's end.
pub fn parse(bytes: &[u8], accepted: ProxyHeaderIn) -> Result<Parsed, &'static str> {
    let mut cursor = Cursor { bytes, at: 0 };
    let parsed = match (bytes.first(), accepted) {
        (None, _) => Err(Halt::Incomplete),
        (Some(b'P'), ProxyHeaderIn::V1 | ProxyHeaderIn::Any) => v1(&mut cursor),
        (Some(b'\r'), ProxyHeaderIn::V2 | ProxyHeaderIn::Any) => v2(&mut cursor),
        (Some(_), ProxyHeaderIn::V1) => Err(Halt::Refused("no PROXY protocol header of version 1")),
        (Some(_), ProxyHeaderIn::V2) => Err(Halt::Refused("no PROXY protocol header of version 2")),
        (Some(_), ProxyHeaderIn::Any) => Err(Halt::Refused("no PROXY protocol header")),
    };
    match parsed {
        Ok(endpoints) => Ok(Parsed::Complete { header_bytes: cursor.at, endpoints }),
        Err(Halt::Incomplete) => Ok(Parsed::Incomplete),
        Err(Halt::Refused(rule)) => Err(rule),
    }
}

/// A header for `endpoints`; `None` where there are none to tell: `UNKNOWN` in version 1, `LOCAL` in version 2.
///
/// Both addresses of a header are of one family: where ours are not, the IPv4 one is written as IPv6
/// (`::ffff:192.0.2.1`, RFC 4291, 2.5.5.2).
pub fn write(version: ProxyVersion, endpoints: Option<Endpoints>) -> Vec<u8> {
    match (version, endpoints.map(of_one_family)) {
        (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyVersion::V1, Some((source, destination, ports))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {source} {destination} {} {}\r\n", ports[0], ports[1]).into_bytes()
        }
        (ProxyVersion::V2, None) => [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat(),
        (ProxyVersion::V2, Some((source, destination, ports))) => {
            let (family, length) = if source.is_ipv4() { (TCP4, 12) } else { (TCP6, 36) };
            let mut header = [&SIGNATURE[..], &[PROXY, family, 0, length]].concat();
            for address in [source, destination] {
                match address {
                    IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
                }
            }
            for port in ports {
                header.extend_from_slice(&port.to_be_bytes());
            }
            header
        }
    }
}

/// Source, destination and their ports, the addresses both IPv4 or both IPv6.
fn of_one_family(Endpoints { source, destination }: Endpoints) -> (IpAddr, IpAddr, [u16; 2]) {
    let ports = [source.port(), destination.port()];
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), destination @ IpAddr::V6(_)) => {
            (source.to_ipv6_mapped().into(), destination, ports)
        }
        (source @ IpAddr::V6(_), IpAddr::V4(destination)) => {
            (source, destination.to_ipv6_mapped().into(), ports)
        }
        (source, destination) => (source, destination, ports),
    }
}

/// Version 1 (2.1): a line of text.
fn v1(cursor: &mut Cursor<'_>) -> Result<Option<Endpoints>, Halt> {
    cursor.literal(b"PROXY ", "a PROXY line does not begin with \"PROXY \"")?;
    let address = match cursor.byte()? {
        b'T' => {
            cursor.literal(b"CP", NO_PROTOCOL)?;
            match cursor.byte()? {
                b'4' => IPV4,
                b'6' => IPV6,
                _ => return Err(Halt::Refused(NO_PROTOCOL)),
            }
        }
        b'U' => {
            cursor.literal(b"NKNOWN", NO_PROTOCOL)?;
            return unknown(cursor);
        }
        _ => return Err(Halt::Refused(NO_PROTOCOL)),
    };
    cursor.literal(b" ", NO_PROTOCOL)?;
    let source = cursor.field(&address, b' ')?;
    let destination = cursor.field(&address, b' ')?;
    let source_port = cursor.field(&PORT, b' ')?;
    let destination_port = cursor.field(&PORT, b'\r')?;
    cursor.literal(b"\n", NO_LINE_END)?;
    Ok(Some(Endpoints {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    }))
}

/// The rest of an `UNKNOWN` line: anything up to CRLF, but for other line ends.
fn unknown(cursor: &mut Cursor<'_>) -> Result<Option<Endpoints>, Halt> {
    match cursor.byte()? {
        b' ' => loop {
            match cursor.byte()? {
                b'\r' => break,
                b'\n' => return Err(Halt::Refused(NO_LINE_END)),
                _ if cursor.at > V1_BYTES_MAX - 2 => return Err(Halt::Refused("a PROXY line is too long")),
                _ => {}
            }
        },
        b'\r' => {}
        _ => return Err(Halt::Refused(NO_PROTOCOL)),
    }
    cursor.literal(b"\n", NO_LINE_END)?;
    Ok(None)
}

const NO_PROTOCOL: &str = "the protocol of a PROXY line is not TCP4, TCP6 or UNKNOWN";
const NO_LINE_END: &str = "a PROXY line does not end in CRLF";

/// A kind of field in a version 1 line.
struct Field<T> {
    bytes_max: usize,
    holds: fn(u8) -> bool,
    read: fn(&str) -> Option<T>,
    rule: &'static str,
}

/// Four numbers without leading zeros, which the standard library refuses too.
const IPV4: Field<IpAddr> = Field {
    bytes_max: "255.255.255.255".len(),
    holds: |byte| matches!(byte, b'0'..=b'9' | b'.'),
    read: |text| text.parse().ok().map(IpAddr::V4),
    rule: "an address of a TCP4 line is no IPv4 address",
};

/// Groups of digits; the last two also as an IPv4 address, as most systems write a mapped one.
const IPV6: Field<IpAddr> = Field {
    bytes_max: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".len(),
    holds: |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' | b':' | b'.'),
    read: |text| text.parse().ok().map(IpAddr::V6),
    rule: "an address of a TCP6 line is no IPv6 address",
};

/// A number without leading zeros.
const PORT: Field<u16> = Field {
    bytes_max: "65535".len(),
    holds: |byte| byte.is_ascii_digit(),
    read: |text| if text.len() > 1 && text.starts_with('0') { None } else { text.parse().ok() },
    rule: "a port of a PROXY line is no number up to 65535",
};

/// Version 2 (2.2): the fixed part, addresses, vectors.
fn v2(cursor: &mut Cursor<'_>) -> Result<Option<Endpoints>, Halt> {
    cursor.literal(SIGNATURE, "the signature of a binary PROXY header is broken")?;
    let command = cursor.byte()?;
    match command {
        LOCAL | PROXY => {}
        0x22..=0x2f => return Err(Halt::Refused("a binary PROXY header is neither LOCAL nor PROXY")),
        _ => return Err(Halt::Refused("a binary PROXY header is not of version 2")),
    }
    let family = cursor.byte()?;
    let block = match (command, family) {
        (LOCAL, _) | (_, 0x00 | 0x01) => Block::Skipped,
        (_, TCP4) => Block::Ipv4,
        (_, TCP6) => Block::Ipv6,
        (_, UNIX) => Block::Unix,
        (_, 0x02 | 0x12 | 0x22 | 0x32) => {
            return Err(Halt::Refused("a binary PROXY header is for datagrams"));
        }
        _ => return Err(Halt::Refused("the family of a binary PROXY header is not assigned")),
    };
    let length = usize::from(u16::from_be_bytes(cursor.array()?));
    if length > V2_BYTES_MAX - V2_FIXED_BYTES {
        return Err(Halt::Refused("a binary PROXY header is too long"));
    }
    if length < block.address_bytes() {
        return Err(Halt::Refused("a binary PROXY header is too short for its addresses"));
    }
    let mut rest = Cursor { bytes: cursor.take(length)?, at: 0 };
    let endpoints = match block {
        Block::Skipped => return Ok(None),
        Block::Ipv4 => Some(rest.endpoints::<4, Ipv4Addr>()?),
        Block::Ipv6 => Some(rest.endpoints::<16, Ipv6Addr>()?),
        Block::Unix => None,
    };
    check_vectors(&rest.bytes[block.address_bytes()..])?;
    Ok(endpoints)
}

/// Version 2 and its two commands.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Families over a stream.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;

/// What stands behind the fixed part of a version 2 header.
enum Block {
    /// Nothing that we use, in whatever form: `LOCAL`, or a family that is not told.
    Skipped,
    /// Two IPv4 addresses and their ports, then vectors.
    Ipv4,
    /// Two IPv6 addresses and their ports, then vectors.
    Ipv6,
    /// Two paths, which we have no use for, then vectors.
    Unix,
}

impl Block {
    fn address_bytes(&self) -> usize {
        match self {
            Block::Skipped => 0,
            Block::Ipv4 => 2 * 4 + 2 * 2,
            Block::Ipv6 => 2 * 16 + 2 * 2,
            Block::Unix => 2 * 108,
        }
    }
}

/// Type-length-value vectors (2.2.1 to 2.2.8): each must be whole, none is used. The checksum that may be among
/// them (2.2.3) is not verified: that is asked only of receivers that support it, and TCP has one of its own.
fn check_vectors(mut vectors: &[u8]) -> Result<(), Halt> {
    let broken = Halt::Refused("a vector of a binary PROXY header is longer than the header");
    while let [_type, high, low, values @ ..] = vectors {
        match values.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(next) => vectors = next,
            None => return Err(broken),
        }
    }
    if vectors.is_empty() { Ok(()) } else { Err(broken) }
}

/// The bytes that are there, and how many of them were read.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize, // <= bytes.len()
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, Halt> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Halt> {
        let array = self.bytes[self.at..].first_chunk().ok_or(Halt::Incomplete)?;
        self.at += N;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Halt> {
        let taken = self.bytes[self.at..].get(..length).ok_or(Halt::Incomplete)?;
        self.at += length;
        Ok(taken)
    }

    fn literal(&mut self, expected: &[u8], rule: &'static str) -> Result<(), Halt> {
        for expected in expected {
            if self.byte()? != *expected {
                return Err(Halt::Refused(rule));
            }
        }
        Ok(())
    }

    /// A field of a version 1 line, and the byte behind it.
    fn field<T>(&mut self, field: &Field<T>, end: u8) -> Result<T, Halt> {
        let start = self.at;
        loop {
            let byte = self.byte()?;
            let text = &self.bytes[start..self.at - 1];
            if byte == end {
                let read = std::str::from_utf8(text).ok().and_then(field.read);
                return read.ok_or(Halt::Refused(field.rule));
            }
            if !(field.holds)(byte) || text.len() == field.bytes_max {
                return Err(Halt::Refused(field.rule));
            }
        }
    }

    /// The addresses of a version 2 header, N bytes each.
    fn endpoints<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(&mut self) -> Result<Endpoints, Halt> {
        let (source, destination) = (A::from(self.array()?), A::from(self.array()?));
        let (source_port, destination_port) = (self.array()?, self.array()?);
        Ok(Endpoints {
            source: SocketAddr::new(source.into(), u16::from_be_bytes(source_port)),
            destination: SocketAddr::new(destination.into(), u16::from_be_bytes(destination_port)),
        })
    }
}

/// What is a header is one at its last byte and not before, and says the same when we write it.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    for accepted in [ProxyHeaderIn::V1, ProxyHeaderIn::V2, ProxyHeaderIn::Any] {
        let Ok(Parsed::Complete { header_bytes, endpoints }) = parse(data, accepted) else { continue };
        assert_eq!(parse(&data[..header_bytes], accepted), parse(data, accepted));
        for end in 0..header_bytes {
            assert_eq!(parse(&data[..end], accepted), Ok(Parsed::Incomplete));
        }
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let again = write(version, endpoints);
            let expected = Parsed::Complete { header_bytes: again.len(), endpoints };
            assert_eq!(parse(&again, ProxyHeaderIn::Any), Ok(expected));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ProxyHeaderIn; 3] = [ProxyHeaderIn::V1, ProxyHeaderIn::V2, ProxyHeaderIn::Any];

    fn endpoints(source: &str, destination: &str) -> Option<Endpoints> {
        Some(Endpoints { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    /// A header of one version: taken where that is accepted, whatever follows it, and at its last byte.
    fn taken(header: &[u8], own: ProxyHeaderIn, expected: Option<Endpoints>) {
        let shown = header.escape_ascii();
        let complete = Ok(Parsed::Complete { header_bytes: header.len(), endpoints: expected });
        for accepted in [own, ProxyHeaderIn::Any] {
            for behind in
                [&b""[..], b"GET / HTTP/1.1\r\n", b"\r\n", b"PROXY TCP4", b"\r\n\r\n\0\r\nQUIT\n", &[0; 9]]
            {
                assert_eq!(parse(&[header, behind].concat(), accepted), complete, "{shown}");
            }
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end], accepted), Ok(Parsed::Incomplete), "{shown} up to {end}");
            }
        }
        for accepted in ALL.into_iter().filter(|&accepted| accepted != own && accepted != ProxyHeaderIn::Any)
        {
            assert!(parse(&header[..1], accepted).is_err(), "{shown} for {accepted:?}");
            assert!(parse(header, accepted).is_err(), "{shown} for {accepted:?}");
        }
    }

    fn v1_taken(line: &str, expected: Option<Endpoints>) {
        taken(line.as_bytes(), ProxyHeaderIn::V1, expected);
    }

    fn v2_taken(command: u8, family: u8, block: &[u8], expected: Option<Endpoints>) {
        taken(&v2_header(command, family, block), ProxyHeaderIn::V2, expected);
    }

    fn v2_header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family, high, low][..], block].concat()
    }

    /// Refused at the last byte, not before; and whatever follows.
    fn refused(bytes: &[u8], own: ProxyHeaderIn, rule: &str) {
        let shown = bytes.escape_ascii();
        for accepted in [own, ProxyHeaderIn::Any] {
            assert_eq!(parse(bytes, accepted), Err(rule), "{shown}");
            assert_eq!(parse(&[bytes, b"\r\n"].concat(), accepted), Err(rule), "{shown} and more");
            let before = &bytes[..bytes.len() - 1];
            assert_eq!(parse(before, accepted), Ok(Parsed::Incomplete), "{shown} is refused too early");
        }
    }

    fn v1_refused(line: &str, rule: &str) {
        refused(line.as_bytes(), ProxyHeaderIn::V1, rule);
    }

    fn v2_refused(bytes: &[u8], rule: &str) {
        refused(bytes, ProxyHeaderIn::V2, rule);
    }

    #[test]
    fn a_line_is_taken() {
        let v4 = endpoints("192.0.2.1:56324", "198.51.100.7:443");
        v1_taken("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", v4);
        let least = endpoints("0.0.0.0:0", "0.0.0.0:0");
        v1_taken("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", least);
        let most = endpoints("255.255.255.255:65535", "255.255.255.255:65535");
        v1_taken("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", most);
        v1_taken("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", endpoints("[2001:db8::1]:1", "[::1]:65535"));
        v1_taken("PROXY TCP6 :: 2001:DB8::A 0 80\r\n", endpoints("[::]:0", "[2001:db8::a]:80"));
        v1_taken(
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
             ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            endpoints(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        );
        let mapped = endpoints("[::ffff:192.0.2.1]:1", "[::ffff:255.255.255.255]:2");
        v1_taken("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:255.255.255.255 1 2\r\n", mapped);
    }

    #[test]
    fn an_unknown_line_is_taken_and_says_nothing() {
        v1_taken("PROXY UNKNOWN\r\n", None);
        v1_taken("PROXY UNKNOWN \r\n", None);
        v1_taken("PROXY UNKNOWN 192.0.2.1 198.51.100.7 56324 443\r\n", None);
        v1_taken("PROXY UNKNOWN \0 any \u{e9} thing\t\r\n", None);
        v1_taken(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 16)), None);
        v1_refused(&format!("PROXY UNKNOWN {}", "x".repeat(V1_BYTES_MAX - 15)), "a PROXY line is too long");
        for line in ["PROXY UNKNOWN\rX", "PROXY UNKNOWN\r\r", "PROXY UNKNOWN x\n", "PROXY UNKNOWN x\r\r"] {
            v1_refused(line, NO_LINE_END);
        }
        v1_refused("PROXY UNKNOWNS", NO_PROTOCOL);
        v1_refused("PROXY UNKNOWN\n", NO_PROTOCOL);
        v1_refused("PROXY UNKNOWN\t", NO_PROTOCOL);
    }

    #[test]
    fn a_line_that_is_none_is_refused_at_its_first_wrong_byte() {
        for line in ["PO", "PROXY\t", "PROXY\r", "PROX ", "Pr", "PROXY4", "PUT", "POST"] {
            let wrong = line.bytes().zip(*b"PROXY ").take_while(|(byte, expected)| byte == expected).count();
            v1_refused(&line[..=wrong], "a PROXY line does not begin with \"PROXY \"");
        }
        for protocol in
            ["t", " ", "\r", "\n", "TC4", "TCp", "TCP5", "TCP ", "TCP4\t", "TCP4\r", "TCP46", "UD", "u"]
        {
            let good = |end: &usize| {
                ["TCP4 ", "TCP6 ", "UNKNOWN"].iter().any(|known| known.starts_with(&protocol[..*end]))
            };
            let wrong = (0..protocol.len()).take_while(|end| good(&(end + 1))).count();
            v1_refused(&format!("PROXY {}", &protocol[..=wrong]), NO_PROTOCOL);
        }
    }

    #[test]
    fn addresses_of_a_line_are_of_its_family_and_canonical() {
        let bad = [
            " ",
            "1 ",
            "1.2.3 ",
            "1.2.3.4.5 ",
            "1.2.3. ",
            ".1.2.3.4 ",
            "1..2.3 ",
            "256.1.1.1 ",
            "1.2.3.04 ",
            "01.2.3.4 ",
            "00.0.0.0 ",
            "1.2.3.4\r",
            "1.2.3.4\n",
            "1.2.3.4\t",
            "1.2.3.4/",
            "-",
            "+",
            "a",
            ":",
            "x",
            "\u{7f}",
            "255.255.255.2555",
            "1234567890123456",
            "0x",
        ];
        for address in bad {
            v1_refused(&format!("PROXY TCP4 {address}"), IPV4.rule);
            v1_refused(&format!("PROXY TCP4 192.0.2.1 {address}"), IPV4.rule);
        }
        let bad = [
            " ",
            ": ",
            "1 ",
            "1:2:3:4:5:6:7 ",
            "1:2:3:4:5:6:7:8:9 ",
            "::1:: ",
            "::: ",
            "12345:: ",
            "1.2.3.4 ",
            "::1\r",
            "::1%",
            "[",
            "g",
            "::1/",
            "::1\n",
            "::1\0",
            "::ffff:1.2.3.04 ",
            "::1.2.3 ",
            "::256.1.1.1 ",
            "1111:2222:3333:4444:5555:6666:7777:88889",
        ];
        for address in bad {
            v1_refused(&format!("PROXY TCP6 {address}"), IPV6.rule);
            v1_refused(&format!("PROXY TCP6 ::1 {address}"), IPV6.rule);
        }
    }

    #[test]
    fn ports_of_a_line_are_canonical_numbers() {
        for port in ["", "65536", "99999", "00", "01", "080"] {
            v1_refused(&format!("PROXY TCP4 1.2.3.4 1.2.3.4 {port} "), PORT.rule);
            v1_refused(&format!("PROXY TCP6 ::1 ::1 1 {port}\r"), PORT.rule);
        }
        for port in ["+", "-", "a", "1.", "1\t", "1\n", "1\0", "655350", "000000"] {
            v1_refused(&format!("PROXY TCP4 1.2.3.4 1.2.3.4 {port}"), PORT.rule);
            v1_refused(&format!("PROXY TCP6 ::1 ::1 1 {port}"), PORT.rule);
        }
        v1_refused("PROXY TCP4 1.2.3.4 1.2.3.4 1\r", PORT.rule);
        v1_refused("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 ", PORT.rule);
        v1_refused("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r", NO_LINE_END);
        v1_refused("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rG", NO_LINE_END);
    }

    /// 192.0.2.1:56324 to 198.51.100.7:443.
    const V4_BLOCK: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb];

    /// [2001:db8::1]:1 to [::1]:65535.
    const V6_BLOCK: [u8; 36] = [
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, //
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0xff, 0xff,
    ];

    #[test]
    fn a_binary_header_is_taken() {
        let v4 = endpoints("192.0.2.1:56324", "198.51.100.7:443");
        v2_taken(0x21, 0x11, &V4_BLOCK, v4);
        v2_taken(0x21, 0x21, &V6_BLOCK, endpoints("[2001:db8::1]:1", "[::1]:65535"));
        v2_taken(0x21, 0x31, &[b'/'; 216], None);
        v2_taken(0x21, 0x00, b"", None);
        v2_taken(0x21, 0x00, b"whatever", None);
        v2_taken(0x21, 0x01, b"", None);
        v2_taken(0x20, 0x00, b"", None);
        // LOCAL: the family and what follows are not looked at.
        v2_taken(0x20, 0x11, &V4_BLOCK, None);
        v2_taken(0x20, 0x11, b"short", None);
        v2_taken(0x20, 0xff, &[0xff; 300], None);
    }

    #[test]
    fn vectors_are_skipped_where_they_are_whole() {
        let v4 = endpoints("192.0.2.1:56324", "198.51.100.7:443");
        let vectors: [&[u8]; 6] = [
            &[0x04, 0, 0],
            &[0x01, 0, 2, b'h', b'2', 0x04, 0, 0],
            &[0x02, 0, 3, b'a', b'.', b'b'],
            &[0x03, 0, 4, 1, 2, 3, 4], // a checksum that is wrong: not verified
            &[0x20, 0, 5, 1, 0, 0, 0, 0],
            &[0xff, 0, 1, 0, 0xe0, 0, 0],
        ];
        for vectors in vectors {
            v2_taken(0x21, 0x11, &[&V4_BLOCK, vectors].concat(), v4);
            v2_taken(0x21, 0x31, &[&[0; 216], vectors].concat(), None);
        }
        let broken: [&[u8]; 6] =
            [&[4], &[4, 0], &[4, 0, 1], &[4, 1, 0, 0], &[4, 0xff, 0xff, 0], &[4, 0, 0, 4, 0, 1]];
        for vectors in broken {
            let rule = "a vector of a binary PROXY header is longer than the header";
            v2_refused(&v2_header(0x21, 0x11, &[&V4_BLOCK, vectors].concat()), rule);
            v2_refused(&v2_header(0x21, 0x21, &[&V6_BLOCK, vectors].concat()), rule);
            v2_refused(&v2_header(0x21, 0x31, &[&[0; 216], vectors].concat()), rule);
        }
    }

    #[test]
    fn a_binary_header_is_bounded() {
        let rest = V2_BYTES_MAX - V2_FIXED_BYTES;
        let mut vector = [&V4_BLOCK[..], &[4], &(rest as u16 - 15).to_be_bytes()].concat();
        vector.resize(rest, 0);
        v2_taken(0x21, 0x11, &vector, endpoints("192.0.2.1:56324", "198.51.100.7:443"));
        v2_taken(0x20, 0x00, &vector, None);
        for length in [rest as u16 + 1, u16::MAX] {
            for (command, family) in [(0x20, 0x00), (0x21, 0x00), (0x21, 0x11), (0x21, 0x31)] {
                let fixed = [SIGNATURE, &[command, family][..], &length.to_be_bytes()].concat();
                v2_refused(&fixed, "a binary PROXY header is too long");
            }
        }
    }

    #[test]
    fn a_binary_header_is_refused_at_its_first_wrong_byte() {
        for end in 1..SIGNATURE.len() {
            let bytes = [&SIGNATURE[..end], &[SIGNATURE[end] ^ 1]].concat();
            v2_refused(&bytes, "the signature of a binary PROXY header is broken");
        }
        for command in 0..=u8::MAX {
            let bytes = [&SIGNATURE[..], &[command]].concat();
            match command {
                0x20 | 0x21 => assert_eq!(parse(&bytes, ProxyHeaderIn::V2), Ok(Parsed::Incomplete)),
                0x22..=0x2f => v2_refused(&bytes, "a binary PROXY header is neither LOCAL nor PROXY"),
                _ => v2_refused(&bytes, "a binary PROXY header is not of version 2"),
            }
        }
        for family in 0..=u8::MAX {
            let bytes = [&SIGNATURE[..], &[0x21, family]].concat();
            match family {
                0x00 | 0x01 | 0x11 | 0x21 | 0x31 => {
                    assert_eq!(parse(&bytes, ProxyHeaderIn::V2), Ok(Parsed::Incomplete));
                }
                0x02 | 0x12 | 0x22 | 0x32 => v2_refused(&bytes, "a binary PROXY header is for datagrams"),
                _ => v2_refused(&bytes, "the family of a binary PROXY header is not assigned"),
            }
        }
        for (family, length) in
            [(0x11, 0), (0x11, 11), (0x21, 0), (0x21, 12), (0x21, 35), (0x31, 0), (0x31, 215)]
        {
            let fixed = [SIGNATURE, &[0x21, family, 0, length][..]].concat();
            v2_refused(&fixed, "a binary PROXY header is too short for its addresses");
        }
    }

    #[test]
    fn what_speaks_something_else_is_refused_at_its_first_byte() {
        for first in 0..=u8::MAX {
            let parsed = ALL.map(|accepted| parse(&[first], accepted));
            let (v1, v2) = ("no PROXY protocol header of version 1", "no PROXY protocol header of version 2");
            let expected = match first {
                b'P' => [Ok(Parsed::Incomplete), Err(v2), Ok(Parsed::Incomplete)],
                b'\r' => [Err(v1), Ok(Parsed::Incomplete), Ok(Parsed::Incomplete)],
                _ => [Err(v1), Err(v2), Err("no PROXY protocol header")],
            };
            assert_eq!(parsed, expected, "{first}");
        }
    }

    #[test]
    fn a_header_is_written() {
        let v4 = endpoints("192.0.2.1:56324", "198.51.100.7:443");
        assert_eq!(write(ProxyVersion::V1, v4), b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n");
        assert_eq!(write(ProxyVersion::V2, v4), v2_header(0x21, 0x11, &V4_BLOCK));
        let v6 = endpoints("[2001:db8::1]:1", "[::1]:65535");
        assert_eq!(write(ProxyVersion::V1, v6), b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
        assert_eq!(write(ProxyVersion::V2, v6), v2_header(0x21, 0x21, &V6_BLOCK));
        assert_eq!(write(ProxyVersion::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(write(ProxyVersion::V2, None), v2_header(0x20, 0x00, b""));
        // One of each: both as IPv6.
        let mixed = write(ProxyVersion::V1, endpoints("192.0.2.1:1", "[::1]:2"));
        assert_eq!(mixed, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n");
        let mixed = write(ProxyVersion::V1, endpoints("[::1]:1", "192.0.2.1:2"));
        assert_eq!(mixed, b"PROXY TCP6 ::1 ::ffff:192.0.2.1 1 2\r\n");
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let mut dice = fastrand::Rng::with_seed(107);
        let mut address = || -> SocketAddr {
            let octets = dice.u128(..) >> [0, 0, 64, 112][dice.usize(..4)];
            let ip: IpAddr = match dice.usize(..3) {
                0 => Ipv4Addr::from(octets as u32).into(),
                1 => Ipv4Addr::from(octets as u32).to_ipv6_mapped().into(),
                _ => Ipv6Addr::from(octets).into(),
            };
            SocketAddr::new(ip, dice.u16(..))
        };
        for _ in 0..10_000 {
            let told = Endpoints { source: address(), destination: address() };
            let mapped = |address: SocketAddr| match address.ip() {
                IpAddr::V4(v4) if told.source.is_ipv4() != told.destination.is_ipv4() => {
                    SocketAddr::new(v4.to_ipv6_mapped().into(), address.port())
                }
                _ => address,
            };
            let expected = Endpoints { source: mapped(told.source), destination: mapped(told.destination) };
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let header = write(version, Some(told));
                let complete = Parsed::Complete { header_bytes: header.len(), endpoints: Some(expected) };
                assert_eq!(parse(&header, ProxyHeaderIn::Any), Ok(complete), "{}", header.escape_ascii());
            }
        }
    }
}
