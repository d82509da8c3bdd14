//! Reads a Predict request as far as is needed to batch its rows with those of other requests.
//!
//! A message with an unusual layout is not batched: Python reads it with protobuf instead.

use std::ops::Range;

const MOST_FIELDS: usize = 256;
const MOST_INPUTS: usize = 16;
/// Keys are kept in memory, so a client must not be able to make them large.
const LONGEST_KEY: usize = 4096;
/// The fields of a TensorProto that hold numbers as bytes: `tensor_content`, `float_val` and `double_val`.
const CONTENT: u64 = 4;
const FLOATS: u64 = 5;
const DOUBLES: u64 = 6;
/// The types whose numbers the last two hold.
const DT_FLOAT: u64 = 1;
const DT_DOUBLE: u64 = 2;

/// A Predict request whose inputs are rows of numbers, in `tensor_content` or in a packed field with the same bytes.
#[derive(Debug)]
pub struct Rows {
    /// Everything in the request except the number and the content of its rows. Requests with the same key can be
    /// batched.
    pub key: Vec<u8>,
    /// Number of rows of every input.
    pub rows: usize,
    /// The inputs, in the order of the message.
    pub inputs: Vec<Input>,
}

/// One input of a request: where its alias and the bytes of its rows are in the message.
#[derive(Debug)]
pub struct Input {
    pub alias: Range<usize>,
    pub content: Range<usize>,
}

/// Returns the rows of a serialised PredictRequest, or None if it cannot be batched.
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
    // An empty part marks an input. A field is never empty, so messages with other fields get other keys.
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
    /// The bytes of one row, and the sizes of the dimensions after the first.
    row: Vec<u8>,
    content: Range<usize>,
}

