//! Calls whose clients send several messages, each of which gets an answer: gRPC's reflection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::call::{percent_encoded, response, runs_out};
use crate::memory::Body;
use crate::queue::{Answer, Call, Shared, code};

const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The call ends when the client has sent no message for this time. Clients then begin another call.
const PAUSE: Duration = Duration::from_secs(5);
/// Largest message, in bytes.
const LARGEST: usize = 64 << 10;
const PREFIX: usize = 5;

pub fn is_conversation(path: &str) -> bool {
    PATHS.contains(&path)
}

/// Answers the messages of a call one after the other, until the client sends no more.
pub async fn converse(
    shared: &Arc<Shared>,
    path: String,
    mut stream: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut answers = respond.send_response(response(), false)?;
    let mut held = BytesMut::new();
    loop {
        let message = match timeout(PAUSE, next_message(&mut stream, &mut held)).await {
            Ok(read) => match read? {
                Ok(Some(message)) => message,
                Ok(None) => return end(answers, 0, ""),
                Err(why) => return end(answers, code::INTERNAL, why),
            },
            Err(_) => return end(answers, 0, ""),
        };
        let mut body = Body::default();
        body.push(&message, message.len(), &shared.bodies);
        let (reply, answer) = oneshot::channel();
        let (id, arrived) = (shared.number(), Instant::now());
        let (path, body) = (path.clone(), Arc::new(body));
        shared.submit(Call { id, path, encoding: None, arrived, deadline: None, body, rows: None, reply });
        match answer.await {
            Ok(Answer::Message(message)) => {
                for part in message.parts {
                    answers.send_data(part, false)?;
                }
                tokio::select! {
                    _ = message.sent => {}
                    () = runs_out(shared, &shared.outgoing.unread) => {
                        answers.send_reset(Reason::CANCEL);
                        return Ok(());
                    }
                }
            }
            Ok(Answer::Status(code, why)) => return end(answers, code, &why),
            Err(_) => return end(answers, code::INTERNAL, "the server failed; its log says why"),
        }
    }
}

/// Returns the next message, or None if the client sends no more; or why it cannot be read.
async fn next_message(
    stream: &mut RecvStream,
    held: &mut BytesMut,
) -> Result<Result<Option<Bytes>, &'static str>, h2::Error> {
    loop {
        if held.len() >= PREFIX {
            let whole = (&held[1..]).get_u32() as usize;
            if held[0] != 0 || whole > LARGEST {
                return Ok(Err("A message of this method must be short, and not compressed."));
            }
            if held.len() >= PREFIX + whole {
                return Ok(Ok(Some(held.split_to(PREFIX + whole).split_off(PREFIX).freeze())));
            }
        }
        match stream.data().await {
            Some(data) => {
                let data = data?;
                stream.flow_control().release_capacity(data.len())?;
                held.extend_from_slice(&data);
            }
            None if held.is_empty() => return Ok(Ok(None)),
            None => return Ok(Err("The call ended before its message was whole.")),
        }
    }
}

/// Ends a call after its last answer.
fn end(mut answers: SendStream<Bytes>, code: u32, why: &str) -> Result<(), h2::Error> {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", code.into());
    if let (false, Ok(why)) = (why.is_empty(), HeaderValue::try_from(percent_encoded(why))) {
        trailers.insert("grpc-message", why);
    }
    answers.send_trailers(trailers)
}
