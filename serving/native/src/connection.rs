//! Connections: TLS, HTTP/2's handshake, which connections get room, and the calls that arrive on them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::call::{STUCK, answer, finish};
use crate::queue::{Shared, code};

/// Whether the server is shutting down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Open,
    /// Calls in hand are answered; new ones are refused.
    Draining,
    Closed,
}

/// Bytes that a client may send on one connection, and for one call, before we have read them.
const CONNECTION_WINDOW: u32 = 16 << 20;
const CALL_WINDOW: u32 = 4 << 20;
/// Largest frame, which is held in memory until it is whole, and largest headers of a call, in bytes.
const FRAME: u32 = 64 << 10;
const HEADERS: u32 = 16 << 10;
/// Calls of one connection at the same time; a client must wait with further ones until others are answered.
const CALLS: u32 = 1000;
/// Calls that each connection may have even if all clients together have too many, so that a check of health always
/// finds room.
const RESERVED: usize = 8;
/// After this time without traffic, TCP checks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// Connections whose handshakes (of TLS, then of HTTP/2) are not done, oldest first.
///
/// They hold room like all connections, but not against others: if there is no room for a new client, the oldest
/// handshake is ended. So clients that begin handshakes and never finish them cannot keep others away.
#[derive(Default)]
struct Handshakes {
    /// By number, in order of arrival. Dropping the sender ends the handshake.
    open: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

/// A handshake that is not done; dropping it records that it is over.
struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    /// Resolves when it must end.
    ended: oneshot::Receiver<()>,
}

impl Handshakes {
    fn begin(self: &Arc<Self>, number: u64) -> Handshake {
        let (sender, ended) = oneshot::channel();
        self.open().insert(number, sender);
        Handshake { all: self.clone(), number, ended }
    }

    /// Ends the oldest handshake; returns false if there is none.
    fn end_oldest(&self) -> bool {
        self.open().pop_first().is_some()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<()>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.open().remove(&self.number);
    }
}

/// Accepts connections until the server drains or closes; with `tls`, they must begin with its handshake.
pub async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut stage: watch::Receiver<Stage>,
) {
    let handshakes = Arc::default();
    while *stage.borrow_and_update() == Stage::Open {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => start_connection(socket, tls.clone(), &handshakes, &shared, &stage),
                // No file descriptor is free, or the client has already gone.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
            _ = stage.changed() => {}
        }
    }
}

fn start_connection(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    handshakes: &Arc<Handshakes>,
    shared: &Arc<Shared>,
    stage: &watch::Receiver<Stage>,
) {
    // If there is no room, connections that have been idle for long are closed. This one gets the room of a handshake
    // that is not done; if there is none, it is closed at once.
    let room = match shared.connections.take(1) {
        Some(room) => room,
        None if handshakes.end_oldest() => shared.connections.take_anyway(1),
        None => return,
    };
    let _ = socket.set_nodelay(true);
    let _ = SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    let handshake = handshakes.begin(shared.number());
    let (shared, stage) = (shared.clone(), stage.clone());
    tokio::spawn(async move {
        match tls {
            None => connection(async { Some(socket) }, handshake, &shared, stage).await,
            Some(tls) => connection(async { tls.accept(socket).await.ok() }, handshake, &shared, stage).await,
        }
        drop(room);
    });
}

/// Serves one connection; `socket` resolves once the handshake of TLS is done, if there is one.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    socket: impl Future<Output = Option<S>>,
    mut handshake: Handshake,
    shared: &Arc<Shared>,
    mut stage: watch::Receiver<Stage>,
) {
    let greeted = tokio::select! {
        biased;
        greeted = timeout(shared.greeting, greet(socket)) => greeted.ok().flatten(),
        _ = &mut handshake.ended => None,
    };
    drop(handshake);
    let Some(mut connection) = greeted else { return };
    if *stage.borrow_and_update() != Stage::Open {
        connection.graceful_shutdown();
    }
    // Every call of the connection holds a clone of `stuck`: so the count tells whether there are any.
    let (stuck, mut used) = (Arc::new(Notify::new()), Instant::now());
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    used = Instant::now();
                    take_call(shared, request, respond, &stuck);
                }
                _ => return,
            },
            changed = stage.changed() => match *stage.borrow_and_update() {
                Stage::Draining if changed.is_ok() => connection.graceful_shutdown(),
                _ => return,
            },
            () = stuck.notified() => return,
            () = shared.connections.runs_out(used) => {
                if Arc::strong_count(&stuck) == 1 {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    let _ = timeout(STUCK, poll_fn(|context| connection.poll_closed(context))).await;
                    return;
                }
                used = Instant::now();
            }
        }
    }
}

/// Does HTTP/2's handshake; returns None if it, or that of TLS, fails.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    socket: impl Future<Output = Option<S>>,
) -> Option<Connection<S, Bytes>> {
    h2::server::Builder::new()
        .initial_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(CALLS)
        // A client may cancel all its calls at the same time.
        .max_pending_accept_reset_streams(CALLS as usize)
        .handshake(socket.await?)
        .await
        .ok()
}

fn take_call(shared: &Arc<Shared>, request: Request<RecvStream>, respond: SendResponse<Bytes>, stuck: &Arc<Notify>) {
    // Every other call of the connection holds a clone of `stuck`.
    let others = Arc::strong_count(stuck) - 1;
    let room = if others < RESERVED { Some(shared.in_hand.take_anyway(1)) } else { shared.in_hand.take(1) };
    let Some(room) = room else {
        const WHY: &str = "Too many requests are in hand";
        // Sending fails only if the client has disconnected; here and below, there is nobody to tell then.
        shared.count_refused(String::new(), code::UNAVAILABLE, WHY);
        let _ = finish(respond, code::UNAVAILABLE, WHY);
        return;
    };
    let (shared, stuck) = (shared.clone(), stuck.clone());
    tokio::spawn(async move {
        let _ = answer(&shared, request, respond, &stuck).await;
        drop(room);
    });
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn the_oldest_handshake_that_is_not_done_is_ended() {
        let all = Arc::<Handshakes>::default();
        let mut begun: Vec<_> = (0..3).map(|number| all.begin(number)).collect();
        drop(begun.remove(0));
        assert!(all.end_oldest());
        let is_ended = |handshake: &mut Handshake| handshake.ended.try_recv() == Err(TryRecvError::Closed);
        assert!(is_ended(&mut begun[0]) && !is_ended(&mut begun[1]));
        drop(begun);
        assert!(!all.end_oldest(), "none is left");
    }
}
