//! The front end of `tfpipe serve` for gRPC, as the Python module `serving.server._front`.
//!
//! One thread, which never needs the interpreter, holds the connections, reads and writes gRPC's framing, and batches
//! requests. Python (`serving/server/grpc_native.py`) decides once for each batch what it means and which model
//! computes it. The crate `h2` implements HTTP/2.
//!
//! A request's way: `connection` reads it, `predict` finds its rows, `queue` and `waiting` keep it until a thread of
//! Python takes it as a `Call` or a `Batch` (`handles`), and `connection` sends the answer from Python's `memory`.

mod connection;
mod front;
mod handles;
mod memory;
mod predict;
mod queue;
mod waiting;

use pyo3::prelude::*;

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

#[pymodule]
mod _front {
    #[pymodule_export]
    use super::{
        front::Front,
        handles::{Batch, Call},
        memory::Memory,
        rows_of,
    };
}
