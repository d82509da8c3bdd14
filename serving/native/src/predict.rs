//! Reads a Predict request as far as is needed to put its rows together with those of other requests.
//!
//! What is not laid out as usual is left to the ordinary way, in which protobuf itself reads the message.

use std::ops::Range;

const MOST_FIELDS: usize = 256;
const MOST_INPUTS: usize = 16;
/// Keys are remembered, so that clients must not make them large.
const LONGEST_KEY: usize = 4096;

/// A Predict request whose inputs are rows of numbers in `tensor_content`.
#[derive(Debug)]
pub struct Rows {
    /// All that the request says but the number and the content of its rows: requests with the same key fit together.
    pub key: Vec<u8>,
    /// Number of rows of every input.
    pub rows: usize,
    /// Each input's alias, and where its content lies, in the order of the message.
    pub inputs: Vec<Input>,
}

/// One input of a request.
#[derive(Debug)]
pub struct Input {
    pub alias: Range<usize>,
    pub content: Range<usize>,
}

/// Returns the rows of a PredictRequest on the wire, or None where they cannot be told from a first look.
pub fn rows_of(message: &[u8]) -> Option<Rows> {
    let mut fields = Fields { data: message, left: MOST_FIELDS };
    let mut found = Rows { key: Vec::with_capacity(128), rows: 0, inputs: Vec::new() };
    let mut at = 0;
    while at < message.len() {
        let field = fields.read(at, message.len())?;
        match (field.number, field.kind) {
            // model_spec and output_filter
            (1 | 3, Wire::Bytes) if field.whole.len() <= LONGEST_KEY => {
                add_part(&mut found.key, &message[field.whole.clone()])
            }
            (2, Wire::Bytes) => add_input(&mut fields, &field, &mut found)?,
            _ => return None,
        }
        if found.key.len() > LONGEST_KEY {
            return None;
        }
        at = field.whole.end;
    }
    (!found.inputs.is_empty()).then_some(found)
}

/// Reads one entry of the map of inputs.
fn add_input(fields: &mut Fields, entry: &Field, found: &mut Rows) -> Option<()> {
    let (mut alias, mut tensor) = (None, None);
    let mut at = entry.value.start;
    while at < entry.value.end {
        let field = fields.read(at, entry.value.end)?;
        at = field.whole.end;
        let place = match (field.number, field.kind) {
            (1, Wire::Bytes) => &mut alias,
            (2, Wire::Bytes) => &mut tensor,
            _ => return None,
        };
        if place.replace(field.value).is_some() {
            return None;
        }
    }
    let alias = alias.filter(|alias| alias.len() <= LONGEST_KEY)?;
    let tensor = read_tensor(fields, tensor?)?;
    let data = fields.data;
    std::str::from_utf8(&data[alias.clone()]).ok()?;
    let first = found.inputs.is_empty();
    let known = found.inputs.iter().any(|other| data[other.alias.clone()] == data[alias.clone()]);
    if known || found.inputs.len() == MOST_INPUTS || !(first || tensor.rows == found.rows) {
        return None;
    }
    found.rows = tensor.rows;
    // No field begins like this, so that no other message has the same key.
    add_part(&mut found.key, b"");
    for part in [&data[alias.clone()], &data[tensor.dtype], &tensor.row] {
        add_part(&mut found.key, part);
    }
    found.inputs.push(Input { alias, content: tensor.content });
    Some(())
}

fn add_part(key: &mut Vec<u8>, part: &[u8]) {
    key.extend_from_slice(&(part.len() as u32).to_le_bytes());
    key.extend_from_slice(part);
}

struct Tensor {
    dtype: Range<usize>,
    rows: usize,
    /// Sizes of the dimensions after the first, and the bytes of a row.
    row: Vec<u8>,
    content: Range<usize>,
}

fn read_tensor(fields: &mut Fields, place: Range<usize>) -> Option<Tensor> {
    let (mut dtype, mut shape, mut content) = (None, None, None);
    let mut at = place.start;
    while at < place.end {
        let field = fields.read(at, place.end)?;
        at = field.whole.end;
        let place = match (field.number, field.kind) {
            (1, Wire::Varint) => &mut dtype,
            (2, Wire::Bytes) => &mut shape,
            (4, Wire::Bytes) => &mut content,
            _ => return None,
        };
        if place.replace(field.value).is_some() {
            return None;
        }
    }
    let (shape, content) = (shape?, content?);
    let mut sizes = Vec::new();
    let mut at = shape.start;
    while at < shape.end {
        let dim = fields.read(at, shape.end)?;
        at = dim.whole.end;
        let size = fields.read(dim.value.start, dim.value.end)?;
        if (dim.number, dim.kind) != (2, Wire::Bytes) || (size.number, size.kind) != (1, Wire::Varint) {
            return None;
        }
        // A named dimension has a second field.
        if size.whole.end != dim.value.end {
            return None;
        }
        sizes.push(fields.varint(size.value.start, size.value.end)?.0);
    }
    let rows = usize::try_from(*sizes.first()?).ok().filter(|&rows| rows > 0)?;
    if content.is_empty() || content.len() % rows != 0 {
        return None;
    }
    sizes[0] = (content.len() / rows) as u64;
    let row = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
    Some(Tensor { dtype: dtype?, rows, row, content })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Varint,
    Bytes,
}

struct Field {
    number: u64,
    kind: Wire,
    whole: Range<usize>,
    value: Range<usize>,
}

/// Goes over the fields of a message and of those inside it.
struct Fields<'a> {
    data: &'a [u8],
    left: usize,
}

impl Fields<'_> {
    fn read(&mut self, start: usize, stop: usize) -> Option<Field> {
        self.left = self.left.checked_sub(1)?;
        let (tag, at) = self.varint(start, stop)?;
        let (kind, value) = match tag & 7 {
            0 => (Wire::Varint, at..self.varint(at, stop)?.1),
            2 => {
                let (size, at) = self.varint(at, stop)?;
                // Protobuf refuses lengths that this would not.
                let size = usize::try_from(size).ok().filter(|&size| size <= stop - at)?;
                (Wire::Bytes, at..at + size)
            }
            _ => return None,
        };
        Some(Field { number: tag >> 3, kind, whole: start..value.end, value })
    }

    /// Reads a varint of the shortest form; returns it and where it ends.
    fn varint(&self, start: usize, stop: usize) -> Option<(u64, usize)> {
        let mut value = 0u64;
        for (index, &byte) in self.data[start..stop].iter().take(9).enumerate() {
            value |= u64::from(byte & 127) << (7 * index);
            if byte < 128 {
                return (byte != 0 || index == 0).then_some((value, start + index + 1));
            }
        }
        None
    }
}
