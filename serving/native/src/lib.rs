//! The HTTP/2 side of the embedded server, as the Python module `serving.server._front`.
//!
//! Connections, gRPC's framing and the putting together of rows happen here, on one thread that needs no
//! interpreter; what a request means and which model answers it is decided in Python (`serving/server/grpc_native.py`), once
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

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::sync::{oneshot, watch};

use crate::calls::{Answer, Group, Limits, Shared};
use crate::connection::Stage;
use crate::memory::{Body, Memory, Message, Place, is_small};

/// Time that is as good as for ever, and that every clock can hold.
const LONGEST: Duration = Duration::from_secs(1_000_000);
/// Time for the last answers to arrive.
const FAREWELL: Duration = Duration::from_secs(1);

/// Calls whose clients have left; and model, code, reason and number of calls that were refused.
type News = (Vec<u64>, Vec<(String, u32, &'static str, usize)>);

/// The listening side of a server; see `_front.pyi`.
#[pyclass(frozen, module = "serving.server._front")]
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
        let fill_time = time(fill_time_s)?;
        let limits =
            Limits { message_bytes, unread_bytes, batch_rows, waiting_rows, waiting_calls, batches, fill_time };
        Ok(Front {
            shared: Shared::new(limits, time(patience_s)?),
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
            let inputs = join_inputs(&batch.calls);
            Some((batch, inputs))
        })?;
        Some(Batch::new(batch, inputs, &self.shared))
    }

    fn next_news(&self, py: Python<'_>) -> Option<News> {
        let news = py.detach(|| self.shared.next_news());
        self.shared.outgoing.release(py);
        let (left, refused) = news?;
        Some((left, refused.into_iter().map(|((model, code, why), count)| (model, code, why, count)).collect()))
    }

    fn held(&self) -> (usize, usize, usize) {
        (self.shared.in_hand.used(), self.shared.bodies.used(), self.shared.outgoing.unread.used())
    }

    fn drain(&self, py: Python<'_>, grace_s: f64) -> bool {
        self.listener.lock().unwrap().take();
        self.stage.send_replace(Stage::Draining);
        let grace = Duration::try_from_secs_f64(grace_s).unwrap_or_default().min(LONGEST);
        py.detach(|| {
            let end = Instant::now() + grace;
            // What was on its way when the end was told is still taken in; and what is answered is also to arrive.
            for _ in 0..2 {
                wait_until(end, || self.shared.in_hand.used() == 0);
                wait_until(end.min(Instant::now() + FAREWELL), || self.shared.connections.used() == 0);
            }
            self.shared.in_hand.used() == 0
        })
    }

    fn close(&self, py: Python<'_>) {
        self.shared.close();
        let thread = self.thread.lock().unwrap().take();
        py.detach(|| {
            // What was refused just now goes out before the connections end.
            wait_until(Instant::now() + FAREWELL / 20, || self.shared.connections.used() == 0);
            self.stage.send_replace(Stage::Closed);
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        });
        self.shared.outgoing.release(py);
    }
}

/// Waits until something is so, or the time is up; tells which.
fn wait_until(end: Instant, is_so: impl Fn() -> bool) -> bool {
    while !is_so() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Puts the rows of several calls one after another, for each input.
fn join_inputs(calls: &[calls::Call]) -> Vec<(String, Arc<Body>)> {
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
            (alias, Arc::new(Body::joined(data)))
        })
        .collect()
}

/// One request; see `_front.pyi`.
#[pyclass(frozen, module = "serving.server._front")]
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
        Memory::new(&self.body)
    }

    #[getter]
    fn timeout_s(&self) -> Option<f64> {
        Some(self.deadline?.saturating_duration_since(Instant::now()).min(LONGEST).as_secs_f64())
    }

    #[getter]
    fn waited_s(&self) -> f64 {
        self.arrived.elapsed().as_secs_f64()
    }

    #[getter]
    fn has_rows(&self) -> bool {
        self.key.is_some()
    }

    fn has_left(&self) -> bool {
        self.reply.lock().unwrap().as_ref().is_none_or(|reply| reply.is_closed())
    }

    fn put_together(&self, model: String, signature: String) {
        if let Some(key) = &self.key {
            self.shared.learn(key, Group::new((model, signature)));
        }
    }

    fn answer(&self, parts: Vec<Bound<'_, PyAny>>) -> PyResult<bool> {
        if parts.is_empty() {
            return Err(PyValueError::new_err("an answer of no parts"));
        }
        let buffers = self.shared.outgoing.hold(&parts)?;
        let length = (0..parts.len()).map(|part| buffers.len(part)).sum();
        if !is_small(length) && !buffers.take_room() {
            return Ok(false);
        }
        let mut own = prefix(length)?;
        let piece = |array| (std::mem::take(&mut own), Place { array, start: 0, length: buffers.len(array) });
        let pieces = (0..parts.len()).map(piece).collect();
        self.reply(Answer::Message(Message::new(pieces, length, &buffers)));
        Ok(true)
    }

    fn refuse(&self, code: u32, message: String) {
        self.reply(Answer::Status(code, message));
    }
}

