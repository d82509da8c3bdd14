//! One gRPC call: its message, its deadline, its answer, and a client that disconnects meanwhile.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep_until, timeout};

use crate::conversation::{converse, is_conversation};
use crate::memory::{Body, Budget, Message};
use crate::predict::rows_of;
use crate::queue::{Answer, Call, Shared, code};
use crate::waiting::LATE;

const SLOW: &str = "The request came too slowly";
/// What a client that does not speak gRPC reads, such as a browser.
const NOT_GRPC: &[u8] = b"This port answers gRPC. REST has a port of its own: --rest_api_port.\n";
const NO_TOKEN: &str = "Send the server's token: authorization: Bearer TOKEN (tfpipe client --token-file FILE)";
/// Checks of health need no token.
const HEALTH: &str = "/grpc.health.v1.Health/";
const PREDICT: &str = "/tensorflow.serving.PredictionService/Predict";
/// How long a client may send nothing of a message that it has begun, or has not begun.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a cancelled answer may keep its memory if the client reads nothing; then the connection is closed.
pub const STUCK: Duration = Duration::from_secs(1);

/// The status code and the reason of a call that is refused before its message is looked at.
struct Refusal(u32, &'static str);

/// The headers of a call that matter later.
struct Head {
    path: String,
    encoding: String,
    deadline: Option<Instant>,
}

/// Reads one call, lets it be answered, and sends the answer. `stuck` is told if the client reads nothing of it.
pub async fn answer(
    shared: &Arc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    stuck: &Notify,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    if let Some(status) = not_grpc(&head) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
        let is_short = head.method == Method::HEAD;
        let mut stream = respond.send_response(response, is_short)?;
        return if is_short { Ok(()) } else { stream.send_data(Bytes::from_static(NOT_GRPC), true) };
    }
    if shared.token.as_ref().is_some_and(|token| !is_let_in(token, &head)) {
        shared.count_refused(String::new(), code::UNAUTHENTICATED, NO_TOKEN);
        return finish(respond, code::UNAUTHENTICATED, NO_TOKEN);
    }
    let Some(head) = read_head(head) else {
        return finish(respond, code::INTERNAL, "The header grpc-timeout is not a valid time.");
    };
    if is_conversation(&head.path) {
        // Boxed, so that a conversation, which is rare, does not make the state of every call larger.
        return Box::pin(converse(shared, head.path, stream, respond)).await;
    }
    let (compressed, body) = match read_in_time(shared, &mut stream, head.deadline).await? {
        Ok(read) => read,
        Err(Refusal(code, why)) => {
            shared.count_refused(String::new(), code, why);
            return finish(respond, code, why);
        }
    };
    let (deadline, encoding) = (head.deadline, compressed.then_some(head.encoding));
    let rows = if head.path == PREDICT && encoding.is_none() { rows_of(body.bytes()) } else { None };
    let (reply, answer) = oneshot::channel();
    let (id, arrived, body) = (shared.number(), Instant::now(), Arc::new(body));
    shared.submit(Call { id, path: head.path, encoding, arrived, deadline, body, rows, reply });
    tokio::select! {
        biased;
        answer = answer => match answer {
            Ok(Answer::Message(message)) => send(shared, respond, message, stuck).await,
            Ok(Answer::Status(code, message)) => finish(respond, code, &message),
            Err(_) => finish(respond, code::INTERNAL, "the server failed; its log says why"),
        },
        _ = poll_fn(|context| respond.poll_reset(context)) => {
            shared.left(id);
            Ok(())
        }
        () = passes(deadline) => {
            shared.left(id);
            finish(respond, code::DEADLINE_EXCEEDED, LATE)
        }
    }
}

