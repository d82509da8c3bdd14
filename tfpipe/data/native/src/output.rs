//! The rows of a NumPy array, which are written while Python's lock is not held. All `unsafe` code of memory is here.

use std::slice;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The rows of an array of bytes `[count, width]`.
pub struct Output<'a> {
    memory: &'a mut [u8],
    width: usize,
}

impl<'a> Output<'a> {
    /// Takes an array that can be written. The caller must not use it in another thread at the same time.
    pub fn new(buffer: &'a PyBuffer<u8>, count: usize) -> PyResult<Self> {
        let size = buffer.len_bytes();
        if buffer.readonly() || !buffer.is_c_contiguous() || count == 0 || size % count != 0 {
            return Err(PyValueError::new_err("an array is read-only, not contiguous, or has another number of rows"));
        }
        // SAFETY: the buffer keeps the memory alive, and it is one writable block of this size.
        let memory = unsafe { slice::from_raw_parts_mut(buffer.buf_ptr().cast(), size) };
        Ok(Self { memory, width: size / count })
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn row(&mut self, number: usize) -> &mut [u8] {
        &mut self.memory[number * self.width..(number + 1) * self.width]
    }
}