/// Calls that are computed together; see `_front.pyi`.
#[pyclass(frozen, module = "serving.server._front")]
struct Batch {
    shared: Arc<Shared>,
    key: Vec<u8>,
    group: Group,
    #[pyo3(get)]
    rows: Vec<usize>,
    first: Arc<Body>,
    inputs: Vec<(String, Arc<Body>)>,
    arrived: Vec<Instant>,
    calls: Mutex<Vec<calls::Call>>,
    computed: AtomicBool,
}

impl Batch {
    fn new(batch: calls::Batch, inputs: Vec<(String, Arc<Body>)>, shared: &Arc<Shared>) -> Self {
        let rows = |call: &calls::Call| call.rows.as_ref().map_or(0, |rows| rows.rows);
        Batch {
            shared: shared.clone(),
            key: batch.key,
            group: batch.group,
            rows: batch.calls.iter().map(rows).collect(),
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
    #[getter]
    fn request(&self) -> Memory {
        Memory::new(&self.first)
    }

    #[getter]
    fn inputs(&self) -> Vec<(String, Memory)> {
        self.inputs.iter().map(|(alias, data)| (alias.clone(), Memory::new(data))).collect()
    }

    #[getter]
    fn waited_s(&self) -> Vec<f64> {
        self.arrived.iter().map(|arrived| arrived.elapsed().as_secs_f64()).collect()
    }

    fn computed(&self) {
        if !self.computed.swap(true, Ordering::Relaxed) {
            self.shared.computed(&self.group);
        }
    }

    fn forget_kind(&self) {
        self.shared.forget(&self.key);
    }

    fn calls(&self) -> Vec<Call> {
        self.take_calls().into_iter().map(|call| Call::new(call, &self.shared)).collect()
    }

    fn answer(
        &self,
        arrays: Vec<Bound<'_, PyAny>>,
        heads: HashMap<usize, Vec<Vec<u8>>>,
        rest: Vec<u8>,
    ) -> PyResult<bool> {
        let total: usize = self.rows.iter().sum();
        let buffers = self.shared.outgoing.hold(&arrays)?;
        let sizes: Vec<usize> = (0..arrays.len()).map(|array| buffers.len(array)).collect();
        if arrays.is_empty() || sizes.iter().any(|size| size % total != 0) {
            return Err(PyValueError::new_err("no outputs, or one with other rows than the batch"));
        }
        // By number of rows: what stands before each output's rows, and the length of the message.
        let mut layouts = HashMap::new();
        for &rows in &self.rows {
            let heads = heads.get(&rows).filter(|heads| heads.len() == arrays.len());
            let heads = heads.ok_or_else(|| PyValueError::new_err(format!("no heads for {rows} rows")))?;
            let content = sizes.iter().map(|size| size / total * rows).sum::<usize>();
            let length = rest.len() + heads.iter().map(Vec::len).sum::<usize>() + content;
            layouts.insert(rows, (heads, length, prefix(length)?));
        }
        if !layouts.values().all(|(_, length, _)| is_small(*length)) && !buffers.take_room() {
            return Ok(false);
        }
        let mut at = 0;
        for (call, &rows) in self.take_calls().into_iter().zip(&self.rows) {
            let (heads, length, prefix) = &layouts[&rows];
            let mut pieces: Vec<_> = (0..arrays.len())
                .map(|array| {
                    let row = sizes[array] / total;
                    (heads[array].clone(), Place { array, start: row * at, length: row * rows })
                })
                .collect();
            pieces[0].0.splice(0..0, prefix.iter().chain(&rest).copied());
            let _ = call.reply.send(Answer::Message(Message::new(pieces, *length, &buffers)));
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
fn prefix(length: usize) -> PyResult<Vec<u8>> {
    let length = u32::try_from(length).map_err(|_| PyValueError::new_err("an answer of more than 4 GiB"))?;
    Ok([&[0], &length.to_be_bytes()[..]].concat())
}

/// Key, number of rows, and alias and content of each input.
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
