//! The queue between the connections and the interpreter's threads.
//!
//! Connections put calls in; Python takes them out, one by one (`next_call`) or as batches (`next_batch`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::memory::{Body, Budget, Message, Outgoing};
use crate::predict::Rows;
use crate::waiting::{Group, Kind, Place, Refused, State, refuse};

/// The status codes of gRPC that this module answers with.
pub mod code {
    pub const CANCELLED: u32 = 1;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const UNAUTHENTICATED: u32 = 16;
}

/// When this many kinds of requests are known, the idle ones are forgotten. No more than twice as many are kept.
const MOST_KINDS: usize = 256;
/// Calls of all clients that are read, wait, are computed or are being answered.
const MOST_CALLS: usize = 8192;
const MOST_CONNECTIONS: usize = 1000;
/// Connections use at most one in four of the files that this process may open, because models need files too.
const SHARE_OF_FILES: usize = 4;
/// How long a client has for the handshakes of TLS and HTTP/2 together.
const GREETING: Duration = Duration::from_secs(20);
/// When others need room, calls that wait for their client, and connections without calls, give it up after this time.
const PATIENCE_FOR_CALLS: Duration = Duration::from_secs(5);
const ENDING: &str = "The server is shutting down";

/// The answer to a call.
pub enum Answer {
    Message(Message),
    Status(u32, String),
}

/// Limits of the queue and of its batches.
pub struct Limits {
    /// Largest message of a client, in bytes.
    pub message_bytes: usize,
    /// Bytes of all answers that clients have not read yet.
    pub unread_bytes: usize,
    /// Rows of a full batch. A request with as many rows or more is not batched.
    pub batch_rows: usize,
    /// Rows of one signature that may wait.
    pub waiting_rows: usize,
    /// Calls that may wait outside batches.
    pub waiting_calls: usize,
    /// Batches of one signature that are computed at the same time.
    pub batches: usize,
    /// How long a batch that is not full waits for more rows.
    pub fill_time: Duration,
}

/// One request that has arrived whole.
pub struct Call {
    pub id: u64,
    pub path: String,
    /// How the message is compressed, or None if it is not.
    pub encoding: Option<String>,
    /// When its last byte arrived.
    pub arrived: Instant,
    pub deadline: Option<Instant>,
    pub body: Arc<Body>,
    /// Its rows, if it can be batched.
    pub rows: Option<Rows>,
    /// Where the answer goes. If it is dropped without one, the client gets INTERNAL.
    pub reply: oneshot::Sender<Answer>,
}

impl Call {
    pub fn row_count(&self) -> usize {
        self.rows.as_ref().map_or(0, |rows| rows.rows)
    }

    /// Returns the status code if nobody waits for the answer any more.
    pub fn gone(&self) -> Option<u32> {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            Some(code::DEADLINE_EXCEEDED)
        } else {
            self.reply.is_closed().then_some(code::CANCELLED)
        }
    }
}

/// Calls of one kind that are computed together.
pub struct Batch {
    pub key: Vec<u8>,
    pub group: Group,
    pub calls: Vec<Call>,
}

/// The queue; the connections and the interpreter's threads share it.
pub struct Shared {
    pub limits: Limits,
    /// What clients must send, except to ask for health; None lets everyone in.
    pub token: Option<String>,
    /// How long a client has for the handshakes of a connection.
    pub greeting: Duration,
    /// Calls of which some part is still to be read, computed or sent.
    pub in_hand: Arc<Budget>,
    pub connections: Arc<Budget>,
    /// Bytes of large requests that are held.
    pub bodies: Arc<Budget>,
    pub outgoing: Arc<Outgoing>,
    numbers: AtomicU64,
    state: Mutex<State>,
    has_rows: Condvar,
    has_calls: Condvar,
    has_news: Condvar,
}

impl Shared {
    pub fn new(limits: Limits, patience: Duration, token: Option<String>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Shared>| {
            let this = this.clone();
            let on_sent = Box::new(move || {
                if let Some(shared) = this.upgrade() {
                    shared.state().has_sent = true;
                    shared.has_news.notify_one();
                }
            });
            let brief = patience.min(PATIENCE_FOR_CALLS);
            Shared {
                in_hand: Budget::new(MOST_CALLS, brief),
                connections: Budget::new(most_connections(), brief),
                bodies: Budget::new(4 * limits.message_bytes, patience),
                outgoing: Arc::new(Outgoing::new(Budget::new(limits.unread_bytes, patience), on_sent)),
                limits,
                token,
                greeting: patience.min(GREETING),
                numbers: AtomicU64::new(0),
                state: Mutex::default(),
                has_rows: Condvar::new(),
                has_calls: Condvar::new(),
                has_news: Condvar::new(),
            }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a call: to the others of its kind if the kind is known, else to the calls that wait alone.
    pub fn submit(&self, call: Call) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            return refuse(call, code::UNAVAILABLE, ENDING);
        }
        match state.place(&call, &self.limits) {
            Place::Batched => {
                state.add(call);
                self.has_rows.notify_one();
            }
            Place::Alone => {
                state.calls.push_back(call);
                self.has_calls.notify_one();
            }
            Place::Refused(model, why) => {
                drop(state);
                self.count_refused(model, code::UNAVAILABLE, why);
                refuse(call, code::UNAVAILABLE, why);
            }
        }
    }

