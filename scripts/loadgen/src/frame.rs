//! WebSocket frames (RFC 6455, 5.2): headers read and written, payloads masked. Pure: bytes in, bytes out.

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The longest header: two bytes, a length of eight and a mask key.
pub const HEADER_BYTES_MAX: usize = 14;
/// What a control frame may carry.
pub const CONTROL_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A header as it stands at the front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub fin: bool,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub payload_bytes: u64,
    /// The length of the header itself.
    pub bytes: usize,
}

/// Reads a header, or says that there is not enough of it yet.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("a reserved bit is set");
    }
    let (fin, opcode) = (first & FIN != 0, first & 0x0f);
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err("an unknown opcode");
    }
    let (payload_bytes, length_bytes) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            Some(length) => (length.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)), 2),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(length) => (length.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)), 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0),
    };
    if opcode >= CLOSE && (payload_bytes > CONTROL_BYTES_MAX as u64 || !fin) {
        return Err("a control frame that is too long or in pieces");
    }
    let mut end = 2 + length_bytes;
    let mut mask = None;
    if second & MASKED != 0 {
        let Some(key) = bytes.get(end..end + 4) else { return Ok(None) };
        mask = Some([key[0], key[1], key[2], key[3]]);
        end += 4;
    }
    Ok(Some(Header { fin, opcode, mask, payload_bytes, bytes: end }))
}

/// Writes the header of a frame that is a whole message to the front of `into`, and says how long it is.
pub fn write_header(into: &mut [u8], opcode: u8, mask: Option<[u8; 4]>, payload_bytes: usize) -> usize {
    write_raw_header(into, FIN | opcode, mask, payload_bytes)
}

/// The same, the whole first byte given: how a piece of a message is echoed as a piece.
pub fn write_raw_header(into: &mut [u8], first: u8, mask: Option<[u8; 4]>, payload_bytes: usize) -> usize {
    let masked = if mask.is_some() { MASKED } else { 0 };
    into[0] = first;
    let mut end = 2;
    if payload_bytes < 126 {
        into[1] = masked | payload_bytes as u8;
    } else if let Ok(length) = u16::try_from(payload_bytes) {
        into[1] = masked | 126;
        into[2..4].copy_from_slice(&length.to_be_bytes());
        end = 4;
    } else {
        into[1] = masked | 127;
        into[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
        end = 10;
    }
    if let Some(key) = mask {
        into[end..end + 4].copy_from_slice(&key);
        end += 4;
    }
    end
}

/// How long the header of a whole message of this length is.
pub fn header_bytes(payload_bytes: usize, is_masked: bool) -> usize {
    let length_bytes = match payload_bytes {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    2 + length_bytes + if is_masked { 4 } else { 0 }
}

/// Masks or unmasks, which is the same, eight bytes at a time.
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let wide = wide(key);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().expect("a chunk has eight bytes")) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// The same from one place to another of the same length.
pub fn mask_into(into: &mut [u8], from: &[u8], key: [u8; 4]) {
    debug_assert_eq!(into.len(), from.len(), "a payload and the place for it");
    let wide = wide(key);
    let (mut into, mut from) = (into.chunks_exact_mut(8), from.chunks_exact(8));
    for (into, from) in (&mut into).zip(&mut from) {
        let word = u64::from_ne_bytes(from.try_into().expect("a chunk has eight bytes")) ^ wide;
        into.copy_from_slice(&word.to_ne_bytes());
    }
    let rest = into.into_remainder().iter_mut().zip(from.remainder());
    for ((into, from), key) in rest.zip(key.into_iter().cycle()) {
        *into = from ^ key;
    }
}

fn wide(key: [u8; 4]) -> u64 {
    let key = u64::from(u32::from_ne_bytes(key));
    key << 32 | key
}

/// A whole frame in a buffer of its own.
pub fn frame(opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let header_bytes = write_header(&mut bytes, opcode, mask, payload.len());
    bytes.truncate(header_bytes);
    bytes.extend_from_slice(payload);
    if let Some(key) = mask {
        self::mask(&mut bytes[header_bytes..], key);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    #[test]
    fn the_rfc_s_own_examples() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame(TEXT, Some(KEY), b"Hello"), hello);
        assert_eq!(frame(TEXT, None, b"Hello"), b"\x81\x05Hello");
        assert_eq!(frame(BINARY, None, &[0; 256])[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(frame(BINARY, None, &[0; 65536])[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_written_is_read_and_each_byte_of_a_header_is_needed() {
        for mask in [None, Some(KEY)] {
            for payload_bytes in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 1 << 30] {
                let mut bytes = [0; HEADER_BYTES_MAX];
                let end = write_header(&mut bytes, BINARY, mask, payload_bytes);
                assert_eq!(end, header_bytes(payload_bytes, mask.is_some()));
                let header = Header {
                    fin: true,
                    opcode: BINARY,
                    mask,
                    payload_bytes: payload_bytes as u64,
                    bytes: end,
                };
                assert_eq!(parse(&bytes[..end]), Ok(Some(header)));
                for short in 0..end {
                    assert_eq!(parse(&bytes[..short]), Ok(None), "{short} of {end} bytes");
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(parse(&[0xc2, 0]).is_err(), "a reserved bit");
        assert!(parse(&[0x83, 0]).is_err(), "opcode 3");
        assert!(parse(&[0x88, 126, 0, 200]).is_err(), "a Close of 200 bytes");
        assert!(parse(&[0x09, 0]).is_err(), "a Ping in pieces");
    }

    #[test]
    fn masking_is_by_the_byte_at_every_length_and_undoes_itself() {
        let payload: Vec<u8> = (0..100).collect();
        for length in 0..payload.len() {
            let payload = &payload[..length];
            let by_hand: Vec<u8> = payload.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]).collect();
            let mut copied = vec![0; length];
            mask_into(&mut copied, payload, KEY);
            assert_eq!(copied, by_hand);
            mask(&mut copied, KEY);
            assert_eq!(copied, payload);
        }
    }
}
