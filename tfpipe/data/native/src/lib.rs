//! Reads the records of a batch, as the Python module `tfpipe.data._records`.
//!
//! Python can do the same (`tfpipe/data/record_reading.py` does), but then its lock lets only one thread
//! work at a time, and each record is copied once more.

mod output;
mod record;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::output::Output;
use crate::record::{Place, read_records};

/// Reads records into two arrays; see `_records.pyi`.
#[pyfunction]
fn read(
    py: Python<'_>,
    files: Vec<i32>,
    begins: Vec<u64>,
    sizes: Vec<usize>,
    mel_begins: Vec<usize>,
    mel: PyBuffer<u8>,
    rest: PyBuffer<u8>,
) -> PyResult<Vec<bool>> {
    let count = files.len();
    if [begins.len(), sizes.len(), mel_begins.len()] != [count; 3] {
        return Err(PyValueError::new_err("the lists have different lengths"));
    }
    let places: Vec<Place> = (0..count)
        .map(|row| Place { file: files[row], begin: begins[row], size: sizes[row], mel: mel_begins[row] })
        .collect();
    let (mut mel, mut rest) = (Output::new(&mel, count)?, Output::new(&rest, count)?);
    py.detach(|| read_records(&places, &mut mel, &mut rest)).map_err(PyErr::from)
}

#[pymodule]
mod _records {
    #[pymodule_export]
    use super::read;
}
