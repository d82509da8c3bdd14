//! The HTTP/2 side of the embedded server, as the Python module `serving._front`.
//!
//! Connections, gRPC's framing and the putting together of rows happen here, on one thread that needs no
//! interpreter; what a request means and which model answers it is decided in Python (`serving/front.py`), once
//! for each batch. HTTP/2 itself is the crate `h2`'s.

mod calls;
mod connection;
mod load;
mod memory;
mod predict;

use std::collections::HashMap;
use std::net::{TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::sync::{oneshot, watch};

use crate::calls::{Answer, Limits, Shared};
use crate::connection::Stage;
use crate::memory::{Body, Buffers, Memory};

/// The listening side of a server; see `_front.pyi`.
#[pyclass(frozen, module = "serving._front")]
struct Front {
    shared: Arc<Shared>,
    stage: watch::Sender<Stage>,
    #[pyo3(get)]
    port: u16,
    listener: Mutex<Option<TcpListener>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[pymethods]
impl Front {
    #[new]
    #[pyo3(signature = (host, port, *, message_bytes, unread_bytes, patience_s, batch_rows, waiting_rows, waiting_calls, batches, fill_time_s))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        host: &str,
        port: u16,
        message_bytes: usize,
        unread_bytes: usize,
        patience_s: f64,
        batch_rows: usize,
        waiting_rows: usize,
        waiting_calls: usize,
        batches: usize,
        fill_time_s: f64,
    ) -> PyResult<Self> {
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        let listener = TcpListener::bind(&addresses[..])?;
        listener.set_nonblocking(true)?;
        let time = |seconds: f64| {
            Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))
        };
        let limits =
            Limits { message_bytes, batch_rows, waiting_rows, waiting_calls, batches, fill_time: time(fill_time_s)? };
        Ok(Front {
            shared: Shared::new(limits, unread_bytes, time(patience_s)?),
            stage: watch::Sender::new(Stage::Open),
            port: listener.local_addr()?.port(),
            listener: Mutex::new(Some(listener)),
            thread: Mutex::default(),
        })
    }

    fn start(&self) -> PyResult<()> {
        let Some(listener) = self.listener.lock().unwrap().take() else {
            return Err(PyRuntimeError::new_err("the front was started before"));
        };
        let (shared, stage) = (self.shared.clone(), self.stage.subscribe());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let ended = self.stage.subscribe();
        let thread = std::thread::Builder::new().name("front".into()).spawn(move || {
            runtime.block_on(async move {
                let mut ended = ended;
                tokio::spawn(connection::listen(listener, shared, stage));
                let _ = ended.wait_for(|stage| *stage == Stage::Closed).await;
            });
        })?;
        *self.thread.lock().unwrap() = Some(thread);
        Ok(())
    }

    fn next_call(&self, py: Python<'_>) -> Option<Call> {
        let call = py.detach(|| self.shared.next_call())?;
        Some(Call::new(call, &self.shared))
    }

    fn next_batch(&self, py: Python<'_>) -> Option<Batch> {
        let (batch, inputs) = py.detach(|| {
            let batch = self.shared.next_batch()?;
            let inputs = join_inputs(&batch.calls, &self.shared);
            Some((batch, inputs))
        })?;
        Some(Batch::new(batch, inputs, &self.shared))
    }

    fn next_left(&self, py: Python<'_>) -> Option<Vec<u64>> {
        let left = py.detach(|| self.shared.next_tidying());
        self.shared.outgoing.release(py);
        left
    }

    fn held(&self) -> (usize, usize, usize) {
        let shared = &self.shared;
        (shared.in_hand.load(Ordering::SeqCst), shared.bodies.used(), shared.outgoing.unread())
    }

    fn drain(&self, py: Python<'_>, grace_s: f64) -> bool {
        self.listener.lock().unwrap().take();
        self.stage.send_replace(Stage::Draining);
        let end = Instant::now() + Duration::try_from_secs_f64(grace_s).unwrap_or_default();
        py.detach(|| {
            while self.shared.in_hand.load(Ordering::SeqCst) > 0 {
                if Instant::now() >= end {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            true
        })
    }

    fn close(&self, py: Python<'_>) {
        self.shared.close();
        let thread = self.thread.lock().unwrap().take();
        py.detach(|| {
            // What `close` refused goes out before the connections end.
            std::thread::sleep(Duration::from_millis(20));
            self.stage.send_replace(Stage::Closed);
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        });
        self.shared.outgoing.release(py);
    }
}

/// Puts the rows of several calls one after another, for each input.
fn join_inputs(calls: &[calls::Call], shared: &Shared) -> Vec<(String, Arc<Body>)> {
    let rows = |call: &calls::Call| call.rows.as_ref().expect("only calls with rows are put together").inputs.len();
    let Some(first) = calls.first() else { return Vec::new() };
    (0..rows(first))
        .map(|index| {
            let input = |call: &'_ calls::Call| {
                let input = &call.rows.as_ref().expect("as above").inputs[index];
                (input.alias.clone(), input.content.clone())
            };
            let alias = String::from_utf8_lossy(&first.body.bytes()[input(first).0]).into_owned();
            let size = calls.iter().map(|call| input(call).1.len()).sum();
            let mut data = Vec::with_capacity(size);
            for call in calls {
                data.extend_from_slice(&call.body.bytes()[input(call).1]);
            }
            (alias, Arc::new(Body::joined(data, shared.bodies.clone())))
        })
        .collect()
}

