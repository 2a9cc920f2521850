//! How far a message body reaches, and which of its bytes are passed on (RFC 9112, 6 and 7).
//!
//! A head has said how its body is framed; a [`Body`] is told the bytes behind it as they come, in whatever
//! pieces, and says where the last one is. It holds none of them: what is passed on stays in the slice that it
//! was shown, what is not is closed over.
//!
//! On the wire a chunked body is a row of chunks, one of size 0, trailer fields and an empty line:
//!
//! ```text
//! 5;seal=7f CRLF  hello CRLF  0 CRLF  Digest: x CRLF  CRLF
//! ```
//!
//! Two parties that disagree about where it ends see two different next messages, so the grammar is taken at its
//! word: nothing ends a line but CRLF, and nothing is a size but hexadecimal digits. Extensions and trailer
//! fields are for the next hop alone or may be dropped by it (RFC 9112, 7.1.1 and 7.1.2): they are checked,
//! bounded and dropped, so that whoever reads behind us has nothing to disagree about.
//!
//! It does not know whether a message may have a body at all, nor which framing its head asked for.

use super::head::{is_control, is_tchar};

/// Digits of a chunk size, leading zeros included: as many as a `u64` has, so a size cannot overflow.
pub const SIZE_DIGITS_MAX: u8 = 16;

/// Bytes between a chunk's size and the end of its line: the signature of a signed chunk takes about ninety.
pub const EXTENSION_BYTES_MAX: u16 = 256;

/// Bytes of extensions that a body may be ahead of its data. Each byte of data makes good for one of them, so a
/// long stream may have them for ever, and a peer that sends little else is refused after this many (the
/// default of `max_header_bytes`; endless extensions in tiny chunks are a known denial of service,
/// CVE-2023-39326).
pub const EXTENSION_EXCESS_BYTES_MAX: u16 = 16 * 1024;

/// The rule of the framing that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyError(pub &'static str);

/// How a chunked body is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Chunked still, without extensions and trailer fields.
    Pass,
    /// As its data alone: for an HTTP/1.0 client, who knows no chunks.
    Decode,
}

/// What of a slice is passed on, and what of it belonged to the body: `kept <= consumed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strained {
    /// Bytes to be passed on; they stand at the slice's front.
    pub kept: usize,
    /// Bytes that were looked at, of the slice as it was given. Fewer than all of them only when the body is
    /// complete; the bytes from there on are no part of it, and stand where they stood.
    pub consumed: usize,
}

/// How far a body reaches, from here on.
#[derive(Clone, Debug)]
pub enum Body {
    /// A known number of bytes.
    Length {
        /// How many are still to come.
        left: u64,
    },
    /// Chunks.
    Chunked(Chunked),
    /// All that comes until the source ends.
    UntilClose,
    /// All that came until the source ended.
    Closed,
}

/// A place in a chunked body.
#[derive(Clone, Debug)]
pub struct Chunked {
    place: Place,
    coding: Coding,
    extension_bytes_left: u16, // <= EXTENSION_EXCESS_BYTES_MAX
    trailer_bytes_left: u32,
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A digit of a size, or what may follow the last one. `digits <= SIZE_DIGITS_MAX`
    Size { size: u64, digits: u8 },
    /// More white space before an extension, or its semicolon.
    Space { size: u64, bytes: u16 },
    /// More of the extensions, or the line's CR.
    Extension { size: u64, bytes: u16 },
    /// The LF of the size's line.
    SizeLf { size: u64 },
    /// Data. `left > 0`
    Data { left: u64 },
    /// The CR behind a chunk's data.
    DataCr,
    /// The LF behind a chunk's data.
    DataLf,
    /// A trailer field, or the CR of the empty line.
    FieldStart,
    /// More of a trailer field's name, or its colon.
    FieldName,
    /// More of a trailer field's value, or the line's CR.
    FieldValue,
    /// The LF of a trailer field's line.
    FieldLf,
    /// The LF of the empty line.
    EndLf,
    /// Nothing.
    End,
}

