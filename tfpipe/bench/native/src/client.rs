//! A gRPC client that sends many calls side by side on one connection.

use std::collections::HashMap;
use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::frames::*;

const READ_TIMEOUT: Duration = Duration::from_secs(120);
const BUFFER_BYTES: usize = 1 << 18;
/// gRPC puts these bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// One connection to the server.
pub struct Client {
    socket: TcpStream,
    buffer: Buffer,
    /// The header block of every request.
    headers: Vec<u8>,
    /// Frames that are written with the next `write_all`.
    out: Vec<u8>,
    next_stream: u32,
    /// Bytes of DATA that the server still accepts.
    may_send: i64,
    /// Bytes of DATA that arrived since the last WINDOW_UPDATE to the server.
    unreported: u32,
}

/// Bytes that were read from the socket; those from `start` to `end` have not been used yet.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn unused(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

/// One request, and how often it is still to be sent.
#[derive(Clone, Copy)]
struct Pending {
    request: usize,
    times: usize,
}

/// A call on its way.
struct Call {
    pending: Pending,
    /// Bytes of the answer that have arrived, gRPC's prefix included.
    bytes: usize,
}

impl Client {
    /// Connects to `address` (`HOST:PORT`), to call the gRPC method `path`.
    pub fn connect(address: &str, path: &str) -> Result<Self> {
        if address.len() > MAX_TEXT_BYTES || path.len() > MAX_TEXT_BYTES {
            return Err(Error::other(format!("the address or the path has more than {MAX_TEXT_BYTES} bytes")));
        }
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Client {
            socket,
            buffer: Buffer { bytes: vec![0; BUFFER_BYTES], start: 0, end: 0 },
            headers: header_block(address, path),
            out: greeting(),
            next_stream: 1,
            may_send: i64::from(FIRST_WINDOW),
            unreported: 0,
        })
    }

    /// Sends each request `times` times and returns the number of answers; see `load`.
    pub fn run(&mut self, requests: &[Vec<u8>], times: usize, answer_bytes: usize) -> Result<usize> {
        if requests.iter().any(|request| request.len() + PREFIX_BYTES > MAX_FRAME_BYTES) {
            return Err(Error::other(format!("a request does not fit into a frame of {MAX_FRAME_BYTES} bytes")));
        }
        let (mut calls, mut answered) = (HashMap::new(), 0);
        let mut pending: Vec<_> = (0..requests.len()).map(|request| Pending { request, times }).collect();
        while answered < times * requests.len() {
            while let Some(&next) = pending.last() {
                let request = &requests[next.request];
                if (request.len() + PREFIX_BYTES) as i64 > self.may_send {
                    break;
                }
                pending.pop();
                calls.insert(self.send(request), Call { pending: next, bytes: 0 });
            }
            self.socket.write_all(&self.out)?;
            self.out.clear();
            self.fill_buffer()?;
            while let Some(head) = self.next_frame(&mut calls)? {
                if !head.ends_stream() {
                    continue;
                }
                let call = calls.remove(&head.stream).ok_or_else(|| Error::other("a call ended that was not made"))?;
                if call.bytes != answer_bytes + PREFIX_BYTES {
                    let message = format!(
                        "an answer has {} bytes with gRPC's prefix; {} were expected",
                        call.bytes,
                        answer_bytes + PREFIX_BYTES
                    );
                    return Err(Error::other(message));
                }
                answered += 1;
                if call.pending.times > 1 {
                    pending.push(Pending { times: call.pending.times - 1, ..call.pending });
                }
            }
        }
        Ok(answered)
    }

    /// Adds the frames of a call to `out` and returns the number of its stream.
    fn send(&mut self, request: &[u8]) -> u32 {
        let id = self.next_stream;
        self.next_stream += 2;
        add_frame(&mut self.out, HEADERS, END_HEADERS, id, &self.headers);
        let message = [&[0], &(request.len() as u32).to_be_bytes()[..], request].concat();
        self.may_send -= message.len() as i64;
        add_frame(&mut self.out, DATA, END_STREAM, id, &message);
        id
    }

    /// Moves unused bytes to the start of the buffer and reads more behind them.
    fn fill_buffer(&mut self) -> Result<()> {
        let buffer = &mut self.buffer;
        buffer.bytes.copy_within(buffer.start..buffer.end, 0);
        (buffer.start, buffer.end) = (0, buffer.end - buffer.start);
        buffer.end += read_some(&mut self.socket, &mut buffer.bytes[buffer.end..])?;
        Ok(())
    }

    /// Takes the next frame out of the buffer, or returns None until more of it has arrived.
    ///
    /// The contents of a DATA frame are counted and dropped, also those that have not arrived yet.
    fn next_frame(&mut self, calls: &mut HashMap<u32, Call>) -> Result<Option<Head>> {
        let Some(head) = Head::read(self.buffer.unused()) else { return Ok(None) };
        if head.kind == DATA {
            let call =
                calls.get_mut(&head.stream).ok_or_else(|| Error::other("data came for a call that was not made"))?;
            call.bytes += head.length;
            self.buffer.start += HEAD_BYTES;
            let here = head.length.min(self.buffer.unused().len());
            self.buffer.start += here;
            self.skip(head.length - here)?;
            self.count_received(head.length as u32);
            return Ok(Some(head));
        }
        if HEAD_BYTES + head.length > self.buffer.bytes.len() {
            return Err(Error::other(format!("a frame of {} bytes does not fit into the buffer", head.length)));
        }
        let Some(body) = self.buffer.unused().get(HEAD_BYTES..HEAD_BYTES + head.length) else { return Ok(None) };
        let body = body.to_vec();
        self.buffer.start += HEAD_BYTES + head.length;
        self.control(&head, &body)?;
        Ok(Some(head))
    }

    /// Reads and drops bytes that are not in the buffer yet; the buffer is empty when there are any.
    fn skip(&mut self, mut left: usize) -> Result<()> {
        while left > 0 {
            let most = left.min(self.buffer.bytes.len());
            left -= read_some(&mut self.socket, &mut self.buffer.bytes[..most])?;
            (self.buffer.start, self.buffer.end) = (0, 0);
        }
        Ok(())
    }

    /// Counts bytes of DATA, and lets the server send as many again before its window is used up.
    fn count_received(&mut self, bytes: u32) {
        self.unreported += bytes;
        if self.unreported > MAX_WINDOW / 4 {
            add_frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.unreported.to_be_bytes());
            self.unreported = 0;
        }
    }

    /// Handles a frame that carries no data.
    fn control(&mut self, head: &Head, body: &[u8]) -> Result<()> {
        match head.kind {
            SETTINGS if head.flags & ACK == 0 => add_frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if head.flags & ACK == 0 => add_frame(&mut self.out, PING, ACK, 0, body),
            WINDOW_UPDATE if head.stream == 0 && body.len() == 4 => {
                let more = u32::from_be_bytes([body[0], body[1], body[2], body[3]]) & MAX_WINDOW;
                self.may_send += i64::from(more);
            }
            RST_STREAM | GOAWAY => return Err(Error::other("the server ended a call or the connection")),
            _ => {}
        }
        Ok(())
    }
}

