//! Cuts arrays of numbers out of JSON, so that Python parses only the small rest.
//!
//! An array that is not rectangular, or holds something else than numbers, stays in the text: Python reads or refuses
//! it. So the result is always what Python makes of the whole text.

/// More dimensions are left to Python. Each may make the same bytes be looked at once more.
const MOST_DIMENSIONS: usize = 8;
/// Digits of an integer that always fits 64 bits.
const MOST_DIGITS: usize = 18;

/// The numbers of one array, in order: integers as long as all are, else all as floats.
#[derive(Debug, PartialEq)]
pub enum Values {
    Integers(Vec<i64>),
    Floats(Vec<f64>),
}

/// An array that was cut out of a text.
#[derive(Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Values,
    /// The largest integer among the numbers, without its sign. A float may not be able to hold it.
    pub largest: u64,
}

/// Returns the text with a string `"{token}{number}"` in the place of each array of numbers, and those arrays.
///
/// Arrays of fewer than `at_least` numbers stay in the text.
pub fn cut(text: &[u8], token: &str, at_least: usize) -> (Vec<u8>, Vec<Array>) {
    let (mut rest, mut arrays) = (Vec::new(), Vec::new());
    let (mut copied, mut at) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'"' => at = end_of_string(text, at),
            b'[' => match read_array(text, at) {
                Some((array, end)) if array.values.len() >= at_least => {
                    rest.extend_from_slice(&text[copied..at]);
                    rest.extend_from_slice(format!("\"{token}{}\"", arrays.len()).as_bytes());
                    arrays.push(array);
                    (copied, at) = (end, end);
                }
                // A small array is rectangular, so it holds no larger one.
                Some((_, end)) => at = end,
                None => at += 1,
            },
            _ => at += 1,
        }
    }
    rest.extend_from_slice(&text[copied..]);
    (rest, arrays)
}

