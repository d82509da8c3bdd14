//! What waits between the connections and the interpreter: calls one by one, and rows to be put together.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::memory::{Body, Budget, Outgoing};
use crate::predict::Rows;

/// gRPC's status codes, as far as they are given here.
pub mod code {
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
}

/// Kinds of requests known as fitting together; one more than this, and all are learnt anew.
const MOST_KINDS: usize = 256;
pub const LATE: &str = "The deadline passed before the request was answered.";
const FULL: &str = "The batch scheduling queue to which this task was submitted is full";

/// What a client is answered.
pub enum Answer {
    /// A message in parts, and what tells that the last of them was sent.
    Message(Vec<Bytes>, Option<oneshot::Receiver<()>>),
    Status(u32, String),
}

/// What may wait, and how rows are put together.
#[derive(Clone)]
pub struct Limits {
    /// Largest message of a client.
    pub message_bytes: usize,
    /// Rows of a batch; larger requests are calls of their own.
    pub batch_rows: usize,
    /// Rows of one kind that may wait.
    pub waiting_rows: usize,
    /// Calls that may wait for the interpreter.
    pub waiting_calls: usize,
    /// Batches of one kind that compute at the same time.
    pub batches: usize,
    /// Time that a batch waits to be filled.
    pub fill_time: Duration,
}

/// One request, whole, and who waits for it.
pub struct Call {
    pub id: u64,
    pub path: String,
    /// How the message is compressed, where it is.
    pub encoding: Option<String>,
    pub arrived: Instant,
    pub deadline: Option<Instant>,
    pub body: Arc<Body>,
    pub rows: Option<Rows>,
    pub reply: oneshot::Sender<Answer>,
}

impl Call {
    pub fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// Calls that were answered without the interpreter, since it last asked.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    pub full: usize,
    pub late: usize,
    pub left: usize,
}

/// Calls of one kind, to be computed together.
pub struct Batch {
    pub key: Vec<u8>,
    pub calls: Vec<Call>,
    pub turned_away: TurnedAway,
}

#[derive(Default)]
struct Kind {
    waiting: VecDeque<Call>,
    rows: usize,
    computing: usize,
    turned_away: TurnedAway,
}

#[derive(Default)]
struct State {
    closed: bool,
    kinds: HashMap<Vec<u8>, Kind>,
    calls: VecDeque<Call>,
    left: Vec<u64>,
    tidy: bool,
}

/// Shared by the connections and the interpreter's threads.
pub struct Shared {
    pub limits: Limits,
    pub bodies: Arc<Budget>,
    pub outgoing: Arc<Outgoing>,
    /// Calls that are not answered yet, or whose answer is on its way.
    pub in_hand: AtomicUsize,
    numbers: AtomicU64,
    state: Mutex<State>,
    has_rows: Condvar,
    has_calls: Condvar,
    has_tidying: Condvar,
}

