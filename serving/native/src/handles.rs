//! The Python classes `Call` and `Batch`: requests that Python has taken from the queue and answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tokio::sync::oneshot;

use crate::memory::{Body, Memory, Message, Place, is_small};
use crate::queue::{self, Answer, Shared};
use crate::waiting::{Group, refuse};

/// The longest time that is reported or waited for: practically for ever, and every clock can hold it.
pub const LONGEST: Duration = Duration::from_secs(1_000_000);

/// One request; see `_front.pyi`.
#[pyclass(frozen, module = "serving.server._front")]
pub struct Call {
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
    pub fn new(call: queue::Call, shared: &Arc<Shared>) -> Self {
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

    #[pyo3(signature = (parts, *, compressed = false))]
    fn answer(&self, parts: Vec<Bound<'_, PyAny>>, compressed: bool) -> PyResult<bool> {
        if parts.is_empty() {
            return Err(PyValueError::new_err("an answer needs at least one part"));
        }
        let buffers = self.shared.outgoing.hold(&parts)?;
        let length = (0..parts.len()).map(|part| buffers.len(part)).sum();
        if !is_small(length) && !buffers.take_room() {
            return Ok(false);
        }
        let mut own = prefix(length)?;
        own[0] = compressed.into();
        let piece = |array| (std::mem::take(&mut own), Place { array, start: 0, length: buffers.len(array) });
        let pieces = (0..parts.len()).map(piece).collect();
        let mut message = Message::new(pieces, length, &buffers);
        message.encoding = self.encoding.clone().filter(|_| compressed);
        self.reply(Answer::Message(message));
        Ok(true)
    }

    fn refuse(&self, code: u32, message: String) {
        self.reply(Answer::Status(code, message));
    }
}

/// Requests that are computed together; see `_front.pyi`.
#[pyclass(frozen, module = "serving.server._front")]
pub struct Batch {
    shared: Arc<Shared>,
    key: Vec<u8>,
    group: Group,
    #[pyo3(get)]
    rows: Vec<usize>,
    first: Arc<Body>,
    inputs: Vec<(String, Arc<Body>)>,
    arrived: Vec<Instant>,
    calls: Mutex<Vec<queue::Call>>,
    computed: AtomicBool,
}

impl Batch {
    pub fn new(batch: queue::Batch, shared: &Arc<Shared>) -> Self {
        let rows = |call: &queue::Call| call.rows.as_ref().map_or(0, |rows| rows.rows);
        Batch {
            shared: shared.clone(),
            key: batch.key,
            group: batch.group,
            rows: batch.calls.iter().map(rows).collect(),
            first: batch.calls[0].body.clone(),
            inputs: join_inputs(&batch.calls),
            arrived: batch.calls.iter().map(|call| call.arrived).collect(),
            calls: Mutex::new(batch.calls),
            computed: AtomicBool::new(false),
        }
    }

    fn take_calls(&self) -> Vec<queue::Call> {
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
            return Err(PyValueError::new_err(
                "a batch's answer needs at least one output, each with as many rows as the batch",
            ));
        }
        // For each number of rows: the bytes before each output's rows, the message's length, and gRPC's prefix.
        let mut layouts = HashMap::new();
        for &rows in &self.rows {
            let heads = heads.get(&rows).filter(|heads| heads.len() == arrays.len());
            let heads = heads.ok_or_else(|| {
                PyValueError::new_err(format!("heads has no entry for {rows} rows with one head for each output"))
            })?;
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
            refuse(call, code, message);
        }
    }
}

/// Returns gRPC's prefix of a message: five bytes, which say that it is not compressed and how long it is.
fn prefix(length: usize) -> PyResult<Vec<u8>> {
    let length = u32::try_from(length)
        .map_err(|_| PyValueError::new_err("an answer has more than 4 GiB, which gRPC cannot send"))?;
    Ok([&[0], &length.to_be_bytes()[..]].concat())
}

/// Returns the alias and the content of each input: the rows of all calls, one call after another.
fn join_inputs(calls: &[queue::Call]) -> Vec<(String, Arc<Body>)> {
    let rows = |call: &queue::Call| call.rows.as_ref().expect("only calls with rows are batched").inputs.len();
    let Some(first) = calls.first() else { return Vec::new() };
    (0..rows(first))
        .map(|index| {
            let input = |call: &'_ queue::Call| {
                let input = &call.rows.as_ref().expect("only calls with rows are batched").inputs[index];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::rows_of;

    #[test]
    fn a_prefix_says_that_a_message_is_not_compressed_and_how_long_it_is() {
        assert_eq!(prefix(0x01_02_03).unwrap(), [0, 0, 1, 2, 3]);
    }

    #[test]
    fn inputs_of_a_batch_are_the_rows_of_all_its_calls_in_order() {
        let call = |content: &[u8]| {
            let (reply, _) = oneshot::channel();
            let body = Body::joined(crate::predict::tests::request("x", &[content.len() as u8, 1], content));
            let rows = rows_of(body.bytes());
            assert!(rows.is_some());
            let (path, arrived) = (String::new(), Instant::now());
            queue::Call { id: 0, path, encoding: None, arrived, deadline: None, body: Arc::new(body), rows, reply }
        };
        let joined = join_inputs(&[call(b"ab"), call(b"c"), call(b"def")]);
        assert_eq!(joined.len(), 1);
        assert_eq!((joined[0].0.as_str(), joined[0].1.bytes()), ("x", &b"abcdef"[..]));
    }
}