/// One request; see `_front.pyi`.
#[pyclass(frozen, module = "serving._front")]
struct Call {
    shared: Arc<Shared>,
    #[pyo3(get)]
    id: u64,
    #[pyo3(get)]
    path: String,
    #[pyo3(get)]
    encoding: Option<String>,
    deadline: Option<Instant>,
    arrived: Instant,
    body: Arc<Body>,
    key: Option<Vec<u8>>,
    reply: Mutex<Option<oneshot::Sender<Answer>>>,
}

impl Call {
    fn new(call: calls::Call, shared: &Arc<Shared>) -> Self {
        Call {
            shared: shared.clone(),
            id: call.id,
            path: call.path,
            encoding: call.encoding,
            deadline: call.deadline,
            arrived: call.arrived,
            body: call.body,
            key: call.rows.filter(|rows| rows.rows < shared.limits.batch_rows).map(|rows| rows.key),
            reply: Mutex::new(Some(call.reply)),
        }
    }

    fn reply(&self, answer: Answer) {
        if let Some(reply) = self.reply.lock().unwrap().take() {
            let _ = reply.send(answer);
        }
    }
}

#[pymethods]
impl Call {
    #[getter]
    fn body(&self) -> Memory {
        Memory::new(self.body.clone())
    }

    #[getter]
    fn timeout_s(&self) -> Option<f64> {
        Some(self.deadline?.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    #[getter]
    fn waited_s(&self) -> f64 {
        self.arrived.elapsed().as_secs_f64()
    }

    fn has_left(&self) -> bool {
        self.reply.lock().unwrap().as_ref().is_none_or(|reply| reply.is_closed())
    }

    fn put_together(&self) {
        if let Some(key) = &self.key {
            self.shared.learn(key);
        }
    }

    fn answer(&self, parts: Vec<Bound<'_, PyAny>>) -> PyResult<bool> {
        let Some(buffers) = Buffers::take(&parts, &self.shared.outgoing)? else {
            return Ok(false);
        };
        let total: usize = (0..parts.len()).map(|part| buffers.len(part)).sum();
        let (done, sent) = oneshot::channel();
        let mut message = vec![prefix(total)?];
        let mut done = Some(done);
        for part in 0..parts.len() {
            let last = if part + 1 == parts.len() { done.take() } else { None };
            message.push(buffers.part(part, 0, buffers.len(part), last));
        }
        self.reply(Answer::Message(message, Some(sent)));
        Ok(true)
    }

    fn refuse(&self, code: u32, message: String) {
        self.reply(Answer::Status(code, message));
    }
}

/// Calls that are computed together; see `_front.pyi`.
#[pyclass(frozen, module = "serving._front")]
struct Batch {
    shared: Arc<Shared>,
    key: Vec<u8>,
    #[pyo3(get)]
    rows: Vec<usize>,
    turned_away: calls::TurnedAway,
    first: Arc<Body>,
    inputs: Vec<(String, Arc<Body>)>,
    arrived: Vec<Instant>,
    calls: Mutex<Vec<calls::Call>>,
    computed: AtomicBool,
}

impl Batch {
    fn new(batch: calls::Batch, inputs: Vec<(String, Arc<Body>)>, shared: &Arc<Shared>) -> Self {
        let rows = batch.calls.iter().map(|call| call.rows.as_ref().map_or(0, |rows| rows.rows)).collect();
        Batch {
            shared: shared.clone(),
            key: batch.key,
            rows,
            turned_away: batch.turned_away,
            first: batch.calls[0].body.clone(),
            inputs,
            arrived: batch.calls.iter().map(|call| call.arrived).collect(),
            calls: Mutex::new(batch.calls),
            computed: AtomicBool::new(false),
        }
    }

    fn take_calls(&self) -> Vec<calls::Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.computed();
    }
}

#[pymethods]
impl Batch {
    /// The first of the requests, which stands for all.
    #[getter]
    fn request(&self) -> Memory {
        Memory::new(self.first.clone())
    }

