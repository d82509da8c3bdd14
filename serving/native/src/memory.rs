//! Memory that crosses between the interpreter and the connections, without a copy either way.

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use tokio::sync::{oneshot, watch};

/// Bytes of a request, read-only; `memoryview` and NumPy look at them where they lie.
#[pyclass(frozen, module = "serving._front")]
pub struct Memory {
    data: Arc<Body>,
}

impl Memory {
    pub fn new(data: Arc<Body>) -> Self {
        Memory { data }
    }
}

#[pymethods]
impl Memory {
    fn __len__(&self) -> usize {
        self.data.bytes().len()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let bytes = slf.get().data.bytes();
        let (start, length) = (bytes.as_ptr().cast_mut().cast(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: the view holds a reference to this object, whose bytes neither move nor change.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// How many bytes of one kind are held, and how many may be.
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Budget { used: AtomicUsize::new(0), limit }
    }

    /// Takes room for so many bytes more; a single holder may have more than the limit where nothing else is held.
    pub fn take(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = used == 0 || used.saturating_add(bytes) <= self.limit;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The bytes of a request, counted while they are held.
pub struct Body {
    data: Vec<u8>,
    budget: Arc<Budget>,
    counted: usize,
}

impl Body {
    pub fn new(budget: Arc<Budget>) -> Self {
        Body { data: Vec::new(), budget, counted: 0 }
    }

    /// Bytes put together from requests that are themselves counted.
    pub fn joined(data: Vec<u8>, budget: Arc<Budget>) -> Self {
        Body { data, budget, counted: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Adds bytes; the memory grows with what came, up to `whole`, and not with what was announced.
    /// Returns false where there is no room.
    pub fn push(&mut self, bytes: &[u8], whole: usize) -> bool {
        if !self.budget.take(bytes.len()) {
            return false;
        }
        self.counted += bytes.len();
        let needed = self.data.len() + bytes.len();
        if needed > self.data.capacity() {
            let goal = whole.min(needed.max(2 * self.data.capacity()).max(1 << 16)).max(needed);
            self.data.reserve_exact(goal - self.data.len());
        }
        self.data.extend_from_slice(bytes);
        true
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.budget.give_back(self.counted);
    }
}

/// Answers on their way: their bytes are bounded in sum, and those that nobody reads can be given up.
pub struct Outgoing {
    unread: Budget,
    patience: Duration,
    give_up: watch::Sender<Option<Instant>>,
    /// Buffers that were sent and must be given back by a thread that holds the interpreter.
    sent: Mutex<Vec<PyBuffer<u8>>>,
    on_sent: Box<dyn Fn() + Send + Sync>,
}

impl Outgoing {
    pub fn new(limit: usize, patience: Duration, on_sent: Box<dyn Fn() + Send + Sync>) -> Self {
        Outgoing {
            unread: Budget::new(limit),
            patience,
            give_up: watch::Sender::new(None),
            sent: Mutex::default(),
            on_sent,
        }
    }

    /// Tells when answers are to be given up: those begun before the time that it holds.
    pub fn given_up(&self) -> watch::Receiver<Option<Instant>> {
        self.give_up.subscribe()
    }

    /// Gives buffers back to the interpreter.
    pub fn release(&self, _: Python<'_>) {
        drop(std::mem::take(&mut *self.sent.lock().unwrap()));
    }

    pub fn unread(&self) -> usize {
        self.unread.used()
    }
}

/// Buffers of the interpreter, of one answer or of all answers of a batch.
pub struct Buffers {
    views: Vec<PyBuffer<u8>>,
    size: usize,
    outgoing: Arc<Outgoing>,
}

impl Buffers {
    /// Takes hold of buffers of bytes. Returns None where too many answers wait for clients that do not read them.
    pub fn take(arrays: &[Bound<'_, PyAny>], outgoing: &Arc<Outgoing>) -> PyResult<Option<Arc<Buffers>>> {
        let views = arrays.iter().map(PyBuffer::<u8>::get).collect::<PyResult<Vec<_>>>()?;
        if !views.iter().all(|view| view.is_c_contiguous()) {
            return Err(PyValueError::new_err("the bytes of an answer must lie one after another"));
        }
        let size = views.iter().map(|view| view.len_bytes()).sum();
        if !outgoing.unread.take(size) {
            let late = Instant::now().checked_sub(outgoing.patience);
            outgoing.give_up.send_replace(late);
            return Ok(None);
        }
        Ok(Some(Arc::new(Buffers { views, size, outgoing: outgoing.clone() })))
    }

    pub fn len(&self, array: usize) -> usize {
        self.views[array].len_bytes()
    }

    /// Returns a part of one buffer as bytes to send.
    ///
    /// Panics where the part is not inside the buffer.
    pub fn part(
        self: &Arc<Self>,
        array: usize,
        start: usize,
        length: usize,
        done: Option<oneshot::Sender<()>>,
    ) -> Bytes {
        assert!(start.checked_add(length).is_some_and(|end| end <= self.len(array)));
        Bytes::from_owner(Part { buffers: self.clone(), array, start, length, _done: done })
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.outgoing.unread.give_back(self.size);
        self.outgoing.sent.lock().unwrap().append(&mut self.views);
        (self.outgoing.on_sent)();
    }
}

struct Part {
    buffers: Arc<Buffers>,
    array: usize,
    start: usize,
    length: usize,
    /// Dropped with the last part of an answer, which tells that it was sent.
    _done: Option<oneshot::Sender<()>>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        let start = self.buffers.views[self.array].buf_ptr().cast::<u8>();
        // SAFETY: the view keeps its bytes in place, `part` checked the range, and answers are not written to again.
        unsafe { std::slice::from_raw_parts(start.add(self.start), self.length) }
    }
}