/// Returns the HTTP status that refuses a request that is not gRPC, or None if it is gRPC.
fn not_grpc(head: &Parts) -> Option<StatusCode> {
    if head.method != Method::POST {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    let kind = head.headers.get("content-type").map_or(&b""[..], |kind| kind.as_bytes());
    (!kind.starts_with(b"application/grpc")).then_some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

/// Tells whether a call sends the token, or needs none.
fn is_let_in(token: &str, head: &Parts) -> bool {
    let sent = head.headers.get("authorization").map_or(&b""[..], |value| value.as_bytes());
    let (scheme, sent) = sent.split_at_checked(7).unwrap_or((b"", b""));
    head.uri.path().starts_with(HEALTH)
        || (scheme.eq_ignore_ascii_case(b"bearer ") && is_same(sent.trim_ascii(), token.as_bytes()))
}

/// Compares in a time that depends on the lengths alone, so that nobody can find a secret letter by letter.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (a, b)| std::hint::black_box(differ | (a ^ b)));
    one.len() == other.len() && differ == 0
}

/// Reads the headers that matter, or returns None if the timeout is not a valid time.
fn read_head(head: Parts) -> Option<Head> {
    let encoding = head.headers.get("grpc-encoding").and_then(|name| name.to_str().ok()).unwrap_or("");
    let deadline = deadline(&head.headers, Instant::now())?;
    Some(Head { path: head.uri.path().to_owned(), encoding: encoding.to_owned(), deadline })
}

/// Waits until a deadline, or for ever if there is none.
async fn passes(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// Waits until a task that starts now must give its room up: in `budget`, or among the calls in hand.
pub async fn runs_out(shared: &Shared, budget: &Budget) {
    let began = Instant::now();
    tokio::select! {
        () = budget.runs_out(began) => {}
        () = shared.in_hand.runs_out(began) => {}
    }
}

/// Reads a call's message. Stops when the deadline passes, or when it takes too long while others need the room.
async fn read_in_time(
    shared: &Shared,
    stream: &mut RecvStream,
    deadline: Option<Instant>,
) -> Result<Result<(bool, Body), Refusal>, h2::Error> {
    tokio::select! {
        read = read_message(shared, stream) => read,
        () = passes(deadline) => Ok(Err(Refusal(code::DEADLINE_EXCEEDED, LATE))),
        () = runs_out(shared, &shared.bodies) => Ok(Err(Refusal(code::UNAVAILABLE, SLOW))),
        // A call that does not arrive must not keep its connection either.
        () = shared.connections.runs_out(Instant::now()) => Ok(Err(Refusal(code::UNAVAILABLE, SLOW))),
    }
}

/// Reads a call's message, and tells whether it is compressed.
async fn read_message(shared: &Shared, stream: &mut RecvStream) -> Result<Result<(bool, Body), Refusal>, h2::Error> {
    const PREFIX: usize = 5;
    let (mut prefix, mut whole) = (Vec::with_capacity(PREFIX), 0);
    let mut body = Body::default();
    loop {
        let Ok(data) = timeout(SILENCE, stream.data()).await else {
            return Ok(Err(Refusal(code::UNAVAILABLE, SLOW)));
        };
        let Some(data) = data else { break };
        let mut data = data?;
        stream.flow_control().release_capacity(data.len())?;
        if prefix.len() < PREFIX {
            let part = data.split_to(data.len().min(PREFIX - prefix.len()));
            prefix.extend_from_slice(&part);
            if prefix.len() < PREFIX {
                continue;
            }
            whole = (&prefix[1..]).get_u32() as usize;
            if whole > shared.limits.message_bytes {
                return Ok(Err(Refusal(code::RESOURCE_EXHAUSTED, "Received message larger than max")));
            }
        }
        if body.bytes().len() + data.len() > whole {
            return Ok(Err(Refusal(code::INTERNAL, "More than one message came where one was expected.")));
        }
        if !body.push(&data, whole, &shared.bodies) {
            return Ok(Err(Refusal(code::UNAVAILABLE, "Too many large requests are being read")));
        }
    }
    if prefix.len() < PREFIX || body.bytes().len() < whole {
        return Ok(Err(Refusal(code::INTERNAL, "The call ended before its message was whole.")));
    }
    if prefix[0] > 1 {
        return Ok(Err(Refusal(code::INTERNAL, "The message does not say whether it is compressed.")));
    }
    Ok(Ok((prefix[0] == 1, body)))
}

/// Sends an answer. Waits until the client has read it or disconnected, or until others need the room.
async fn send(
    shared: &Shared,
    mut respond: SendResponse<Bytes>,
    message: Message,
    stuck: &Notify,
) -> Result<(), h2::Error> {
    let mut sent = message.sent;
    let mut response = response();
    if let Some(encoding) = message.encoding.and_then(|name| HeaderValue::try_from(name).ok()) {
        response.headers_mut().insert("grpc-encoding", encoding);
    }
    let mut stream = respond.send_response(response, false)?;
    for part in message.parts {
        stream.send_data(part, false)?;
    }
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    tokio::select! {
        _ = &mut sent => return Ok(()),
        () = runs_out(shared, &shared.outgoing.unread) => {}
    }
    stream.send_reset(Reason::CANCEL);
    // A frame that h2 has begun to write stays in memory until the client reads it, or until the connection closes.
    if timeout(STUCK, sent).await.is_err() {
        stuck.notify_one();
    }
    Ok(())
}

/// Ends a call with a status and no message.
pub fn finish(mut respond: SendResponse<Bytes>, code: u32, message: &str) -> Result<(), h2::Error> {
    let mut response = response();
    response.headers_mut().insert("grpc-status", code.into());
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)) {
        response.headers_mut().insert("grpc-message", message);
    }
    respond.send_response(response, true)?;
    Ok(())
}

