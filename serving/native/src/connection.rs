//! HTTP/2 connections and the calls on them: gRPC's framing, deadlines, and clients that leave.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout, timeout_at};

use crate::calls::{Answer, Call, LATE, Shared, code};
use crate::memory::Body;
use crate::predict::rows_of;

/// How far the server's end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Open,
    /// No new calls; those in hand are answered.
    Draining,
    Closed,
}

const PREDICT: &str = "/tensorflow.serving.PredictionService/Predict";
/// Time for a client to say that it speaks HTTP/2.
const GREETING: Duration = Duration::from_secs(20);
/// Bytes of requests that one connection, and one call, may send ahead.
const CONNECTION_WINDOW: u32 = 16 << 20;
const CALL_WINDOW: u32 = 4 << 20;
const FRAME: u32 = 1 << 20;
const HEADERS: u32 = 16 << 10;
/// Calls of one connection at the same time; a client keeps further ones to itself until others are answered.
const CALLS: u32 = 1000;
/// Answers up to this size are not waited for: HTTP/2 holds more for any call.
const SMALL: usize = 4096;

/// Takes in connections until the server closes.
pub async fn listen(listener: TcpListener, shared: Arc<Shared>, mut stage: watch::Receiver<Stage>) {
    while *stage.borrow_and_update() == Stage::Open {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let _ = socket.set_nodelay(true);
                    tokio::spawn(connection(socket, shared.clone(), stage.clone()));
                }
                // Out of file descriptors, or a client that was gone at once.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
            _ = stage.changed() => {}
        }
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>, mut stage: watch::Receiver<Stage>) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(CALLS)
        .handshake::<_, Bytes>(socket);
    let Ok(Ok(mut connection)) = timeout(GREETING, handshake).await else { return };
    if *stage.borrow_and_update() != Stage::Open {
        connection.graceful_shutdown();
    }
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    tokio::spawn(counted_call(shared.clone(), request, respond));
                }
                _ => return,
            },
            changed = stage.changed() => match *stage.borrow_and_update() {
                Stage::Draining if changed.is_ok() => connection.graceful_shutdown(),
                _ => return,
            },
        }
    }
}

async fn counted_call(shared: Arc<Shared>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let counted = InHand::new(&shared);
    // An error here is a client that has left.
    let _ = call(&shared, request, respond).await;
    drop(counted);
}

/// A call while it is in hand.
struct InHand<'a>(&'a Shared);

impl<'a> InHand<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.in_hand.fetch_add(1, Ordering::SeqCst);
        InHand(shared)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why a call is refused before anyone has looked at its message.
struct Refusal(u32, String);

