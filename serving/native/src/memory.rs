//! Memory that the interpreter and the connections share without a copy, and limits on how much of it is held.

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use tokio::sync::{oneshot, watch};

/// Requests up to this size are not counted against the limit on bytes, because the number of calls is limited anyway.
const SMALL_REQUEST: usize = 64 << 10;
/// Answers up to this size are copied. So they do not count as unread, and do not keep the memory of a batch.
const SMALL_ANSWER: usize = 4096;

/// A limit on something that is held, such as bytes or connections.
///
/// When the limit is reached, those who have held room for longer than `patience` are told to give it up.
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
    patience: Duration,
    /// Holders that began before this time must give their room up.
    late: watch::Sender<Option<Instant>>,
}

impl Budget {
    pub fn new(limit: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Budget { used: AtomicUsize::new(0), limit, patience, late: watch::Sender::new(None) })
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Takes room, or returns None if there is none. A holder may exceed the limit if nobody else holds any room.
    pub fn take(self: &Arc<Self>, count: usize) -> Option<Room> {
        let mut room = Room { budget: self.clone(), count: 0 };
        room.grow(count).then_some(room)
    }

    /// Takes room even beyond the limit, for the few that every client may have.
    pub fn take_anyway(self: &Arc<Self>, count: usize) -> Room {
        if self.used.fetch_add(count, Ordering::SeqCst) >= self.limit {
            self.needs_room();
        }
        Room { budget: self.clone(), count }
    }

    /// Waits until a holder that began at `began` must give its room up.
    pub async fn runs_out(&self, began: Instant) {
        let told = self.late.subscribe().wait_for(|late| late.is_some_and(|late| began < late)).await.is_ok();
        if !told {
            std::future::pending::<()>().await;
        }
    }

    fn needs_room(&self) {
        let Some(now) = Instant::now().checked_sub(self.patience) else { return };
        self.late.send_if_modified(|late| {
            // Each change wakes all holders, so changes are at least 200 ms apart.
            let changes = late.is_none_or(|before| now.saturating_duration_since(before) > Duration::from_millis(200));
            if changes {
                *late = Some(now);
            }
            changes
        });
    }
}

/// Room in a budget; dropping it gives the room back.
pub struct Room {
    budget: Arc<Budget>,
    count: usize,
}

impl Room {
    fn grow(&mut self, more: usize) -> bool {
        let (own, limit) = (self.count, self.budget.limit);
        let with_more = |used: usize| {
            let wanted = used.saturating_add(more);
            (used == own || wanted <= limit).then_some(wanted)
        };
        let fits = self.budget.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, with_more).is_ok();
        if fits {
            self.count += more;
        } else {
            self.budget.needs_room();
        }
        fits
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.count, Ordering::SeqCst);
    }
}

/// Bytes of a request; see `_front.pyi`.
#[pyclass(frozen, module = "serving.server._front")]
pub struct Memory {
    body: Arc<Body>,
}

impl Memory {
    pub fn new(body: &Arc<Body>) -> Self {
        Memory { body: body.clone() }
    }
}

