//! The front end of `tfpipe serve` for gRPC, as the Python module `serving.server._front`.
//!
//! One thread, which never needs the interpreter, holds the connections, reads and writes gRPC's framing, and batches
//! requests. Python (`serving/server/grpc/native_server.py`) decides once for each batch what it means and which model
//! computes it. The crate `h2` implements HTTP/2.
//!
//! A request's way: `connection` accepts it (with `tls`, if there are certificates), `call` reads it, `predict` finds its
//! rows, `queue` and `waiting` keep it until a thread of Python takes it as a `Call` or a `Batch` (`handles`), and `call`
//! sends the answer from Python's `memory`.

mod call;
mod connection;
mod conversation;
mod front;
mod handles;
mod json_numbers;
mod memory;
mod predict;
mod queue;
mod tls;
mod waiting;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Key, number of rows, and alias and content of each input.
type Found = (Vec<u8>, usize, Vec<(Vec<u8>, Vec<u8>)>);

/// Reads a Predict request as batches need it; see `_front.pyi`.
#[pyfunction]
fn rows_of(message: &[u8]) -> Option<Found> {
    let found = predict::rows_of(message)?;
    let inputs = found
        .inputs
        .iter()
        .map(|input| (message[input.alias.clone()].to_vec(), message[input.content.clone()].to_vec()));
    Some((found.key, found.rows, inputs.collect()))
}

/// Shape, whether the numbers are integers, the numbers as bytes, and the largest integer without its sign.
type Cut<'py> = (Vec<usize>, bool, Bound<'py, PyBytes>, u64);

/// Cuts arrays of numbers out of JSON; see `_front.pyi`.
#[pyfunction]
fn cut_numbers<'py>(
    py: Python<'py>,
    text: &[u8],
    token: &str,
    at_least: usize,
) -> (Bound<'py, PyBytes>, Vec<Cut<'py>>) {
    let (rest, arrays) = py.detach(|| {
        let (rest, arrays) = json_numbers::cut(text, token, at_least);
        let arrays: Vec<_> = arrays.into_iter().map(|array| (array.values.bytes(), array)).collect();
        (rest, arrays)
    });
    let arrays = arrays.into_iter().map(|(bytes, array)| {
        let is_integers = matches!(array.values, json_numbers::Values::Integers(_));
        (array.shape, is_integers, PyBytes::new(py, &bytes), array.largest)
    });
    (PyBytes::new(py, &rest), arrays.collect())
}

#[pymodule]
mod _front {
    #[pymodule_export]
    use super::{
        cut_numbers,
        front::Front,
        handles::{Batch, Call},
        memory::Memory,
        rows_of,
    };
}
