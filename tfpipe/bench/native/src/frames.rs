//! The few parts of HTTP/2 (RFC 9113) and HPACK (RFC 7541) that the load generator writes and reads.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

/// Flags of a frame.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// Every frame begins with this many bytes.
pub const HEAD_BYTES: usize = 9;
/// A server accepts frames up to this size unless its settings say otherwise.
pub const MAX_FRAME_BYTES: usize = 16_384;
/// Before either side sends a WINDOW_UPDATE, the other may send this many bytes of DATA.
pub const FIRST_WINDOW: u32 = 65_535;
/// The largest window. Stream numbers and window sizes are 31 bits; the top bit of their four bytes is reserved.
pub const MAX_WINDOW: u32 = (1 << 31) - 1;
/// HPACK writes the length of a string up to this in one byte.
pub const MAX_TEXT_BYTES: usize = 126;

/// The first nine bytes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// Reads the head at the start of `bytes`, or returns None if it has not arrived whole.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Head {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_WINDOW,
        })
    }

    /// Tells whether this is the last frame of its stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// Appends a frame to `out`.
pub fn add_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

/// The name of a header.
pub enum Name {
    /// Its index in HPACK's static table.
    Known(u8),
    New(&'static str),
}

/// Appends a header that the server does not add to its table (RFC 7541, 6.2.2).
pub fn add_header(block: &mut Vec<u8>, name: Name, value: &str) {
    match name {
        Name::Known(index) if index < 15 => block.push(index),
        Name::Known(index) => block.extend_from_slice(&[15, index - 15]),
        Name::New(name) => {
            block.extend_from_slice(&[0, name.len() as u8]);
            block.extend_from_slice(name.as_bytes());
        }
    }
    block.push(value.len() as u8);
    block.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_as_it_was_written() {
        let mut out = Vec::new();
        add_frame(&mut out, DATA, END_STREAM, 7, &[1; 300]);
        let head = Head::read(&out).unwrap();
        assert_eq!(head, Head { length: 300, kind: DATA, flags: END_STREAM, stream: 7 });
        assert!(head.ends_stream());
        assert_eq!(out.len(), HEAD_BYTES + 300);
    }

    #[test]
    fn part_of_a_head_is_not_read() {
        assert_eq!(Head::read(&[0; HEAD_BYTES - 1]), None);
    }

    #[test]
    fn the_reserved_bit_of_a_stream_number_is_ignored() {
        assert_eq!(Head::read(&[0, 0, 0, HEADERS, 0, 0x80, 0, 0, 3]).unwrap().stream, 3);
    }

    #[test]
    fn an_acknowledgement_does_not_end_a_stream() {
        // ACK and END_STREAM are the same bit.
        assert!(!Head::read(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]).unwrap().ends_stream());
    }

    #[test]
    fn headers_are_written_as_hpack_literals() {
        let mut block = Vec::new();
        add_header(&mut block, Name::Known(4), "/path");
        add_header(&mut block, Name::Known(31), "x");
        add_header(&mut block, Name::New("te"), "trailers");
        assert_eq!(block, b"\x04\x05/path\x0f\x10\x01x\x00\x02te\x08trailers");
    }
}
