//! What waits between the connections and the interpreter: calls one by one, and rows to be put together.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::memory::{Body, Budget, Message, Outgoing};
use crate::predict::Rows;

/// gRPC's status codes, as far as they are given here.
pub mod code {
    pub const CANCELLED: u32 = 1;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
}

/// Kinds of requests, and groups of them, that are remembered before idle ones are forgotten; at most twice as many.
const MOST_KINDS: usize = 256;
/// Calls in hand, of all clients together.
const MOST_CALLS: usize = 8192;
const MOST_CONNECTIONS: usize = 1000;
pub const LATE: &str = "The deadline passed before the request was answered.";
const LEFT: &str = "The client has left.";
const FULL: &str = "The batch scheduling queue to which this task was submitted is full";
const ENDING: &str = "The server is shutting down";

/// What a client is answered.
pub enum Answer {
    Message(Message),
    Status(u32, String),
}

/// What may wait, and how rows are put together.
pub struct Limits {
    /// Largest message of a client.
    pub message_bytes: usize,
    /// Bytes of answers that clients have not read, in sum.
    pub unread_bytes: usize,
    /// Rows of a batch; requests with as many come by themselves.
    pub batch_rows: usize,
    /// Rows of one signature that may wait.
    pub waiting_rows: usize,
    /// Calls that may wait for the interpreter.
    pub waiting_calls: usize,
    /// Batches of one signature that compute at the same time.
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
    /// When it was whole.
    pub arrived: Instant,
    pub deadline: Option<Instant>,
    pub body: Arc<Body>,
    /// What of it can be put together with others.
    pub rows: Option<Rows>,
    pub reply: oneshot::Sender<Answer>,
}

impl Call {
    fn row_count(&self) -> usize {
        self.rows.as_ref().map_or(0, |rows| rows.rows)
    }

    /// Why nobody waits for it any more, if so.
    fn gone(&self) -> Option<u32> {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            Some(code::DEADLINE_EXCEEDED)
        } else {
            self.reply.is_closed().then_some(code::CANCELLED)
        }
    }
}

/// A model and one of its signatures, which requests of several kinds ask for.
pub type Group = Arc<(String, String)>;

/// Calls of one kind, to be computed together.
pub struct Batch {
    pub key: Vec<u8>,
    pub group: Group,
    pub calls: Vec<Call>,
}

/// Requests that differ in nothing but their rows.
struct Kind {
    group: Group,
    waiting: VecDeque<Call>,
    rows: usize,
}

/// Rows of all kinds of one signature.
#[derive(Default)]
struct Load {
    waiting: usize,
    computing: usize,
}