/// What becomes of bytes of a chunked body.
enum Fate {
    /// Data: passed on.
    Data,
    /// Framing: passed on where the framing is.
    Framing,
    /// Of no concern to the next hop.
    Dropped,
}

impl Body {
    /// No body: complete from the beginning.
    pub fn none() -> Body {
        Body::length(0)
    }

    /// `n` bytes (`Content-Length`).
    pub fn length(n: u64) -> Body {
        Body::Length { left: n }
    }

    /// Chunks (`Transfer-Encoding: chunked`), whose trailer fields may have `trailer_bytes_max` bytes in all,
    /// line ends included.
    pub fn chunked(coding: Coding, trailer_bytes_max: u32) -> Body {
        Body::Chunked(Chunked {
            place: Place::Size { size: 0, digits: 0 },
            coding,
            extension_bytes_left: EXTENSION_EXCESS_BYTES_MAX,
            trailer_bytes_left: trailer_bytes_max,
        })
    }

    /// Whatever comes until the source ends: a response of neither framing.
    pub fn until_close() -> Body {
        Body::UntilClose
    }

    /// Looks at the bytes that came next from the source. Those that are to be passed on are moved together at
    /// the front of `bytes`; nothing is moved where nothing was dropped.
    ///
    /// An error is final: the message is broken, and what `bytes` then holds is not to be passed on.
    pub fn strain(&mut self, bytes: &mut [u8]) -> Result<Strained, BodyError> {
        match self {
            Body::Length { left } => {
                let run = run_bytes(*left, bytes);
                *left -= run as u64;
                Ok(Strained { kept: run, consumed: run })
            }
            Body::Chunked(chunked) => chunked.strain(bytes),
            Body::UntilClose => Ok(Strained { kept: bytes.len(), consumed: bytes.len() }),
            Body::Closed => Ok(Strained { kept: 0, consumed: 0 }),
        }
    }

    /// Whether the last byte has come. Until close: whether the source has ended.
    pub fn is_complete(&self) -> bool {
        match self {
            Body::Length { left } => *left == 0,
            Body::Chunked(chunked) => chunked.place == Place::End,
            Body::UntilClose => false,
            Body::Closed => true,
        }
    }

    /// Whether what is passed on has no framing of its own, so that only the close behind it tells where it ends.
    pub fn is_passed_until_close(&self) -> bool {
        match self {
            Body::Length { .. } => false,
            Body::Chunked(chunked) => chunked.coding == Coding::Decode,
            Body::UntilClose | Body::Closed => true,
        }
    }

    /// The source has ended: an error where bytes were still to come.
    pub fn source_ended(&mut self) -> Result<(), BodyError> {
        match self {
            Body::Length { left: 0 } | Body::Closed => Ok(()),
            Body::Length { .. } => Err(BodyError("the body is shorter than its Content-Length")),
            Body::Chunked(chunked) if chunked.place == Place::End => Ok(()),
            Body::Chunked(_) => Err(BodyError("the body ended before its last chunk")),
            Body::UntilClose => {
                *self = Body::Closed;
                Ok(())
            }
        }
    }
}

impl Chunked {
    fn strain(&mut self, bytes: &mut [u8]) -> Result<Strained, BodyError> {
        let mut strained = Strained { kept: 0, consumed: 0 };
        loop {
            let (run, fate) = self.pass(&bytes[strained.consumed..])?;
            if run == 0 {
                return Ok(strained);
            }
            if self.keeps(fate) {
                if strained.kept != strained.consumed {
                    bytes.copy_within(strained.consumed..strained.consumed + run, strained.kept);
                }
                strained.kept += run;
            }
            strained.consumed += run;
        }
    }

    fn keeps(&self, fate: Fate) -> bool {
        match (self.coding, fate) {
            (Coding::Pass | Coding::Decode, Fate::Data) | (Coding::Pass, Fate::Framing) => true,
            (Coding::Decode, Fate::Framing) | (Coding::Pass | Coding::Decode, Fate::Dropped) => false,
        }
    }