async fn call(
    shared: &Arc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let kind = head.headers.get("content-type").map_or(&b""[..], |kind| kind.as_bytes());
    if head.method != Method::POST || !kind.starts_with(b"application/grpc") {
        let status = if head.method == Method::POST {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        } else {
            StatusCode::METHOD_NOT_ALLOWED
        };
        let mut response = Response::new(());
        *response.status_mut() = status;
        respond.send_response(response, true)?;
        return Ok(());
    }
    let arrived = Instant::now();
    let Some(deadline) = deadline(&head.headers, arrived) else {
        return finish(respond, code::INTERNAL, "The header grpc-timeout is no time.");
    };
    let reading = read_message(shared, &mut stream);
    let read = match deadline {
        Some(at) => match timeout_at(at.into(), reading).await {
            Ok(read) => read?,
            Err(_) => Err(Refusal(code::DEADLINE_EXCEEDED, "The deadline passed before the request was read.".into())),
        },
        None => reading.await?,
    };
    let (compressed, body) = match read {
        Ok(read) => read,
        Err(Refusal(code, message)) => return finish(respond, code, &message),
    };
    let encoding = compressed.then(|| {
        let named = head.headers.get("grpc-encoding").and_then(|name| name.to_str().ok());
        named.unwrap_or("").to_owned()
    });
    let path = head.uri.path().to_owned();
    let rows = if path == PREDICT && encoding.is_none() { rows_of(body.bytes()) } else { None };
    let (reply, answer) = oneshot::channel();
    let id = shared.number();
    shared.submit(Call { id, path, encoding, arrived, deadline, body: Arc::new(body), rows, reply });
    let late = async {
        match deadline {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        answer = answer => match answer {
            Ok(Answer::Message(parts, sent)) => send(shared, respond, parts, sent).await,
            Ok(Answer::Status(code, message)) => finish(respond, code, &message),
            Err(_) => finish(respond, code::INTERNAL, "the server failed; its log says why"),
        },
        _ = poll_fn(|context| respond.poll_reset(context)) => {
            shared.left(id);
            Ok(())
        }
        () = late => {
            shared.left(id);
            finish(respond, code::DEADLINE_EXCEEDED, LATE)
        }
    }
}

/// Reads the one message of a call; tells whether it is compressed.
async fn read_message(shared: &Shared, stream: &mut RecvStream) -> Result<Result<(bool, Body), Refusal>, h2::Error> {
    const PREFIX: usize = 5;
    let (mut prefix, mut whole) = (Vec::with_capacity(PREFIX), 0);
    let mut body = Body::new(shared.bodies.clone());
    while let Some(data) = stream.data().await {
        let mut data = data?;
        stream.flow_control().release_capacity(data.len())?;
        if prefix.len() < PREFIX {
            let part = data.split_to(data.len().min(PREFIX - prefix.len()));
            prefix.extend_from_slice(&part);
            if prefix.len() < PREFIX {
                continue;
            }
            whole = (&prefix[1..]).get_u32() as usize;
            let most = shared.limits.message_bytes;
            if whole > most {
                let message = format!("Received message larger than max ({whole} vs. {most})");
                return Ok(Err(Refusal(code::RESOURCE_EXHAUSTED, message)));
            }
        }
        if body.bytes().len() + data.len() > whole {
            return Ok(Err(Refusal(code::INTERNAL, "More than one message came where one was expected.".into())));
        }
        if !body.push(&data, whole) {
            return Ok(Err(Refusal(code::UNAVAILABLE, "Too many large requests are being read".into())));
        }
    }
    if prefix.len() < PREFIX || body.bytes().len() < whole || prefix[0] > 1 {
        return Ok(Err(Refusal(code::INTERNAL, "The call ended before its message was whole.".into())));
    }
    Ok(Ok((prefix[0] == 1, body)))
}

/// Sends an answer, and waits until its client has taken it, left, or kept others waiting for too long.
async fn send(
    shared: &Shared,
    mut respond: SendResponse<Bytes>,
    parts: Vec<Bytes>,
    sent: Option<oneshot::Receiver<()>>,
) -> Result<(), h2::Error> {
    let began = Instant::now();
    let size: usize = parts.iter().map(Bytes::len).sum();
    let mut stream = respond.send_response(response(), false)?;
    for part in parts {
        stream.send_data(part, false)?;
    }
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    match sent {
        Some(sent) if size > SMALL => taken(shared, stream, sent, began).await,
        _ => Ok(()),
    }
}

async fn taken(
    shared: &Shared,
    mut stream: SendStream<Bytes>,
    sent: oneshot::Receiver<()>,
    began: Instant,
) -> Result<(), h2::Error> {
    let mut given_up = shared.outgoing.given_up();
    let too_late = given_up.wait_for(|late| late.is_some_and(|late| began < late));
    tokio::select! {
        _ = sent => Ok(()),
        _ = too_late => {
            stream.send_reset(Reason::CANCEL);
            Ok(())
        }
    }
}

/// Answers without a message.
fn finish(mut respond: SendResponse<Bytes>, code: u32, message: &str) -> Result<(), h2::Error> {
    let mut response = response();
    response.headers_mut().insert("grpc-status", code.into());
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)) {
        response.headers_mut().insert("grpc-message", message);
    }
    respond.send_response(response, true)?;
    Ok(())
}

fn response() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity, deflate, gzip"));
    response
}

/// Reads `grpc-timeout`; the outer None is a header that is no time.
fn deadline(headers: &HeaderMap, now: Instant) -> Option<Option<Instant>> {
    let Some(given) = headers.get("grpc-timeout") else { return Some(None) };
    let (unit, digits) = given.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| 10 * number + u64::from(digit - b'0'));
    let time = match unit {
        b'H' => Duration::from_secs(3600 * number),
        b'M' => Duration::from_secs(60 * number),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    };
    // A time that the clock cannot hold is for ever.
    Some(now.checked_add(time))
}

/// Encodes a message for the header `grpc-message`.
fn percent_encoded(message: &str) -> String {
    let mut result = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => result.push(byte as char),
            _ => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}
