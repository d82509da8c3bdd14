//! The calls that wait for the interpreter: where each one waits, and which batch is computed next.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::queue::{Answer, Batch, Call, Limits, code};

pub const LATE: &str = "The deadline passed before the request was answered.";
const LEFT: &str = "The client has left.";
const FULL: &str = "The batch scheduling queue to which this task was submitted is full";

/// A model and one of its signatures. Requests of several kinds can ask for the same one.
pub type Group = Arc<(String, String)>;

/// How many calls were refused without the interpreter, by model (empty if it is not known), code and reason.
pub type Refused = HashMap<(String, u32, &'static str), usize>;

/// Requests with the same key: they differ in their rows alone, so one batch can hold them.
pub struct Kind {
    pub group: Group,
    pub waiting: VecDeque<Call>,
    /// Rows of the waiting calls.
    pub rows: usize,
}

/// Work of one signature, of all its kinds.
#[derive(Default)]
pub struct Load {
    /// Rows that wait.
    pub waiting: usize,
    /// Batches that are being computed.
    pub computing: usize,
}

/// What the connections and the interpreter's threads share under one lock.
#[derive(Default)]
pub struct State {
    pub closed: bool,
    /// Kinds of requests that are batched, by key.
    pub kinds: HashMap<Vec<u8>, Kind>,
    pub groups: HashMap<Group, Load>,
    /// Calls that are not batched, oldest first.
    pub calls: VecDeque<Call>,
    /// Calls whose clients have left since the last `next_news`.
    pub left: Vec<u64>,
    /// Calls that were refused since the last `next_news`.
    pub refused: Refused,
    /// An answer was sent since the last `next_news`, so its memory can be given back to the interpreter.
    pub has_sent: bool,
}

/// Where a call waits.
pub enum Place {
    /// With others of its kind, for a batch.
    Batched,
    /// Alone, for a thread.
    Alone,
    /// Nowhere, because the queue is full: the call's model (empty if it is not known), and the reason.
    Refused(String, &'static str),
}

impl State {
    /// Chooses where a call waits. If the queue is full, calls that nobody waits for any more are removed first.
    pub fn place(&mut self, call: &Call, limits: &Limits) -> Place {
        let batched = call.rows.as_ref().filter(|rows| rows.rows < limits.batch_rows);
        let Some(group) = batched.and_then(|rows| Some(self.kinds.get(&rows.key)?.group.clone())) else {
            if self.calls.len() >= limits.waiting_calls {
                let calls = std::mem::take(&mut self.calls).into_iter();
                self.calls = calls.filter_map(|call| unless_gone(call, "", &mut self.refused)).collect();
            }
            if self.calls.len() >= limits.waiting_calls {
                return Place::Refused(String::new(), "Too many requests wait for a thread");
            }
            return Place::Alone;
        };
        let most = limits.waiting_rows.saturating_sub(call.row_count());
        if self.load(&group).waiting > most {
            self.remove_gone(&group);
        }
        if self.load(&group).waiting > most {
            return Place::Refused(group.0.clone(), FULL);
        }
        Place::Batched
    }

    /// Adds a call to the others of its kind.
    pub fn add(&mut self, call: Call) {
        let Some(kind) = call.rows.as_ref().and_then(|rows| self.kinds.get_mut(&rows.key)) else { return };
        let (rows, group) = (call.row_count(), kind.group.clone());
        kind.rows += rows;
        kind.waiting.push_back(call);
        self.load(&group).waiting += rows;
    }

    pub fn load(&mut self, group: &Group) -> &mut Load {
        self.groups.entry(group.clone()).or_default()
    }

    /// Returns the kind whose batch is to start next, and the time from which it may start.
    ///
    /// If no batch of a signature is being computed, a kind may start `fill_time` after its first call arrived. If
    /// one is being computed, a second one starts only when enough rows for a full batch of that signature wait:
    /// before that, waiting costs nothing and the batch grows.
    pub fn next_ready(&self, limits: &Limits) -> Option<(Instant, Vec<u8>)> {
        let ready_at = |kind: &Kind| {
            let (first, load) = (kind.waiting.front()?.arrived, self.groups.get(&kind.group)?);
            let enough = load.waiting >= limits.batch_rows && load.computing < limits.batches;
            let at = if enough { first } else { first + limits.fill_time };
            (enough || load.computing == 0).then_some((at, first))
        };
        let ready = self.kinds.iter().filter_map(|(key, kind)| Some((ready_at(kind)?, key)));
        ready.min_by_key(|(times, _)| *times).map(|((at, _), key)| (at, key.clone()))
    }

    /// Removes the calls of the next batch from the queue; those that nobody waits for any more are left out of it.
    pub fn take(&mut self, key: Vec<u8>, most: usize) -> Batch {
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
        kind.rows = kind.rows.saturating_sub(taken);
        let load = self.load(&group);
        load.waiting = load.waiting.saturating_sub(taken);
        Batch { key, group, calls }
    }

    /// Removes the calls of a signature that nobody waits for any more.
    fn remove_gone(&mut self, group: &Group) {
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

/// Returns the call, or refuses and counts it if nobody waits for it any more.
fn unless_gone(call: Call, model: &str, refused: &mut Refused) -> Option<Call> {
    let Some(code) = call.gone() else { return Some(call) };
    let why = if code == code::CANCELLED { LEFT } else { LATE };
    *refused.entry((model.to_owned(), code, why)).or_default() += 1;
    refuse(call, code, why);
    None
}

/// Answers a call with an error. If its client has left, nothing happens.
pub fn refuse(call: Call, code: u32, message: &str) {
    let _ = call.reply.send(Answer::Status(code, message.to_owned()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::memory::Body;
    use crate::predict::Rows;

    const LIMITS: Limits = Limits {
        message_bytes: 1 << 20,
        unread_bytes: 1 << 20,
        batch_rows: 4,
        waiting_rows: 8,
        waiting_calls: 2,
        batches: 2,
        fill_time: Duration::from_millis(50),
    };

    struct Queue {
        state: State,
        start: Instant,
        clients: Vec<oneshot::Receiver<Answer>>,
    }

    impl Queue {
        /// A queue that batches the kinds `a` and `b` of one signature, and `c` of another.
        fn new() -> Self {
            let mut state = State::default();
            for (key, signature) in [(b"a", "decode"), (b"b", "decode"), (b"c", "encode")] {
                let group = Group::new(("vae".to_owned(), signature.to_owned()));
                state.kinds.insert(key.to_vec(), Kind { group, waiting: VecDeque::new(), rows: 0 });
            }
            Queue { state, start: Instant::now(), clients: Vec::new() }
        }

        fn call(&mut self, key: &[u8], rows: usize, arrived_ms: u64) -> Call {
            let (reply, client) = oneshot::channel();
            self.clients.push(client);
            Call {
                id: 0,
                path: String::new(),
                encoding: None,
                arrived: self.start + Duration::from_millis(arrived_ms),
                deadline: None,
                body: Arc::new(Body::default()),
                rows: Some(Rows { key: key.to_vec(), rows, inputs: Vec::new() }),
                reply,
            }
        }

        fn add(&mut self, key: &[u8], rows: usize, arrived_ms: u64) {
            let call = self.call(key, rows, arrived_ms);
            assert!(matches!(self.state.place(&call, &LIMITS), Place::Batched));
            self.state.add(call);
        }

        /// The key of the next batch, and when it may start, in ms.
        fn next(&self) -> Option<(Vec<u8>, u128)> {
            self.state.next_ready(&LIMITS).map(|(at, key)| (key, (at - self.start).as_millis()))
        }

        fn take(&mut self, key: &[u8]) -> Vec<usize> {
            let batch = self.state.take(key.to_vec(), LIMITS.batch_rows);
            self.state.load(&batch.group).computing += 1;
            batch.calls.iter().map(Call::row_count).collect()
        }
    }

    #[test]
    fn a_batch_waits_to_be_filled_unless_enough_rows_are_there() {
        let mut queue = Queue::new();
        queue.add(b"a", 1, 10);
        assert_eq!(queue.next(), Some((b"a".to_vec(), 60)));
        queue.add(b"b", 3, 20);
        assert_eq!(queue.next(), Some((b"a".to_vec(), 10)));
    }

    #[test]
    fn while_a_batch_is_computed_the_next_one_of_its_signature_must_be_full() {
        let mut queue = Queue::new();
        queue.add(b"a", 1, 0);
        assert_eq!(queue.take(b"a"), [1]);
        queue.add(b"a", 3, 10);
        assert_eq!(queue.next(), None);
        queue.add(b"c", 1, 20);
        assert_eq!(queue.next(), Some((b"c".to_vec(), 70)));
        queue.add(b"a", 1, 30);
        assert_eq!(queue.next(), Some((b"a".to_vec(), 10)));
        assert_eq!(queue.take(b"a"), [3, 1]);
        queue.add(b"a", 3, 40);
        queue.add(b"b", 3, 50);
        assert_eq!(queue.next(), Some((b"c".to_vec(), 70)), "as many batches as allowed are being computed");
    }

    #[test]
    fn a_batch_holds_no_more_rows_than_its_limit() {
        let mut queue = Queue::new();
        for rows in [2, 1, 2, 1] {
            queue.add(b"a", rows, 0);
        }
        assert_eq!(queue.take(b"a"), [2, 1]);
        assert_eq!(queue.take(b"a"), [2, 1]);
        assert_eq!(queue.take(b"a"), [] as [usize; 0]);
    }

    #[test]
    fn rows_beyond_the_limit_are_refused_for_the_whole_signature() {
        let mut queue = Queue::new();
        for key in [b"a", b"b"] {
            queue.add(key, 3, 0);
        }
        let call = queue.call(b"a", 3, 0);
        assert!(matches!(queue.state.place(&call, &LIMITS), Place::Refused(model, FULL) if model == "vae"));
        queue.add(b"a", 2, 0);
        queue.add(b"c", 3, 0);
    }

    #[test]
    fn a_full_queue_first_removes_calls_that_nobody_waits_for() {
        let mut queue = Queue::new();
        queue.add(b"a", 3, 0);
        queue.add(b"b", 3, 0);
        queue.clients.clear();
        queue.add(b"a", 3, 0);
        assert_eq!(queue.state.refused[&("vae".to_owned(), code::CANCELLED, LEFT)], 2);
        assert_eq!(queue.take(b"a"), [3]);
    }

    #[test]
    fn a_call_whose_deadline_has_passed_is_left_out_of_the_batch_and_told_so() {
        let mut queue = Queue::new();
        let mut call = queue.call(b"a", 1, 0);
        call.deadline = Some(queue.start);
        queue.state.add(call);
        queue.add(b"a", 2, 0);
        assert_eq!(queue.take(b"a"), [2]);
        let answer = queue.clients[0].try_recv().unwrap();
        assert!(matches!(answer, Answer::Status(code::DEADLINE_EXCEEDED, message) if message == LATE));
    }

    #[test]
    fn unknown_kinds_and_large_requests_wait_alone_up_to_a_limit() {
        let mut queue = Queue::new();
        for (key, rows) in [(b"unknown".as_slice(), 1), (b"a", 4)] {
            let call = queue.call(key, rows, 0);
            assert!(matches!(queue.state.place(&call, &LIMITS), Place::Alone));
            queue.state.calls.push_back(call);
        }
        let call = queue.call(b"unknown", 1, 0);
        assert!(matches!(queue.state.place(&call, &LIMITS), Place::Refused(model, _) if model.is_empty()));
    }
}