    /// Goes past the first bytes that share a fate: a run of data, or one byte of anything else. None where
    /// nothing is left, of the bytes or of the body.
    fn pass(&mut self, bytes: &[u8]) -> Result<(usize, Fate), BodyError> {
        let Some(&byte) = bytes.first() else { return Ok((0, Fate::Dropped)) };
        let (place, run, fate) = match self.place {
            Place::Size { size, digits } => match (byte, (byte as char).to_digit(16)) {
                (_, Some(_)) if digits == SIZE_DIGITS_MAX => {
                    return Err(BodyError("a chunk size has too many digits"));
                }
                (_, Some(digit)) => {
                    let size = size << 4 | u64::from(digit);
                    (Place::Size { size, digits: digits + 1 }, 1, Fate::Framing)
                }
                (_, None) if digits == 0 => return Err(BodyError("a chunk does not begin with its size")),
                (b'\r', None) => (Place::SizeLf { size }, 1, Fate::Framing),
                (b' ' | b'\t', None) => (Place::Space { size, bytes: self.extension(0)? }, 1, Fate::Dropped),
                (b';', None) => (Place::Extension { size, bytes: self.extension(0)? }, 1, Fate::Dropped),
                (_, None) => return Err(BodyError("a chunk size is not hexadecimal")),
            },
            Place::Space { size, bytes } => match byte {
                b' ' | b'\t' => (Place::Space { size, bytes: self.extension(bytes)? }, 1, Fate::Dropped),
                b';' => (Place::Extension { size, bytes: self.extension(bytes)? }, 1, Fate::Dropped),
                _ => return Err(BodyError("white space behind a chunk size, and no extension")),
            },
            Place::Extension { size, bytes } => match byte {
                b'\r' => (Place::SizeLf { size }, 1, Fate::Framing),
                _ if !is_control(byte) => {
                    (Place::Extension { size, bytes: self.extension(bytes)? }, 1, Fate::Dropped)
                }
                _ => return Err(BodyError("a control byte in a chunk extension")),
            },
            Place::SizeLf { size } => {
                expect(b'\n', byte, "the line of a chunk size does not end in CRLF")?;
                self.make_good(size);
                let place = if size == 0 { Place::FieldStart } else { Place::Data { left: size } };
                (place, 1, Fate::Framing)
            }
            Place::Data { left } => {
                let run = run_bytes(left, bytes);
                let left = left - run as u64;
                let place = if left == 0 { Place::DataCr } else { Place::Data { left } };
                (place, run, Fate::Data)
            }
            Place::DataCr => {
                expect(b'\r', byte, "the data of a chunk is longer than its size")?;
                (Place::DataLf, 1, Fate::Framing)
            }
            Place::DataLf => {
                expect(b'\n', byte, "the data of a chunk does not end in CRLF")?;
                (Place::Size { size: 0, digits: 0 }, 1, Fate::Framing)
            }
            Place::FieldStart => match byte {
                b'\r' => (Place::EndLf, 1, Fate::Framing),
                b' ' | b'\t' => return Err(BodyError("a trailer field is folded")),
                _ if is_tchar(byte) => (self.trailer(Place::FieldName)?, 1, Fate::Dropped),
                _ => return Err(BodyError("a trailer field has no valid name")),
            },
            Place::FieldName => match byte {
                b':' => (self.trailer(Place::FieldValue)?, 1, Fate::Dropped),
                _ if is_tchar(byte) => (self.trailer(Place::FieldName)?, 1, Fate::Dropped),
                _ => return Err(BodyError("a trailer field has no valid name")),
            },
            Place::FieldValue => match byte {
                b'\r' => (self.trailer(Place::FieldLf)?, 1, Fate::Dropped),
                _ if !is_control(byte) => (self.trailer(Place::FieldValue)?, 1, Fate::Dropped),
                _ => return Err(BodyError("a control byte in a trailer field")),
            },
            Place::FieldLf => {
                expect(b'\n', byte, "a trailer field does not end in CRLF")?;
                (self.trailer(Place::FieldStart)?, 1, Fate::Dropped)
            }
            Place::EndLf => {
                expect(b'\n', byte, "the trailer section does not end in CRLF")?;
                (Place::End, 1, Fate::Framing)
            }
            Place::End => (Place::End, 0, Fate::Dropped),
        };
        self.place = place;
        Ok((run, fate))
    }