#[pymethods]
impl Memory {
    fn __len__(&self) -> usize {
        self.body.bytes().len()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("the view to fill is null"));
        }
        let bytes = slf.get().body.bytes();
        let (start, length) = (bytes.as_ptr().cast_mut().cast(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: the view holds a reference to this object, whose bytes neither move nor change.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// The bytes of one request, or the joined rows of several.
#[derive(Default)]
pub struct Body {
    data: Vec<u8>,
    room: Option<Room>,
}

impl Body {
    /// Wraps bytes that count against no limit, because the requests that they were copied from do.
    pub fn joined(data: Vec<u8>) -> Self {
        Body { data, room: None }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Appends bytes of a message that has `whole` bytes; returns false if there is no room.
    ///
    /// Memory grows with the bytes that arrive, so a client cannot claim memory by announcing a large message.
    pub fn push(&mut self, bytes: &[u8], whole: usize, budget: &Arc<Budget>) -> bool {
        if whole > SMALL_REQUEST {
            let room = self.room.get_or_insert_with(|| Room { budget: budget.clone(), count: 0 });
            if !room.grow(bytes.len()) {
                return false;
            }
        }
        let needed = self.data.len() + bytes.len();
        if needed > self.data.capacity() {
            let goal = whole.min(2 * needed).max(needed);
            self.data.reserve_exact(goal - self.data.len());
        }
        self.data.extend_from_slice(bytes);
        true
    }
}

/// Answers that clients have not read yet; the sum of their bytes is limited.
pub struct Outgoing {
    pub unread: Arc<Budget>,
    /// Buffers that were sent. Only a thread that holds the interpreter may give them back.
    sent: Mutex<Vec<PyBuffer<u8>>>,
    on_sent: Box<dyn Fn() + Send + Sync>,
}

impl Outgoing {
    pub fn new(unread: Arc<Budget>, on_sent: Box<dyn Fn() + Send + Sync>) -> Self {
        Outgoing { unread, sent: Mutex::default(), on_sent }
    }

    /// Gives buffers back to the interpreter.
    pub fn release(&self, _: Python<'_>) {
        // The buffers are dropped after the lock is released, because connections wait for the lock.
        let sent = std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner));
        drop(sent);
    }

    /// Gets the buffers of Python objects that hold one answer, or all answers of a batch.
    ///
    /// Raises ValueError if the bytes of an object are not contiguous.
    pub fn hold(self: &Arc<Self>, arrays: &[Bound<'_, PyAny>]) -> PyResult<Arc<Buffers>> {
        let views = arrays.iter().map(PyBuffer::<u8>::get).collect::<PyResult<Vec<_>>>()?;
        if !views.iter().all(|view| view.is_c_contiguous()) {
            return Err(PyValueError::new_err(
                "the bytes of an answer must be contiguous; use numpy.ascontiguousarray",
            ));
        }
        Ok(Arc::new(Buffers { views, room: Mutex::default(), outgoing: self.clone() }))
    }
}

/// Buffers of Python objects that answers are sent from.
pub struct Buffers {
    views: Vec<PyBuffer<u8>>,
    room: Mutex<Option<Room>>,
    outgoing: Arc<Outgoing>,
}

/// A part of one of the buffers.
#[derive(Clone, Copy)]
pub struct Place {
    pub array: usize,
    pub start: usize,
    pub length: usize,
}

impl Buffers {
    pub fn len(&self, array: usize) -> usize {
        self.views[array].len_bytes()
    }

    /// Takes room for all buffers; returns false if there are too many answers that clients have not read.
    pub fn take_room(&self) -> bool {
        let size = self.views.iter().map(|view| view.len_bytes()).sum();
        let room = self.outgoing.unread.take(size);
        let taken = room.is_some();
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = room;
        taken
    }

    fn bytes(&self, place: Place) -> &[u8] {
        assert!(place.start.checked_add(place.length).is_some_and(|end| end <= self.len(place.array)));
        if place.length == 0 {
            return &[];
        }
        let start = self.views[place.array].buf_ptr().cast::<u8>();
        // SAFETY: the view keeps its bytes in place, the range was checked, and answers are not written to again.
        unsafe { std::slice::from_raw_parts(start.add(place.start), place.length) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.outgoing.sent.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.views);
        (self.outgoing.on_sent)();
    }
}

/// A message to be sent: its parts, in order.
pub struct Message {
    pub parts: Vec<Bytes>,
    /// Resolves when HTTP/2 no longer needs the message: its last byte was written, or the call is over.
    pub sent: oneshot::Receiver<()>,
    /// How the message is compressed, or None if it is not.
    pub encoding: Option<String>,
}

/// Tells whether a message of this length is copied instead of sent from Python's memory.
pub fn is_small(length: usize) -> bool {
    length <= SMALL_ANSWER
}

impl Message {
    /// Makes a message of `length` bytes from pieces: bytes of our own, each followed by a part of the buffers.
    pub fn new(pieces: Vec<(Vec<u8>, Place)>, length: usize, buffers: &Arc<Buffers>) -> Self {
        let (done, sent) = oneshot::channel();
        if is_small(length) {
            let data = pieces.iter().flat_map(|(own, place)| [own.as_slice(), buffers.bytes(*place)]);
            let data = data.collect::<Vec<_>>().concat();
            let part = Bytes::from_owner(Part { data: Data::Own(data), _done: Some(done) });
            return Message { parts: vec![part], sent, encoding: None };
        }
        let mut parts = Vec::with_capacity(2 * pieces.len());
        let (mut done, count) = (Some(done), pieces.len());
        for (number, (own, place)) in pieces.into_iter().enumerate() {
            if !own.is_empty() {
                parts.push(Bytes::from(own));
            }
            let done = if number + 1 == count { done.take() } else { None };
            parts.push(Bytes::from_owner(Part { data: Data::Held(buffers.clone(), place), _done: done }));
        }
        Message { parts, sent, encoding: None }
    }
}

struct Part {
    data: Data,
    /// Only the last part of a message has it; dropping that part resolves `Message::sent`.
    _done: Option<oneshot::Sender<()>>,
}

enum Data {
    Own(Vec<u8>),
    Held(Arc<Buffers>, Place),
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        match &self.data {
            Data::Own(data) => data,
            Data::Held(buffers, place) => buffers.bytes(*place),
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
