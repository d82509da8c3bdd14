//! A client that costs next to nothing, so that a benchmark on one machine measures its server.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pyo3::exceptions::PyConnectionError;
use pyo3::prelude::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const FRAME_HEAD: usize = 9;
const WINDOW: u32 = (1 << 31) - 1;
/// Bytes of a frame, unless the server allows more; and of a header, in one byte that says so.
const LONGEST_FRAME: usize = 16_384;
const LONGEST_TEXT: usize = 126;
/// What HTTP/2 lets either side send before it is told more.
const FIRST_WINDOW: u32 = 65_535;

/// Sends each request so many times, one after another, all side by side on one connection.
///
/// Returns the number of answers. Every answer must have `answer_bytes` bytes, as the message that was expected
/// has and none that says no.
///
/// Raises ConnectionError where the connection breaks or an answer is another.
#[pyfunction]
#[pyo3(signature = (address, path, requests, *, times, answer_bytes))]
pub fn load(
    py: Python<'_>,
    address: &str,
    path: &str,
    requests: Vec<Vec<u8>>,
    times: usize,
    answer_bytes: usize,
) -> PyResult<usize> {
    py.detach(|| Client::connect(address, path)?.run(&requests, times, answer_bytes))
        .map_err(|error| PyConnectionError::new_err(format!("{address}: {error}")))
}

struct Client {
    socket: TcpStream,
    /// The header block of every request.
    headers: Vec<u8>,
    out: Vec<u8>,
    next_stream: u32,
    /// Bytes that the server still takes, and that we have taken since it was last told.
    may_send: i64,
    taken: u32,
}

struct Stream {
    request: usize,
    left: usize,
    bytes: usize,
}

impl Client {
    fn connect(address: &str, path: &str) -> std::io::Result<Self> {
        if address.len() > LONGEST_TEXT || path.len() > LONGEST_TEXT {
            return Err(std::io::Error::other("address or path are too long"));
        }
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut headers = vec![0x83, 0x86]; // :method POST, :scheme http, both of HPACK's static table
        for (name, value) in [
            (Name::Known(1), address),
            (Name::Known(4), path),
            (Name::Known(31), "application/grpc"),
            (Name::New("te"), "trailers"),
        ] {
            add_header(&mut headers, name, value);
        }
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = Vec::new();
        // No pushes, and windows and frames as large as there are.
        for (setting, value) in [(2u16, 0u32), (4, WINDOW), (5, (1 << 24) - 1)] {
            settings.extend_from_slice(&setting.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        add_frame(&mut out, SETTINGS, 0, 0, &settings);
        add_frame(&mut out, WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes());
        Ok(Client { socket, headers, out, next_stream: 1, may_send: i64::from(FIRST_WINDOW), taken: 0 })
    }

    fn run(&mut self, requests: &[Vec<u8>], times: usize, answer_bytes: usize) -> std::io::Result<usize> {
        if requests.iter().any(|request| request.len() + 5 > LONGEST_FRAME) {
            return Err(std::io::Error::other("a request is longer than a frame"));
        }
        let (mut streams, mut answered) = (HashMap::new(), 0);
        let mut waiting: Vec<(usize, usize)> = (0..requests.len()).map(|request| (request, times)).collect();
        waiting.retain(|&(_, left)| left > 0);
        let mut buffer = vec![0u8; 1 << 18];
        let (mut start, mut end) = (0, 0);
        while answered < times * requests.len() {
            while let Some(&(request, left)) = waiting.last() {
                let size = requests[request].len() as i64 + 5;
                if size > self.may_send {
                    break;
                }
                waiting.pop();
                let id = self.send(&requests[request]);
                streams.insert(id, Stream { request, left: left - 1, bytes: 0 });
            }
            self.socket.write_all(&self.out)?;
            self.out.clear();
            let got = self.socket.read(&mut buffer[end..])?;
            if got == 0 {
                return Err(std::io::Error::other("the server closed the connection"));
            }
            end += got;
            // Frames, and the parts of data frames, that have come.
            while end - start >= FRAME_HEAD {
                let head: [u8; FRAME_HEAD] = buffer[start..start + FRAME_HEAD].try_into().expect("of this length");
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW;
                let (kind, flags) = (head[3], head[4]);
                if kind == DATA {
                    start += FRAME_HEAD;
                    let stream = streams.get_mut(&id).ok_or_else(|| std::io::Error::other("data of no call"))?;
                    stream.bytes += length;
                    let here = length.min(end - start);
                    start += here;
                    self.skip(length - here, &mut buffer)?;
                    if length > here {
                        (start, end) = (0, 0);
                    }
                    self.take(length as u32);
                } else {
                    if FRAME_HEAD + length > buffer.len() {
                        return Err(std::io::Error::other("a frame that is too large"));
                    }
                    if end - start < FRAME_HEAD + length {
                        break;
                    }
                    let body = buffer[start + FRAME_HEAD..start + FRAME_HEAD + length].to_vec();
                    start += FRAME_HEAD + length;
                    self.control(kind, flags, id, &body)?;
                }
                if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                    let stream = streams.remove(&id).ok_or_else(|| std::io::Error::other("the end of no call"))?;
                    if stream.bytes != answer_bytes + 5 {
                        let message =
                            format!("an answer of {} bytes, where {} were expected", stream.bytes, answer_bytes + 5);
                        return Err(std::io::Error::other(message));
                    }
                    answered += 1;
                    if stream.left > 0 {
                        waiting.push((stream.request, stream.left));
                    }
                }
            }
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
        Ok(answered)
    }

    fn send(&mut self, request: &[u8]) -> u32 {
        let id = self.next_stream;
        self.next_stream += 2;
        add_frame(&mut self.out, HEADERS, END_HEADERS, id, &self.headers);
        let message = [&[0], &(request.len() as u32).to_be_bytes()[..], request].concat();
        self.may_send -= message.len() as i64;
        add_frame(&mut self.out, DATA, END_STREAM, id, &message);
        id
    }

    /// Reads over the rest of a frame of data.
    fn skip(&mut self, mut left: usize, buffer: &mut [u8]) -> std::io::Result<()> {
        while left > 0 {
            let most = left.min(buffer.len());
            let got = self.socket.read(&mut buffer[..most])?;
            if got == 0 {
                return Err(std::io::Error::other("the server closed the connection"));
            }
            left -= got;
        }
        Ok(())
    }

    fn take(&mut self, bytes: u32) {
        self.taken += bytes;
        if self.taken > WINDOW / 4 {
            add_frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes());
            self.taken = 0;
        }
    }

    fn control(&mut self, kind: u8, flags: u8, id: u32, body: &[u8]) -> std::io::Result<()> {
        match kind {
            SETTINGS if flags & ACK == 0 => add_frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => add_frame(&mut self.out, PING, ACK, 0, body),
            WINDOW_UPDATE if id == 0 && body.len() == 4 => {
                let more = u32::from_be_bytes([body[0], body[1], body[2], body[3]]) & WINDOW;
                self.may_send += i64::from(more);
            }
            RST_STREAM | GOAWAY => return Err(std::io::Error::other("the server gave a call up")),
            _ => {}
        }
        Ok(())
    }
}

enum Name {
    /// Of HPACK's static table.
    Known(u8),
    New(&'static str),
}

/// Adds a header that is not to be remembered (RFC 7541, 6.2.2).
fn add_header(block: &mut Vec<u8>, name: Name, value: &str) {
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

fn add_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}
