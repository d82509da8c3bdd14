//! The load generator of `tfpipe bench serve`, as the Python module `tfpipe.bench._load`.
//!
//! It uses so little processor time that a benchmark with client and server on one machine measures the server.

mod client;
mod frames;

use pyo3::exceptions::PyConnectionError;
use pyo3::prelude::*;

use crate::client::Client;

/// Sends each request `times` times; see `_load.pyi`.
#[pyfunction]
#[pyo3(signature = (address, path, requests, *, times, answer_bytes))]
fn load(
    py: Python<'_>,
    address: &str,
    path: &str,
    requests: Vec<Vec<u8>>,
    times: usize,
    answer_bytes: usize,
) -> PyResult<usize> {
    py.detach(|| Client::connect(address, path)?.run(&requests, times, answer_bytes))
        .map_err(|error| PyConnectionError::new_err(format!("{address}: {error}")))
}

#[pymodule]
mod _load {
    #[pymodule_export]
    use super::load;
}