    /// Counts a call that is refused without the interpreter.
    pub fn count_refused(&self, model: String, code: u32, why: &'static str) {
        *self.state().refused.entry((model, code, why)).or_default() += 1;
        self.has_news.notify_one();
    }

    /// Waits for a call that is not batched. Returns None when the server is closed.
    pub fn next_call(&self) -> Option<Call> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(call) = state.calls.pop_front() {
                return Some(call);
            }
            state = wait(&self.has_calls, state);
        }
    }

    /// Waits for a batch to compute. Returns None when the server is closed.
    ///
    /// If several kinds are ready, the one that has been ready for longest is taken.
    pub fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            match state.next_ready(&self.limits) {
                Some((at, key)) if at <= Instant::now() => {
                    let batch = state.take(key, self.limits.batch_rows);
                    // Another kind may be ready now or soon, so one more thread looks.
                    if state.next_ready(&self.limits).is_some() {
                        self.has_rows.notify_one();
                    }
                    if !state.refused.is_empty() {
                        self.has_news.notify_one();
                    }
                    if batch.calls.is_empty() {
                        continue;
                    }
                    state.load(&batch.group).computing += 1;
                    return Some(batch);
                }
                Some((at, _)) => state = wait_until(&self.has_rows, state, at),
                None => state = wait(&self.has_rows, state),
            }
        }
    }

    /// Records that a batch has been computed, so that the next one of its signature can start.
    pub fn computed(&self, group: &Group) {
        if let Some(load) = self.state().groups.get_mut(group) {
            load.computing = load.computing.saturating_sub(1);
        }
        self.has_rows.notify_one();
    }

    /// Makes requests with this key wait for batches from now on.
    pub fn learn(&self, key: &[u8], group: Group) {
        let mut state = self.state();
        if state.kinds.len() >= MOST_KINDS && !state.kinds.contains_key(key) {
            // A kind that is forgotten although it is in use is learnt again with its next request.
            state.kinds.retain(|_, kind| !kind.waiting.is_empty());
            state.groups.retain(|_, load| load.waiting > 0 || load.computing > 0);
        }
        if !state.closed && state.kinds.len() < 2 * MOST_KINDS {
            let kind = || Kind { group, waiting: VecDeque::new(), rows: 0 };
            state.kinds.entry(key.to_vec()).or_insert_with(kind);
        }
    }

    /// Stops batching requests with this key; those that wait now wait alone.
    pub fn forget(&self, key: &[u8]) {
        let mut state = self.state();
        if let Some(kind) = state.kinds.remove(key) {
            let load = state.load(&kind.group);
            load.waiting = load.waiting.saturating_sub(kind.rows);
            state.calls.extend(kind.waiting);
        }
        drop(state);
        self.has_calls.notify_all();
    }

    /// Records that the client of a call has left, for `next_news`.
    pub fn left(&self, id: u64) {
        self.state().left.push(id);
        self.has_news.notify_one();
    }

    /// Waits until there is something to report: calls whose clients have left, and calls that were refused.
    /// Returns None when the server is closed.
    pub fn next_news(&self) -> Option<(Vec<u64>, Refused)> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if state.has_sent || !state.left.is_empty() || !state.refused.is_empty() {
                state.has_sent = false;
                return Some((std::mem::take(&mut state.left), std::mem::take(&mut state.refused)));
            }
            state = wait(&self.has_news, state);
        }
    }

    /// Refuses the calls that wait and ends `next_call`, `next_batch` and `next_news`.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let mut calls: Vec<Call> = state.calls.drain(..).collect();
        calls.extend(state.kinds.drain().flat_map(|(_, kind)| kind.waiting));
        drop(state);
        for call in calls {
            refuse(call, code::UNAVAILABLE, ENDING);
        }
        self.has_rows.notify_all();
        self.has_calls.notify_all();
        self.has_news.notify_all();
    }
}

/// Returns how many connections are accepted, by the number of files that this process may open.
fn most_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    match files.and_then(|files| files.parse::<usize>().ok()) {
        Some(files) => MOST_CONNECTIONS.min(files / SHARE_OF_FILES).max(1),
        None => MOST_CONNECTIONS, // there is no limit, or this system does not say
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

fn wait_until<'a>(condition: &Condvar, state: MutexGuard<'a, State>, at: Instant) -> MutexGuard<'a, State> {
    let time = at.saturating_duration_since(Instant::now());
    condition.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
}