/// How often calls were refused without the interpreter: by model (empty where it is not known), code and reason.
pub type Refused = HashMap<(String, u32, &'static str), usize>;

#[derive(Default)]
struct State {
    closed: bool,
    kinds: HashMap<Vec<u8>, Kind>,
    groups: HashMap<Group, Load>,
    calls: VecDeque<Call>,
    left: Vec<u64>,
    refused: Refused,
    has_sent: bool,
}

/// Shared by the connections and the interpreter's threads.
pub struct Shared {
    pub limits: Limits,
    /// Calls that are not answered yet, or whose answer is on its way.
    pub in_hand: Arc<Budget>,
    pub connections: Arc<Budget>,
    /// Bytes of large requests.
    pub bodies: Arc<Budget>,
    pub outgoing: Arc<Outgoing>,
    numbers: AtomicU64,
    state: Mutex<State>,
    has_rows: Condvar,
    has_calls: Condvar,
    has_news: Condvar,
}

impl Shared {
    pub fn new(limits: Limits, patience: Duration) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Shared>| {
            let this = this.clone();
            let on_sent = Box::new(move || {
                if let Some(shared) = this.upgrade() {
                    shared.state().has_sent = true;
                    shared.has_news.notify_one();
                }
            });
            Shared {
                in_hand: Budget::new(MOST_CALLS, patience),
                connections: Budget::new(MOST_CONNECTIONS, patience),
                bodies: Budget::new(4 * limits.message_bytes, patience),
                outgoing: Arc::new(Outgoing::new(Budget::new(limits.unread_bytes, patience), on_sent)),
                limits,
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

    /// Takes in a call: with others of its kind where that is known, else by itself.
    pub fn submit(&self, call: Call) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            return refuse(call, code::UNAVAILABLE, ENDING);
        }
        match state.place(&call, &self.limits) {
            Place::Together => {
                state.add(call);
                self.has_rows.notify_one();
            }
            Place::Alone => {
                state.calls.push_back(call);
                self.has_calls.notify_one();
            }
            Place::None(model, why) => {
                drop(state);
                self.count_refused(model, code::UNAVAILABLE, why);
                refuse(call, code::UNAVAILABLE, why);
            }
        }
    }

    /// Counts a call that the interpreter never sees.
    pub fn count_refused(&self, model: String, code: u32, why: &'static str) {
        *self.state().refused.entry((model, code, why)).or_default() += 1;
        self.has_news.notify_one();
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
    /// Of the kinds that are ready, the one that has been so for longest is taken.
    pub fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            match state.next_ready(&self.limits) {
                Some((at, key)) if at <= Instant::now() => {
                    let batch = state.take(key, self.limits.batch_rows);
                    // Others may be ready, or be so in a while: another thread is to look.
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

    /// Says that a batch has been computed.
    pub fn computed(&self, group: &Group) {
        if let Some(load) = self.state().groups.get_mut(group) {
            load.computing = load.computing.saturating_sub(1);
        }
        self.has_rows.notify_one();
    }

    /// From now on, requests of this kind are put together.
    pub fn learn(&self, key: &[u8], group: Group) {
        let mut state = self.state();
        if state.kinds.len() >= MOST_KINDS && !state.kinds.contains_key(key) {
            // Those in use are met again at once.
            state.kinds.retain(|_, kind| !kind.waiting.is_empty());
            state.groups.retain(|_, load| load.waiting > 0 || load.computing > 0);
        }
        if !state.closed && state.kinds.len() < 2 * MOST_KINDS {
            let kind = || Kind { group, waiting: VecDeque::new(), rows: 0 };
            state.kinds.entry(key.to_vec()).or_insert_with(kind);
        }
    }

    /// Calls of this kind come one by one again, those that wait included.
    pub fn forget(&self, key: &[u8]) {
        let mut state = self.state();
        if let Some(kind) = state.kinds.remove(key) {
            state.load(&kind.group).waiting -= kind.rows;
            state.calls.extend(kind.waiting);
        }
        drop(state);
        self.has_calls.notify_all();
    }

    /// Says that the client of a call is gone that the interpreter may have taken.
    pub fn left(&self, id: u64) {
        self.state().left.push(id);
        self.has_news.notify_one();
    }

    /// Waits for news: calls whose clients have left, and what was refused; None once the server is closed.
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

    /// Ends all waits; what nobody has taken is refused.
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

/// Where a call goes.
enum Place {
    Together,
    Alone,
    /// Nowhere: its model, where that is known, and why.
    None(String, &'static str),
}

impl State {
    /// Finds the place of a call; makes room for it by forgetting those that nobody waits for any more.
    fn place(&mut self, call: &Call, limits: &Limits) -> Place {
        let known = call.rows.as_ref().filter(|rows| rows.rows < limits.batch_rows);
        let Some(group) = known.and_then(|rows| Some(self.kinds.get(&rows.key)?.group.clone())) else {
            if self.calls.len() >= limits.waiting_calls {
                let calls = std::mem::take(&mut self.calls).into_iter();
                self.calls = calls.filter_map(|call| unless_gone(call, "", &mut self.refused)).collect();
            }
            if self.calls.len() >= limits.waiting_calls {
                return Place::None(String::new(), "Too many requests wait for a thread");
            }
            return Place::Alone;
        };
        let most = limits.waiting_rows.saturating_sub(call.row_count());
        if self.load(&group).waiting > most {
            self.forget_gone(&group);
        }
        if self.load(&group).waiting > most {
            return Place::None(group.0.clone(), FULL);
        }
        Place::Together
    }

    /// Adds a call to those of its kind.
    fn add(&mut self, call: Call) {
        let Some(kind) = call.rows.as_ref().and_then(|rows| self.kinds.get_mut(&rows.key)) else { return };
        let (rows, group) = (call.row_count(), kind.group.clone());
        kind.rows += rows;
        kind.waiting.push_back(call);
        self.load(&group).waiting += rows;
    }

    fn load(&mut self, group: &Group) -> &mut Load {
        self.groups.entry(group.clone()).or_default()
    }

    /// Returns the kind that may be taken first, and when.
    ///
    /// Where no batch of a signature computes, one of its kinds may start once its `fill_time` is over. While others
    /// compute, rows can as well wait for more, until there are enough of the signature for a batch.
    fn next_ready(&self, limits: &Limits) -> Option<(Instant, Vec<u8>)> {
        let ready_at = |kind: &Kind| {
            let (first, load) = (kind.waiting.front()?.arrived, self.groups.get(&kind.group)?);
            let enough = load.waiting >= limits.batch_rows && load.computing < limits.batches;
            let at = if enough { first } else { first + limits.fill_time };
            (enough || load.computing == 0).then_some((at, first))
        };
        let ready = self.kinds.iter().filter_map(|(key, kind)| Some((ready_at(kind)?, key)));
        ready.min_by_key(|(times, _)| *times).map(|((at, _), key)| (at, key.clone()))
    }

    /// Takes the calls of a batch out; without those that nobody waits for.
    fn take(&mut self, key: Vec<u8>, most: usize) -> Batch {
        let kind = self.kinds.get_mut(&key).expect("the kind was found under the same lock");
        let (group, mut calls, mut rows, mut taken) = (kind.group.clone(), Vec::new(), 0, 0);
        while kind.waiting.front().is_some_and(|call| rows + call.row_count() <= most) {
            let call = kind.waiting.pop_front().expect("there is a first one");
            taken += call.row_count();
            if let Some(call) = unless_gone(call, &group.0, &mut self.refused) {
                rows += call.row_count();
                calls.push(call);
            }
        }
        kind.rows -= taken;
        self.load(&group).waiting -= taken;
        Batch { key, group, calls }
    }

    /// Drops the calls of a signature that nobody waits for any more.
    fn forget_gone(&mut self, group: &Group) {
        let mut waiting = 0;
        for kind in self.kinds.values_mut().filter(|kind| kind.group == *group) {
            let calls = std::mem::take(&mut kind.waiting).into_iter();
            kind.waiting = calls.filter_map(|call| unless_gone(call, &group.0, &mut self.refused)).collect();
            kind.rows = kind.waiting.iter().map(Call::row_count).sum();
            waiting += kind.rows;
        }
        self.load(group).waiting = waiting;
    }
}

/// Returns the call; one that nobody waits for any more is refused and counted.
fn unless_gone(call: Call, model: &str, refused: &mut Refused) -> Option<Call> {
    let Some(code) = call.gone() else { return Some(call) };
    let why = if code == code::CANCELLED { LEFT } else { LATE };
    *refused.entry((model.to_owned(), code, why)).or_default() += 1;
    refuse(call, code, why);
    None
}

/// Answers a call with an error; one whose client has left is forgotten.
pub fn refuse(call: Call, code: u32, message: &str) {
    let _ = call.reply.send(Answer::Status(code, message.to_owned()));
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

fn wait_until<'a>(condition: &Condvar, state: MutexGuard<'a, State>, at: Instant) -> MutexGuard<'a, State> {
    let time = at.saturating_duration_since(Instant::now());
    condition.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
}