fn read_tensor(fields: &mut Fields, place: Range<usize>) -> Option<Tensor> {
    let (mut dtype, mut shape, mut content, mut kind) = (None, None, None, 0);
    let mut at = place.start;
    while at < place.end {
        let field = fields.read(at, place.end)?;
        at = field.whole.end;
        let place = match (field.number, field.kind) {
            (1, Wire::Varint) => &mut dtype,
            (2, Wire::Bytes) => &mut shape,
            (CONTENT | FLOATS | DOUBLES, Wire::Bytes) => {
                kind = field.number;
                &mut content
            }
            _ => return None,
        };
        if place.replace(field.value).is_some() {
            return None;
        }
    }
    let (dtype, shape, content) = (dtype?, shape?, content?);
    let mut sizes = Vec::new();
    let mut at = shape.start;
    while at < shape.end {
        let dim = fields.read(at, shape.end)?;
        at = dim.whole.end;
        let size = fields.read(dim.value.start, dim.value.end)?;
        if (dim.number, dim.kind) != (2, Wire::Bytes) || (size.number, size.kind) != (1, Wire::Varint) {
            return None;
        }
        // A second field names the dimension.
        if size.whole.end != dim.value.end {
            return None;
        }
        sizes.push(fields.varint(size.value.start, size.value.end)?.0);
    }
    if kind != CONTENT {
        // A packed field may hold fewer numbers than the shape has; then the last number stands for the rest.
        let number = if kind == FLOATS { 4 } else { 8 };
        let whole = sizes.iter().try_fold(number, |size: u64, &dim| size.checked_mul(dim))?;
        let fits = fields.varint(dtype.start, dtype.end)?.0 == if kind == FLOATS { DT_FLOAT } else { DT_DOUBLE };
        if !fits || whole != content.len() as u64 {
            return None;
        }
    }
    let rows = usize::try_from(*sizes.first()?).ok().filter(|&rows| rows > 0)?;
    if content.is_empty() || content.len() % rows != 0 {
        return None;
    }
    sizes[0] = (content.len() / rows) as u64;
    let row = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
    Some(Tensor { dtype, rows, row, content })
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

/// Reads the fields of a message and of the messages in it; `left` limits how many.
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
                // A length beyond the end of the enclosing message is left to protobuf, which refuses it.
                let size = usize::try_from(size).ok().filter(|&size| size <= stop - at)?;
                (Wire::Bytes, at..at + size)
            }
            _ => return None,
        };
        Some(Field { number: tag >> 3, kind, whole: start..value.end, value })
    }

    /// Reads a varint in its shortest form; returns its value and where it ends.
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

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Serialises a field of bytes.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        assert!(value.len() < 128, "the length must fit into one byte");
        [&[number << 3 | 2, value.len() as u8], value].concat()
    }

    fn dim(size: u8) -> Vec<u8> {
        bytes(2, &[8, size])
    }

    fn input(alias: &str, dtype: u8, sizes: &[u8], content: &[u8]) -> Vec<u8> {
        input_in(CONTENT as u8, alias, dtype, sizes, content)
    }

    fn input_in(field: u8, alias: &str, dtype: u8, sizes: &[u8], content: &[u8]) -> Vec<u8> {
        let shape = sizes.iter().flat_map(|&size| dim(size)).collect::<Vec<_>>();
        let tensor = [vec![8, dtype], bytes(2, &shape), bytes(field, content)].concat();
        bytes(2, &[bytes(1, alias.as_bytes()), bytes(2, &tensor)].concat())
    }

    /// Serialises a PredictRequest with one int8 input.
    pub fn request(alias: &str, sizes: &[u8], content: &[u8]) -> Vec<u8> {
        [bytes(1, b"model"), input(alias, 6, sizes, content)].concat()
    }

    #[test]
    fn rows_and_contents_are_found() {
        let message = request("x", &[2, 3], b"abcdef");
        let found = rows_of(&message).unwrap();
        assert_eq!((found.rows, found.inputs.len()), (2, 1));
        assert_eq!(&message[found.inputs[0].alias.clone()], b"x");
        assert_eq!(&message[found.inputs[0].content.clone()], b"abcdef");
    }

    #[test]
    fn requests_that_differ_in_their_rows_alone_have_the_same_key() {
        let key = |message: &[u8]| rows_of(message).unwrap().key;
        let one = key(&request("x", &[2, 3], b"abcdef"));
        assert_eq!(one, key(&request("x", &[1, 3], b"ghi")));
        assert_ne!(one, key(&request("y", &[2, 3], b"abcdef")), "another alias");
        assert_ne!(one, key(&request("x", &[3, 2], b"abcdef")), "another row");
        assert_ne!(one, key(&request("x", &[2, 3, 1], b"abcdef")), "another rank");
        assert_ne!(one, key(&input("x", 6, &[2, 3], b"abcdef")), "another model");
        assert_ne!(one, key(&[bytes(1, b"model"), input("x", 9, &[2, 3], b"abcdef")].concat()), "another type");
    }

    #[test]
    fn packed_floats_are_rows_like_content() {
        let key = |message: &[u8]| rows_of(message).map(|found| found.key);
        let content = key(&input("x", 1, &[2, 1], b"abcdefgh"));
        assert!(content.is_some());
        assert_eq!(key(&input_in(5, "x", 1, &[2, 1], b"abcdefgh")), content);
        assert_eq!(key(&input_in(5, "x", 1, &[4, 1], b"abcdefgh")), None, "the last number is to be repeated");
        assert_eq!(key(&input_in(5, "x", 3, &[2, 1], b"abcdefgh")), None, "the field of another type");
        assert!(key(&input_in(6, "x", 2, &[1, 1], b"abcdefgh")).is_some());
    }

    #[test]
    fn unusual_requests_are_not_batched() {
        let usual = request("x", &[2, 3], b"abcdef");
        let same_alias = [usual.clone(), input("x", 6, &[2, 3], b"abcdef")].concat();
        let other_rows = [usual.clone(), input("y", 6, &[1, 3], b"abc")].concat();
        for (message, why) in [
            (vec![], "no inputs"),
            (request("x", &[], b"a"), "a scalar"),
            (request("x", &[0, 3], b""), "no rows"),
            (request("x", &[4, 1], b"abcdef"), "rows of unequal length"),
            (same_alias, "an alias that is given twice"),
            (other_rows, "inputs with different numbers of rows"),
            (usual[..usual.len() - 1].to_vec(), "a message that is cut off"),
            ([usual.clone(), vec![4 << 3, 0]].concat(), "an unknown field"),
            ([usual, vec![0x82, 0x80, 0x00]].concat(), "a varint that is longer than it needs to be"),
        ] {
            assert!(rows_of(&message).is_none(), "{why}");
        }
    }

    #[test]
    fn several_inputs_are_found_if_they_have_equally_many_rows() {
        let message = [input("x", 6, &[2, 3], b"abcdef"), input("y", 6, &[2], b"gh")].concat();
        assert_eq!(rows_of(&message).unwrap().inputs.len(), 2);
    }
}