    /// Counts a byte of extensions, the white space before them included; how many the chunk now has.
    fn extension(&mut self, bytes: u16) -> Result<u16, BodyError> {
        if bytes == EXTENSION_BYTES_MAX {
            return Err(BodyError("the extensions of a chunk are too long"));
        }
        match self.extension_bytes_left.checked_sub(1) {
            Some(left) => self.extension_bytes_left = left,
            None => return Err(BodyError("far more bytes of chunk extensions than of data")),
        }
        Ok(bytes + 1)
    }

    /// A chunk of this size pays for extensions, before and to come. Its data is not there yet, but no other
    /// extension can come ahead of it.
    fn make_good(&mut self, size: u64) {
        let left = size.saturating_add(u64::from(self.extension_bytes_left));
        self.extension_bytes_left = left.min(u64::from(EXTENSION_EXCESS_BYTES_MAX)) as u16;
    }

    /// Counts a byte of trailer fields, and goes on at `place`.
    fn trailer(&mut self, place: Place) -> Result<Place, BodyError> {
        match self.trailer_bytes_left.checked_sub(1) {
            Some(left) => self.trailer_bytes_left = left,
            None => return Err(BodyError("the trailer fields are too long")),
        }
        Ok(place)
    }
}

/// How many of `bytes` are among the next `left`.
fn run_bytes(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

fn expect(expected: u8, byte: u8, rule: &'static str) -> Result<(), BodyError> {
    if byte == expected { Ok(()) } else { Err(BodyError(rule)) }
}

/// All that comes of `bytes` in pieces of `piece` bytes: what is passed on, how many were consumed, and whether
/// that completed the body.
fn strain_in_pieces(mut body: Body, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), BodyError> {
    let (mut passed_on, mut consumed) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let strained = body.strain(&mut piece)?;
        assert!(strained.kept <= strained.consumed && strained.consumed <= piece.len());
        assert!(strained.consumed == piece.len() || body.is_complete(), "bytes left over by an open body");
        passed_on.extend_from_slice(&piece[..strained.kept]);
        consumed += strained.consumed;
    }
    Ok((passed_on, consumed, body.is_complete()))
}