/// Returns where the string that begins at `start` ends.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() {
        match text[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn read_array(text: &[u8], start: usize) -> Option<(Array, usize)> {
    let mut reader = Reader {
        text,
        at: start,
        array: Array { shape: Vec::new(), values: Values::Integers(Vec::new()), largest: 0 },
    };
    reader.list(0)?;
    Some((reader.array, reader.at))
}

impl Values {
    pub fn len(&self) -> usize {
        match self {
            Values::Integers(values) => values.len(),
            Values::Floats(values) => values.len(),
        }
    }

    /// The numbers as bytes, in this machine's order.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Values::Integers(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::Floats(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    array: Array,
}

impl Reader<'_> {
    /// Reads a list of the dimension `level`; its size must be that of the lists before.
    fn list(&mut self, level: usize) -> Option<()> {
        if level == MOST_DIMENSIONS {
            return None;
        }
        let is_first = self.array.shape.len() == level;
        if is_first {
            self.array.shape.push(0);
        }
        self.at += 1;
        let mut size = 0;
        loop {
            let is_list = self.next()? == b'[';
            // All lists before went down to the same level.
            let has_values = self.array.values.len() > 0;
            if has_values && is_list != (self.array.shape.len() > level + 1) {
                return None;
            }
            if is_list {
                self.list(level + 1)?
            } else {
                self.number()?
            }
            size += 1;
            let next = self.next()?;
            self.at += 1;
            match next {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        if is_first {
            self.array.shape[level] = size;
        }
        (self.array.shape[level] == size).then_some(())
    }

    /// Skips white space and returns the byte after it.
    fn next(&mut self) -> Option<u8> {
        while matches!(self.text.get(self.at)?, b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        Some(self.text[self.at])
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        let is_negative = self.text[start] == b'-';
        self.at += usize::from(is_negative);
        for (word, value) in [(&b"NaN"[..], f64::NAN), (b"Infinity", f64::INFINITY), (b"Inf", f64::INFINITY)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                self.push_float(if is_negative { -value } else { value });
                return Some(());
            }
        }
        let digits = self.digits();
        if digits == 0 || (digits > 1 && self.text[self.at - digits] == b'0') {
            return None;
        }
        let mut is_integer = true;
        if self.text.get(self.at) == Some(&b'.') {
            is_integer = false;
            self.at += 1;
            if self.digits() == 0 {
                return None;
            }
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            is_integer = false;
            self.at += 1;
            self.at += usize::from(matches!(self.text.get(self.at), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return None;
            }
        }
        let token = std::str::from_utf8(&self.text[start..self.at]).ok()?;
        if !is_integer {
            let value = token.parse::<f64>().ok().filter(|value| value.is_finite())?;
            self.push_float(value);
            return Some(());
        }
        if digits > MOST_DIGITS {
            return None;
        }
        let value = token.parse::<i64>().ok()?;
        self.array.largest = self.array.largest.max(value.unsigned_abs());
        match &mut self.array.values {
            Values::Integers(values) => values.push(value),
            Values::Floats(values) => values.push(value as f64),
        }
        Some(())
    }

    /// Skips digits and returns how many there were.
    fn digits(&mut self) -> usize {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn push_float(&mut self, value: f64) {
        match &mut self.array.values {
            Values::Floats(values) => values.push(value),
            Values::Integers(values) => {
                let mut floats: Vec<f64> = values.iter().map(|&value| value as f64).collect();
                floats.push(value);
                self.array.values = Values::Floats(floats);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_all(text: &str) -> (String, Vec<Array>) {
        let (rest, arrays) = cut(text.as_bytes(), "#", 1);
        (String::from_utf8(rest).unwrap(), arrays)
    }

    fn integers(shape: &[usize], values: &[i64]) -> Array {
        let largest = values.iter().map(|value| value.unsigned_abs()).max().unwrap();
        Array { shape: shape.to_vec(), values: Values::Integers(values.to_vec()), largest }
    }

    #[test]
    fn rectangular_arrays_of_numbers_are_cut_out() {
        let (rest, arrays) = cut_all(r#"{"a": [[1, -2] ,[3,4]], "b": ["[1]", [5]], "c": 7}"#);
        assert_eq!(rest, r##"{"a": "#0", "b": ["[1]", "#1"], "c": 7}"##);
        assert_eq!(arrays, [integers(&[2, 2], &[1, -2, 3, 4]), integers(&[1], &[5])]);
    }

    #[test]
    fn one_float_makes_all_numbers_floats() {
        let (_, arrays) = cut_all("[1, 2.5, -1e-3, Infinity, -Inf]");
        let values = Values::Floats(vec![1.0, 2.5, -1e-3, f64::INFINITY, f64::NEG_INFINITY]);
        assert_eq!(arrays, [Array { shape: vec![5], values, largest: 1 }]);
        let (_, arrays) = cut_all("[-NaN]");
        assert!(matches!(&arrays[0].values, Values::Floats(values) if values[0].is_nan()));
    }

    #[test]
    fn other_arrays_stay_whole_or_in_part() {
        for text in [
            "[]",
            "[01]",
            "[1.]",
            "[.5]",
            "[1e]",
            "[+1]",
            "[1",
            "[1 2]",
            "[1,]",
            "[true]",
            "[null]",
            "[1e999]",
            "[1234567890123456789]",
            "[--1]",
            "[In]",
            "\"[1]\\\"[2]",
            "[[[[[[[[[1",
        ] {
            assert_eq!(cut_all(text), (text.to_owned(), vec![]), "{text}");
        }
        for (text, rest) in [
            ("[[1], [2, 3]]", r##"["#0", "#1"]"##),
            ("[1, [2]]", r##"[1, "#0"]"##),
            ("[[1], 2]", r##"["#0", 2]"##),
            ("[[[1]], [2]]", r##"["#0", "#1"]"##),
            ("[[[[[[[[[1]]]]]]]]]", r##"["#0"]"##),
        ] {
            assert_eq!(cut_all(text).0, rest, "{text}");
        }
    }

    #[test]
    fn small_arrays_stay() {
        let (rest, arrays) = cut(b"[[1, 2], [3]]", "#", 2);
        assert_eq!((rest, arrays.len()), (br##"["#0", [3]]"##.to_vec(), 1));
    }
}