impl Shared {
    pub fn new(limits: Limits, unread_bytes: usize, patience: Duration) -> Arc<Self> {
        Arc::new_cyclic(|this: &std::sync::Weak<Shared>| {
            let this = this.clone();
            let on_sent = Box::new(move || {
                if let Some(shared) = this.upgrade() {
                    shared.state().tidy = true;
                    shared.has_tidying.notify_one();
                }
            });
            Shared {
                bodies: Arc::new(Budget::new(4 * limits.message_bytes)),
                outgoing: Arc::new(Outgoing::new(unread_bytes, patience, on_sent)),
                limits,
                in_hand: AtomicUsize::new(0),
                numbers: AtomicU64::new(0),
                state: Mutex::default(),
                has_rows: Condvar::new(),
                has_calls: Condvar::new(),
                has_tidying: Condvar::new(),
            }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes in a call: with others of its kind where that is known, else by itself.
    pub fn submit(&self, call: Call) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            refuse(call, code::UNAVAILABLE, "The server is shutting down");
            return;
        }
        let together = call.rows.as_ref().filter(|rows| rows.rows < self.limits.batch_rows);
        if let Some((rows, kind)) = together.and_then(|rows| Some((rows.rows, state.kinds.get_mut(&rows.key)?))) {
            if kind.rows + rows > self.limits.waiting_rows {
                kind.forget_gone();
            }
            if kind.rows + rows > self.limits.waiting_rows {
                kind.turned_away.full += 1;
                drop(state);
                refuse(call, code::UNAVAILABLE, FULL);
                return;
            }
            kind.rows += rows;
            kind.waiting.push_back(call);
            drop(state);
            self.has_rows.notify_one();
        } else if state.calls.len() >= self.limits.waiting_calls {
            drop(state);
            refuse(call, code::UNAVAILABLE, "Too many requests wait for a thread");
        } else {
            state.calls.push_back(call);
            drop(state);
            self.has_calls.notify_one();
        }
    }

    /// Waits for a call that comes by itself; None once the server is closed.
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

    /// Waits for rows to compute; None once the server is closed.
    ///
    /// Of the kinds that are ready, the one whose first call has waited longest is taken.
    pub fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let ready = |kind: &Kind| Some((kind.ready_at(&self.limits)?, kind.waiting.front()?.arrived));
            let next = state.kinds.iter().filter_map(|(key, kind)| Some((ready(kind)?, key))).min_by_key(|(at, _)| *at);
            match next {
                Some(((at, _), key)) if at <= now => {
                    let key = key.clone();
                    let kind = state.kinds.get_mut(&key).expect("the kind was just found");
                    let batch = kind.take(key, self.limits.batch_rows);
                    if batch.calls.is_empty() {
                        continue;
                    }
                    let more = state.kinds.values().any(|kind| kind.ready_at(&self.limits).is_some_and(|at| at <= now));
                    drop(state);
                    if more {
                        self.has_rows.notify_one();
                    }
                    return Some(batch);
                }
                Some(((at, _), _)) => state = wait_until(&self.has_rows, state, at),
                None => state = wait(&self.has_rows, state),
            }
        }
    }

    /// Says that a batch has been computed.
    pub fn computed(&self, key: &[u8]) {
        if let Some(kind) = self.state().kinds.get_mut(key) {
            kind.computing = kind.computing.saturating_sub(1);
        }
        self.has_rows.notify_one();
    }

    /// From now on, requests of this kind are put together.
    pub fn learn(&self, key: &[u8]) {
        let mut state = self.state();
        if state.kinds.len() >= MOST_KINDS && !state.kinds.contains_key(key) {
            // Those in use are met again at once.
            state.kinds.retain(|_, kind| kind.computing > 0 || !kind.waiting.is_empty());
        }
        if state.kinds.len() < 2 * MOST_KINDS {
            state.kinds.entry(key.to_vec()).or_default();
        }
    }

    /// Calls of this kind come one by one again, those that wait included.
    pub fn forget(&self, key: &[u8]) -> TurnedAway {
        let mut state = self.state();
        let kind = state.kinds.remove(key).unwrap_or_default();
        state.calls.extend(kind.waiting);
        drop(state);
        self.has_calls.notify_all();
        kind.turned_away
    }

    /// Says that the client of a call that the interpreter has taken is gone.
    pub fn left(&self, id: u64) {
        self.state().left.push(id);
        self.has_tidying.notify_one();
    }

    /// Waits until there is something to tidy up; returns the calls whose clients have left, None once closed.
    pub fn next_tidying(&self) -> Option<Vec<u64>> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if state.tidy || !state.left.is_empty() {
                state.tidy = false;
                return Some(std::mem::take(&mut state.left));
            }
            state = wait(&self.has_tidying, state);
        }
    }

    /// Ends all waits; what nobody has taken is refused.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let mut calls: Vec<Call> = state.calls.drain(..).collect();
        calls.extend(state.kinds.drain().flat_map(|(_, kind)| kind.waiting));
        drop(state);
        for call in calls {
            refuse(call, code::UNAVAILABLE, "The server is shutting down");
        }
        self.has_rows.notify_all();
        self.has_calls.notify_all();
        self.has_tidying.notify_all();
    }
}

impl Kind {
    /// When the waiting calls may be taken: None where there are none or enough are computing.
    ///
    /// A batch that is not full starts at once where no other computes; else it can as well wait for more rows.
    fn ready_at(&self, limits: &Limits) -> Option<Instant> {
        let first = self.waiting.front()?.arrived;
        if self.computing >= limits.batches {
            return None;
        }
        if self.rows >= limits.batch_rows {
            return Some(first);
        }
        (self.computing == 0).then(|| first + limits.fill_time)
    }

    fn take(&mut self, key: Vec<u8>, most: usize) -> Batch {
        let (mut calls, mut rows) = (Vec::new(), 0);
        while let Some(call) = self.waiting.front() {
            let more = rows_in(call);
            if rows + more > most {
                break;
            }
            self.rows -= more;
            let call = self.waiting.pop_front().expect("a call stands in front");
            if let Some(call) = self.turned_away.unless_gone(call) {
                rows += more;
                calls.push(call);
            }
        }
        self.computing += usize::from(!calls.is_empty());
        let turned_away = if calls.is_empty() { TurnedAway::default() } else { std::mem::take(&mut self.turned_away) };
        Batch { key, calls, turned_away }
    }

    /// Makes room: drops the calls that nobody waits for any more.
    fn forget_gone(&mut self) {
        for call in std::mem::take(&mut self.waiting) {
            if let Some(call) = self.turned_away.unless_gone(call) {
                self.waiting.push_back(call);
            }
        }
        self.rows = self.waiting.iter().map(rows_in).sum();
    }
}

impl TurnedAway {
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.full, self.late, self.left)
    }

    /// Returns the call, or counts it where nobody waits for it any more.
    fn unless_gone(&mut self, call: Call) -> Option<Call> {
        if call.is_late() {
            self.late += 1;
            refuse(call, code::DEADLINE_EXCEEDED, LATE);
        } else if call.reply.is_closed() {
            self.left += 1;
        } else {
            return Some(call);
        }
        None
    }
}

/// Answers a call with an error; one whose client has left is forgotten.
pub fn refuse(call: Call, code: u32, message: &str) {
    let _ = call.reply.send(Answer::Status(code, message.to_owned()));
}

fn rows_in(call: &Call) -> usize {
    call.rows.as_ref().map_or(0, |rows| rows.rows)
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn wait_until<'a>(condition: &Condvar, state: MutexGuard<'a, State>, at: Instant) -> MutexGuard<'a, State> {
    let time = at.saturating_duration_since(Instant::now());
    condition.wait_timeout(state, time).unwrap_or_else(|poisoned| poisoned.into_inner()).0
}