/// The first byte picks the framing, the second the pieces; the rest is the body and what follows it.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let [framing, piece, bytes @ ..] = data else { return };
    let body = |coding| Body::chunked(coding, 64);
    let (body, decoded) = match framing % 4 {
        0 => (body(Coding::Pass), Some(body(Coding::Decode))),
        1 => (body(Coding::Decode), None),
        2 => (Body::length(bytes.len() as u64 / 2), None),
        _ => (Body::until_close(), None),
    };
    let whole = strain_in_pieces(body.clone(), bytes, bytes.len().max(1));
    assert_eq!(whole, strain_in_pieces(body.clone(), bytes, usize::from(piece % 16).max(1)));
    // What is passed on chunked is the same body, with nothing left in it to drop.
    if let (Ok((passed_on, _, complete)), Some(decoded)) = (&whole, decoded) {
        let again = strain_in_pieces(body, passed_on, 1);
        assert_eq!(again, Ok((passed_on.clone(), passed_on.len(), *complete)));
        let data = strain_in_pieces(decoded.clone(), bytes, 1).map(|(data, ..)| data);
        assert_eq!(data, strain_in_pieces(decoded, passed_on, 1).map(|(data, ..)| data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAILER_BYTES_MAX: u32 = 32;

    /// What a table says of some bytes: what is passed on, what follows the body, and whether it is complete.
    type Verdict = Result<(Vec<u8>, Vec<u8>, bool), BodyError>;

    /// What comes of bytes that arrive cut at `cuts`.
    fn strain_cut(mut body: Body, bytes: &[u8], cuts: &[usize]) -> Verdict {
        let (mut passed_on, mut rest) = (Vec::new(), Vec::new());
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        for (start, end) in starts.zip(ends) {
            let mut piece = bytes[start..end].to_vec();
            let Strained { kept, consumed } = body.strain(&mut piece)?;
            assert!(kept <= consumed && consumed <= piece.len());
            assert!(consumed == piece.len() || body.is_complete());
            assert!(rest.is_empty() || consumed == 0, "a complete body takes no more");
            passed_on.extend_from_slice(&piece[..kept]);
            rest.extend_from_slice(&piece[consumed..]);
        }
        Ok((passed_on, rest, body.is_complete()))
    }

    /// Whole, byte by byte, in every two pieces and in random ones.
    fn check(body: Body, bytes: &[u8], expected: Verdict) {
        let shown = bytes.escape_ascii();
        assert_eq!(strain_cut(body.clone(), bytes, &[]), expected, "{shown}");
        let every: Vec<usize> = (0..=bytes.len()).collect();
        assert_eq!(strain_cut(body.clone(), bytes, &every), expected, "{shown} byte by byte");
        for cut in every {
            assert_eq!(strain_cut(body.clone(), bytes, &[cut]), expected, "{shown} cut at {cut}");
        }
        let mut dice = fastrand::Rng::with_seed(9112);
        for _ in 0..50 {
            let mut cuts: Vec<usize> = (0..dice.usize(1..8)).map(|_| dice.usize(..=bytes.len())).collect();
            cuts.sort_unstable();
            assert_eq!(strain_cut(body.clone(), bytes, &cuts), expected, "{shown} cut at {cuts:?}");
        }
    }

    fn chunked(coding: Coding) -> Body {
        Body::chunked(coding, TRAILER_BYTES_MAX)
    }

    /// A complete chunked body: as it is passed on, and its data; with and without something behind it.
    fn whole(bytes: &str, passed_on: &str, data: &str) {
        for rest in ["", "\r\n", "GET / HTTP/1.1\r\n", "0\r\n\r\n"] {
            let all = [bytes, rest].concat();
            let verdict = |text: &str| Ok((text.into(), rest.into(), true));
            check(chunked(Coding::Pass), all.as_bytes(), verdict(passed_on));
            check(chunked(Coding::Decode), all.as_bytes(), verdict(data));
        }
        // No beginning of it is complete, nor broken.
        for end in 0..bytes.len() {
            let (_, rest, complete) =
                strain_cut(chunked(Coding::Pass), &bytes.as_bytes()[..end], &[]).unwrap();
            assert!(rest.is_empty() && !complete, "{bytes:?} up to {end}");
            let mut body = chunked(Coding::Pass);
            body.strain(&mut bytes.as_bytes()[..end].to_vec()).unwrap();
            assert_eq!(body.source_ended(), Err(BodyError("the body ended before its last chunk")));
        }
    }

    fn partly(bytes: &str, passed_on: &str, data: &str) {
        check(chunked(Coding::Pass), bytes.as_bytes(), Ok((passed_on.into(), vec![], false)));
        check(chunked(Coding::Decode), bytes.as_bytes(), Ok((data.into(), vec![], false)));
    }

    /// A broken chunked body: refused at its last byte, not before, and whatever follows.
    fn refused(bytes: impl AsRef<[u8]>, rule: &'static str) {
        let bytes = bytes.as_ref();
        for coding in [Coding::Pass, Coding::Decode] {
            check(chunked(coding), bytes, Err(BodyError(rule)));
            check(chunked(coding), &[bytes, b"\r\n0\r\n\r\n"].concat(), Err(BodyError(rule)));
            let before = strain_cut(chunked(coding), &bytes[..bytes.len() - 1], &[]);
            assert!(before.is_ok(), "{} is refused before its last byte", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_length_is_that_many_bytes() {
        check(Body::none(), b"", Ok((vec![], vec![], true)));
        check(Body::none(), b"GET", Ok((vec![], b"GET".to_vec(), true)));
        check(Body::length(3), b"", Ok((vec![], vec![], false)));
        check(Body::length(3), b"ab", Ok((b"ab".to_vec(), vec![], false)));
        check(Body::length(3), b"abc", Ok((b"abc".to_vec(), vec![], true)));
        check(Body::length(3), b"abcde", Ok((b"abc".to_vec(), b"de".to_vec(), true)));
        check(Body::length(u64::MAX), b"abc", Ok((b"abc".to_vec(), vec![], false)));
    }

    #[test]
    fn until_close_is_everything() {
        check(Body::until_close(), b"", Ok((vec![], vec![], false)));
        check(Body::until_close(), b"0\r\n\r\nabc", Ok((b"0\r\n\r\nabc".to_vec(), vec![], false)));
        check(Body::Closed, b"abc", Ok((vec![], b"abc".to_vec(), true)));
    }

    #[test]
    fn chunks_are_passed_on_or_decoded() {
        whole("0\r\n\r\n", "0\r\n\r\n", "");
        whole("5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "hello");
        whole("2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n", "2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n", "abcde");
        whole("A\r\n0123456789\r\n0\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\n", "0123456789");
        whole("a\r\n0123456789\r\n0\r\n\r\n", "a\r\n0123456789\r\n0\r\n\r\n", "0123456789");
        // Leading zeros stay, as the bytes stay in place.
        whole("0002\r\nab\r\n000\r\n\r\n", "0002\r\nab\r\n000\r\n\r\n", "ab");
        whole("0000000000000001\r\na\r\n0\r\n\r\n", "0000000000000001\r\na\r\n0\r\n\r\n", "a");
        whole("0000000000000000\r\n\r\n", "0000000000000000\r\n\r\n", "");
        // Data that looks like framing is data.
        whole("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n");
        partly("", "", "");
        partly("5\r\nhel", "5\r\nhel", "hel");
        partly("2\r\nab\r\n", "2\r\nab\r\n", "ab");
        partly("ffffffffffffffff\r\nab", "ffffffffffffffff\r\nab", "ab");
        partly("0\r\n", "0\r\n", "");
        partly("0\r\n\r", "0\r\n\r", "");
    }

    #[test]
    fn extensions_and_trailer_fields_are_dropped() {
        whole("1;\r\na\r\n0\r\n\r\n", "1\r\na\r\n0\r\n\r\n", "a");
        whole("1;a=b\r\na\r\n0;c\r\n\r\n", "1\r\na\r\n0\r\n\r\n", "a");
        whole("1 \t ;a = \"b;\\\"c\"; d\r\na\r\n0\t;c\r\n\r\n", "1\r\na\r\n0\r\n\r\n", "a");
        whole("1;\u{e9}\t\r\na\r\n0\r\n\r\n", "1\r\na\r\n0\r\n\r\n", "a");
        whole("1\r\na\r\n0\r\nA: b\r\n\r\n", "1\r\na\r\n0\r\n\r\n", "a");
        whole("1\r\na\r\n0\r\nA:\r\n~!:\tb \u{e9}\r\nA:::\r\n\r\n", "1\r\na\r\n0\r\n\r\n", "a");
        whole("0;x\r\nContent-Length: 3\r\n\r\n", "0\r\n\r\n", "");
        partly("1;abc", "1", "");
        partly("1;abc\r", "1\r", "");
        partly("0\r\nA: b\r\n", "0\r\n", "");
        partly("0\r\nA: b\r\n\r", "0\r\n\r", "");
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let no_size = "a chunk does not begin with its size";
        for first in ["\r", "\n", " ", "\t", ";", "+", "-", "x", "g", "G", "\0", "/", ":", "@", "`", "\u{e9}"]
        {
            refused(&first.as_bytes()[..1], no_size);
            refused([b"1\r\na\r\n", &first.as_bytes()[..1]].concat(), no_size);
        }
        let not_hexadecimal = "a chunk size is not hexadecimal";
        for behind in ["\n", "x", "g", "_", "-", ".", ",", "h", "\0", "\x0b", "\x0c", "\x7f", "\u{e9}"] {
            refused([b"0", &behind.as_bytes()[..1]].concat(), not_hexadecimal);
        }
        refused("0x", not_hexadecimal);
        refused("00000000000000000", "a chunk size has too many digits");
        refused("00000000000000001", "a chunk size has too many digits");
        refused("10000000000000000", "a chunk size has too many digits");
        refused("fffffffffffffffff", "a chunk size has too many digits");
        let line = "the line of a chunk size does not end in CRLF";
        for bytes in ["1\ra", "1\r\r", "1;a\ra", "1;a\r\r", "0\r0", "1;\r;"] {
            refused(bytes, line);
        }
        let space = "white space behind a chunk size, and no extension";
        for bytes in ["1 \r", "1\t\r", "1 \n", "1 1", "1 \t=", "1  \0"] {
            refused(bytes, space);
        }
        for bytes in ["1\r\na0", "1\r\naa", "1\r\na\n", "1\r\na ", "0002\r\nabc", "1\r\na;"] {
            refused(bytes, "the data of a chunk is longer than its size");
        }
        for bytes in ["1\r\na\r0", "1\r\na\r\r", "1\r\na\r "] {
            refused(bytes, "the data of a chunk does not end in CRLF");
        }
    }

    #[test]
    fn control_bytes_in_extensions_are_refused() {
        for byte in (0..b' ').chain([0x7f]).filter(|byte| !b"\t\r".contains(byte)) {
            refused([b"1;a", &[byte][..]].concat(), "a control byte in a chunk extension");
            refused([b"0 ;a=\"", &[byte][..]].concat(), "a control byte in a chunk extension");
        }
    }

    #[test]
    fn what_is_no_trailer_field_is_refused() {
        for byte in (0..=u8::MAX).filter(|&byte| !is_tchar(byte) && !b"\r \t".contains(&byte)) {
            refused([b"0\r\n", &[byte][..]].concat(), "a trailer field has no valid name");
            if byte != b':' {
                refused([b"0\r\nA", &[byte][..]].concat(), "a trailer field has no valid name");
            }
        }
        for bytes in ["0\r\nA ", "0\r\nA\t", "0\r\nA\r", "0\r\nA: b\r\n:"] {
            refused(bytes, "a trailer field has no valid name");
        }
        for bytes in ["0\r\n ", "0\r\n\t", "0\r\nA: b\r\n ", "0\r\nA: b\r\n\t"] {
            refused(bytes, "a trailer field is folded");
        }
        for byte in (0..b' ').chain([0x7f]).filter(|byte| !b"\t\r".contains(byte)) {
            refused([b"0\r\nA: b", &[byte][..]].concat(), "a control byte in a trailer field");
        }
        refused("0\r\nA: b\rc", "a trailer field does not end in CRLF");
        refused("0\r\nA: b\r\r", "a trailer field does not end in CRLF");
        refused("0\r\n\r0", "the trailer section does not end in CRLF");
        refused("0\r\nA: b\r\n\r\r", "the trailer section does not end in CRLF");
    }

    #[test]
    fn trailer_fields_are_bounded() {
        let value = "v".repeat(TRAILER_BYTES_MAX as usize - "A:\r\n".len());
        whole(&format!("0\r\nA:{value}\r\n\r\n"), "0\r\n\r\n", "");
        refused(format!("0\r\nAA:{value}\r\n"), "the trailer fields are too long");
        refused(format!("0\r\nA:{value}\r\nB"), "the trailer fields are too long");
        refused("0\r\n".to_string() + &"A:\r\n".repeat(8) + "A", "the trailer fields are too long");
        check(Body::chunked(Coding::Pass, 0), b"0\r\n\r\n", Ok((b"0\r\n\r\n".to_vec(), vec![], true)));
        check(Body::chunked(Coding::Pass, 0), b"0\r\nA", Err(BodyError("the trailer fields are too long")));
    }

    #[test]
    fn extensions_are_bounded() {
        let most = ";".repeat(usize::from(EXTENSION_BYTES_MAX));
        whole(&format!("1{most}\r\na\r\n0{most}\r\n\r\n"), "1\r\na\r\n0\r\n\r\n", "a");
        refused(format!("1{most};"), "the extensions of a chunk are too long");
        refused(format!("1 {most}"), "the extensions of a chunk are too long");
        refused("1 ".to_string() + &" ".repeat(most.len()), "the extensions of a chunk are too long");
    }

    #[test]
    fn endless_extensions_are_refused_where_the_data_does_not_make_good_for_them() {
        let most = ";".repeat(usize::from(EXTENSION_BYTES_MAX));
        let strain = |data: &str, chunks: usize| {
            let chunk = format!("{:x}{most}\r\n{data}\r\n", data.len());
            let mut bytes = chunk.repeat(chunks).into_bytes();
            chunked(Coding::Decode).strain(&mut bytes).map(|strained| strained.kept)
        };
        let ahead = usize::from(EXTENSION_EXCESS_BYTES_MAX / EXTENSION_BYTES_MAX);
        assert_eq!(strain("a", ahead), Ok(ahead));
        assert_eq!(strain("a", ahead + 1), Err(BodyError("far more bytes of chunk extensions than of data")));
        let data = "a".repeat(most.len());
        assert_eq!(strain(&data, 10 * ahead), Ok(10 * ahead * data.len()));
    }

    #[test]
    fn the_end_of_the_source_is_the_end_of_the_body_or_an_error() {
        let ended = |mut body: Body, bytes: &[u8]| {
            body.strain(&mut bytes.to_vec()).unwrap();
            let verdict = body.source_ended();
            assert_eq!(body.is_complete(), verdict.is_ok());
            verdict
        };
        assert_eq!(ended(Body::none(), b""), Ok(()));
        assert_eq!(ended(Body::length(2), b"ab"), Ok(()));
        let short = Err(BodyError("the body is shorter than its Content-Length"));
        assert_eq!(ended(Body::length(2), b"a"), short);
        assert_eq!(ended(Body::until_close(), b""), Ok(()));
        assert_eq!(ended(Body::until_close(), b"ab"), Ok(()));
        assert_eq!(ended(Body::Closed, b""), Ok(()));
        assert_eq!(ended(chunked(Coding::Pass), b"0\r\n\r\n"), Ok(()));
        let open = Err(BodyError("the body ended before its last chunk"));
        assert_eq!(ended(chunked(Coding::Pass), b""), open);
        assert_eq!(ended(chunked(Coding::Pass), b"5\r\nhello\r\n"), open);
        assert_eq!(ended(chunked(Coding::Decode), b"0\r\n"), open);
    }

    #[test]
    fn what_follows_the_body_stands_where_it_stood() {
        let mut bytes = *b"1;x\r\na\r\n0\r\nA: b\r\n\r\nnext";
        let strained = chunked(Coding::Decode).strain(&mut bytes).unwrap();
        assert_eq!((&bytes[..strained.kept], &bytes[strained.consumed..]), (&b"a"[..], &b"next"[..]));
    }

    #[test]
    fn a_body_is_small() {
        assert!(size_of::<Body>() <= 32, "{}", size_of::<Body>());
    }
}