    #[getter]
    fn inputs(&self) -> Vec<(String, Memory)> {
        self.inputs.iter().map(|(alias, data)| (alias.clone(), Memory::new(data.clone()))).collect()
    }

    #[getter]
    fn waited_s(&self) -> Vec<f64> {
        self.arrived.iter().map(|arrived| arrived.elapsed().as_secs_f64()).collect()
    }

    #[getter]
    fn turned_away(&self) -> (usize, usize, usize) {
        self.turned_away.counts()
    }

    fn computed(&self) {
        if !self.computed.swap(true, Ordering::Relaxed) {
            self.shared.computed(&self.key);
        }
    }

    fn forget_kind(&self) -> (usize, usize, usize) {
        self.shared.forget(&self.key).counts()
    }

    fn calls(&self) -> Vec<Call> {
        self.take_calls().into_iter().map(|call| Call::new(call, &self.shared)).collect()
    }

    fn answer(
        &self,
        arrays: Vec<Bound<'_, PyAny>>,
        heads: HashMap<usize, Vec<Vec<u8>>>,
        tail: Vec<u8>,
    ) -> PyResult<bool> {
        let total: usize = self.rows.iter().sum();
        let Some(buffers) = Buffers::take(&arrays, &self.shared.outgoing)? else {
            return Ok(false);
        };
        let sizes: Vec<usize> = (0..arrays.len()).map(|array| buffers.len(array)).collect();
        if arrays.is_empty()
            || sizes.iter().any(|size| size % total != 0)
            || heads.values().any(|heads| heads.len() != arrays.len())
        {
            return Err(PyValueError::new_err("no outputs, one without a head, or one with other rows than the batch"));
        }
        let mut at = 0;
        for (call, &rows) in self.take_calls().into_iter().zip(&self.rows) {
            let heads = heads.get(&rows).ok_or_else(|| PyValueError::new_err(format!("no heads for {rows} rows")))?;
            let lengths: Vec<usize> = sizes.iter().map(|size| size / total * rows).collect();
            let length = tail.len() + heads.iter().map(Vec::len).sum::<usize>() + lengths.iter().sum::<usize>();
            let (done, sent) = oneshot::channel();
            let mut done = Some(done);
            let mut before = prefix(length)?.to_vec();
            before.extend_from_slice(&tail);
            let mut message = Vec::with_capacity(2 * arrays.len());
            for (array, head) in heads.iter().enumerate() {
                before.extend_from_slice(head);
                message.push(Bytes::from(std::mem::take(&mut before)));
                let last = if array + 1 == arrays.len() { done.take() } else { None };
                message.push(buffers.part(array, sizes[array] / total * at, lengths[array], last));
            }
            let _ = call.reply.send(Answer::Message(message, Some(sent)));
            at += rows;
        }
        Ok(true)
    }

    fn refuse(&self, code: u32, message: &str) {
        for call in self.take_calls() {
            calls::refuse(call, code, message);
        }
    }
}

/// Returns what stands before a message in a gRPC stream.
fn prefix(length: usize) -> PyResult<Bytes> {
    let length = u32::try_from(length).map_err(|_| PyValueError::new_err("an answer of more than 4 GiB"))?;
    Ok(Bytes::from([&[0], &length.to_be_bytes()[..]].concat()))
}

type Found = (Vec<u8>, usize, Vec<(Vec<u8>, Vec<u8>)>);

/// Returns the key of a Predict request, and alias and content of each input; None where it comes by itself.
#[pyfunction]
fn rows_of(message: &[u8]) -> Option<Found> {
    let found = predict::rows_of(message)?;
    let inputs = found
        .inputs
        .iter()
        .map(|input| (message[input.alias.clone()].to_vec(), message[input.content.clone()].to_vec()));
    Some((found.key, found.rows, inputs.collect()))
}

#[pymodule]
mod _front {
    #[pymodule_export]
    use super::{Batch, Call, Front, Memory, load::load, rows_of};
}