/// Reads at least one byte.
fn read_some(socket: &mut TcpStream, into: &mut [u8]) -> Result<usize> {
    match socket.read(into)? {
        0 => Err(Error::other("the server closed the connection")),
        got => Ok(got),
    }
}

/// Returns the headers of a gRPC call, HPACK-encoded.
fn header_block(address: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // `:method POST` and `:scheme http`, both in HPACK's static table
    for (name, value) in [
        (Name::Known(1), address),
        (Name::Known(4), path),
        (Name::Known(31), "application/grpc"),
        (Name::New("te"), "trailers"),
    ] {
        add_header(&mut block, name, value);
    }
    block
}

/// Returns what a client sends first: HTTP/2's preface, its settings, and the largest window for the connection.
fn greeting() -> Vec<u8> {
    // No pushes, the largest window for a stream, the largest frame.
    const SETTINGS_SENT: [(u16, u32); 3] = [(2, 0), (4, MAX_WINDOW), (5, (1 << 24) - 1)];
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = Vec::new();
    for (setting, value) in SETTINGS_SENT {
        settings.extend_from_slice(&setting.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    }
    add_frame(&mut out, SETTINGS, 0, 0, &settings);
    add_frame(&mut out, WINDOW_UPDATE, 0, 0, &(MAX_WINDOW - FIRST_WINDOW).to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Starts a server that answers every call with `answer`, two frames of DATA and trailers, until the client leaves.
    fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            let mut preface = [0; 24];
            socket.read_exact(&mut preface).unwrap();
            let mut head = [0; HEAD_BYTES];
            while socket.read_exact(&mut head).is_ok() {
                let head = Head::read(&head).unwrap();
                socket.read_exact(&mut vec![0; head.length]).unwrap();
                let mut out = Vec::new();
                if head.kind == DATA {
                    add_frame(&mut out, PING, 0, 0, &[0; 8]);
                    add_frame(&mut out, WINDOW_UPDATE, 0, 0, &(head.length as u32).to_be_bytes());
                    let (first, rest) = answer.split_at(answer.len() / 2);
                    add_frame(&mut out, DATA, 0, head.stream, first);
                    add_frame(&mut out, DATA, 0, head.stream, rest);
                    add_frame(&mut out, HEADERS, END_STREAM | END_HEADERS, head.stream, b"");
                }
                if socket.write_all(&out).is_err() {
                    return;
                }
            }
        });
        address
    }

    /// An answer that is larger than the client's buffer, so that parts of it are skipped.
    const LARGE: &[u8] = &[0; PREFIX_BYTES + 3 * BUFFER_BYTES];

    #[test]
    fn every_request_is_answered_as_often_as_it_is_sent() {
        let requests = vec![vec![1; 100], vec![2; 9000]];
        for (answer, times) in [(LARGE, 3), (&LARGE[..PREFIX_BYTES + 10], 20)] {
            let mut client = Client::connect(&server(answer), "/service/method").unwrap();
            assert_eq!(client.run(&requests, times, answer.len() - PREFIX_BYTES).unwrap(), 2 * times);
        }
    }

    #[test]
    fn an_answer_of_another_length_is_an_error() {
        let mut client = Client::connect(&server(&LARGE[..15]), "/service/method").unwrap();
        let error = client.run(&[vec![1; 100]], 1, 11).unwrap_err();
        assert_eq!(error.to_string(), "an answer has 15 bytes with gRPC's prefix; 16 were expected");
    }

    #[test]
    fn a_request_that_needs_two_frames_is_refused() {
        let mut client = Client::connect(&server(LARGE), "/service/method").unwrap();
        assert!(client.run(&[vec![1; MAX_FRAME_BYTES]], 1, 10).is_err());
    }
}