pub fn response() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity, deflate, gzip"));
    response
}

/// Reads the header `grpc-timeout`. Returns None if it is not a valid time, and Some(None) if there is none.
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
    // A time that the clock cannot hold counts as no deadline.
    Some(now.checked_add(time))
}

/// Percent-encodes a message for the header `grpc-message`.
pub fn percent_encoded(message: &str) -> String {
    let mut result = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => result.push(byte as char),
            _ => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout_header(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), HeaderValue::from_static(value))])
    }

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let now = Instant::now();
        for (text, time) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(deadline(&timeout_header(text), now), Some(Some(now + time)), "{text}");
        }
        assert_eq!(deadline(&HeaderMap::new(), now), Some(None));
    }

    #[test]
    fn a_timeout_that_is_not_valid_is_refused() {
        for text in ["", "S", "5", "5x", "-5S", "1.5S", "123456789S", " 5S"] {
            assert_eq!(deadline(&timeout_header(text), Instant::now()), None, "{text:?}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded_byte_by_byte() {
        assert_eq!(percent_encoded("a row: 100 % \u{e9}\n"), "a row: 100 %25 %C3%A9%0A");
    }

    #[test]
    fn a_call_needs_the_token_unless_it_asks_for_health() {
        let is_let_in = |path: &str, sent: &str| {
            let request = Request::builder().uri(path).header("authorization", sent).body(()).unwrap();
            is_let_in("abc", &request.into_parts().0)
        };
        for sent in ["Bearer abc", "bearer abc", "Bearer   abc "] {
            assert!(is_let_in(PREDICT, sent), "{sent:?}");
        }
        for sent in ["", "Bearer", "Bearer ", "Bearer ab", "Bearer abcd", "Bearer abd", "Basic abc", "abc"] {
            assert!(!is_let_in(PREDICT, sent), "{sent:?}");
        }
        assert!(is_let_in("/grpc.health.v1.Health/Check", ""));
    }

    #[test]
    fn a_request_that_is_not_grpc_gets_an_http_status() {
        let status = |method: Method, kind: &str| {
            let request = Request::builder().method(method).header("content-type", kind).body(()).unwrap();
            not_grpc(&request.into_parts().0)
        };
        assert_eq!(status(Method::POST, "application/grpc"), None);
        assert_eq!(status(Method::POST, "application/grpc+proto"), None);
        assert_eq!(status(Method::POST, "application/json"), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        assert_eq!(status(Method::GET, "application/grpc"), Some(StatusCode::METHOD_NOT_ALLOWED));
    }
}
