//! Typed metadata: what a GGUF's key-value pairs hold, and getters that name the key when its type is not the one asked.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::write::string;
use crate::checkpoint::lookup::Lookup;
use crate::error::{Error, InFile, Result};

/// Bytes of the smallest pair: key length, one byte of key, type, one byte of value.
const LEAST_PAIR: usize = 8 + 1 + 4 + 1;
/// Bytes of the longest key (gguf.md).
const LONGEST_KEY: usize = 65_535;

/// A value of a key-value pair.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array, in its element type. Arrays of arrays, which no Llama has and ggml does not read either, are refused.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

impl Value {
    /// The type as GGUF names it: `"u32"`, `"array of string"`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(array) => array.type_name(),
        }
    }

    /// An integer of any width.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    fn read(reader: &mut Reader<'_>, field: &dyn Display) -> Result<Value> {
        let at = reader.at();
        Ok(match reader.u32(field)? {
            0 => Value::U8(u8::from_le_bytes(reader.array(field)?)),
            1 => Value::I8(i8::from_le_bytes(reader.array(field)?)),
            2 => Value::U16(u16::from_le_bytes(reader.array(field)?)),
            3 => Value::I16(i16::from_le_bytes(reader.array(field)?)),
            4 => Value::U32(u32::from_le_bytes(reader.array(field)?)),
            5 => Value::I32(i32::from_le_bytes(reader.array(field)?)),
            6 => Value::F32(f32::from_le_bytes(reader.array(field)?)),
            7 => Value::Bool(boolean(reader, field)?),
            8 => Value::String(reader.string(usize::MAX, field)?.to_owned()),
            9 => Value::Array(Array::read(reader, field)?),
            10 => Value::U64(u64::from_le_bytes(reader.array(field)?)),
            11 => Value::I64(i64::from_le_bytes(reader.array(field)?)),
            12 => Value::F64(f64::from_le_bytes(reader.array(field)?)),
            other => return Err(reader.error(field, at, format!("has value type {other}; 0 to 12 were expected"))),
        })
    }

    /// Appends the type's number and the value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut put = |kind: u32, bytes: &[u8]| {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Value::U8(v) => put(0, &v.to_le_bytes()),
            Value::I8(v) => put(1, &v.to_le_bytes()),
            Value::U16(v) => put(2, &v.to_le_bytes()),
            Value::I16(v) => put(3, &v.to_le_bytes()),
            Value::U32(v) => put(4, &v.to_le_bytes()),
            Value::I32(v) => put(5, &v.to_le_bytes()),
            Value::F32(v) => put(6, &v.to_le_bytes()),
            Value::Bool(v) => put(7, &[u8::from(*v)]),
            Value::String(v) => {
                put(8, &[]);
                string(v, out);
            }
            Value::Array(v) => {
                put(9, &[]);
                v.write(out);
            }
            Value::U64(v) => put(10, &v.to_le_bytes()),
            Value::I64(v) => put(11, &v.to_le_bytes()),
            Value::F64(v) => put(12, &v.to_le_bytes()),
        }
    }
}

impl Array {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::F64(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "array of u8",
            Array::I8(_) => "array of i8",
            Array::U16(_) => "array of u16",
            Array::I16(_) => "array of i16",
            Array::U32(_) => "array of u32",
            Array::I32(_) => "array of i32",
            Array::U64(_) => "array of u64",
            Array::I64(_) => "array of i64",
            Array::F32(_) => "array of f32",
            Array::F64(_) => "array of f64",
            Array::Bool(_) => "array of bool",
            Array::String(_) => "array of string",
        }
    }

    fn read(reader: &mut Reader<'_>, field: &dyn Display) -> Result<Array> {
        let at = reader.at();
        Ok(match reader.u32(field)? {
            0 => Array::U8(numbers(reader, field, u8::from_le_bytes)?),
            1 => Array::I8(numbers(reader, field, i8::from_le_bytes)?),
            2 => Array::U16(numbers(reader, field, u16::from_le_bytes)?),
            3 => Array::I16(numbers(reader, field, i16::from_le_bytes)?),
            4 => Array::U32(numbers(reader, field, u32::from_le_bytes)?),
            5 => Array::I32(numbers(reader, field, i32::from_le_bytes)?),
            6 => Array::F32(numbers(reader, field, f32::from_le_bytes)?),
            7 => Array::Bool(list(reader, 1, field, boolean)?),
            8 => {
                Array::String(list(reader, 8, field, |reader, field| Ok(reader.string(usize::MAX, field)?.to_owned()))?)
            }
            9 => return Err(reader.error(field, at, "is an array of arrays; numbers, bools or strings were expected")),
            10 => Array::U64(numbers(reader, field, u64::from_le_bytes)?),
            11 => Array::I64(numbers(reader, field, i64::from_le_bytes)?),
            12 => Array::F64(numbers(reader, field, f64::from_le_bytes)?),
            other => return Err(reader.error(field, at, format!("has element type {other}; 0 to 12 were expected"))),
        })
    }

    /// Appends the number of the elements' type, how many there are, and the elements.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Array::U8(v) => elements(0, v, |v| v.to_le_bytes(), out),
            Array::I8(v) => elements(1, v, |v| v.to_le_bytes(), out),
            Array::U16(v) => elements(2, v, |v| v.to_le_bytes(), out),
            Array::I16(v) => elements(3, v, |v| v.to_le_bytes(), out),
            Array::U32(v) => elements(4, v, |v| v.to_le_bytes(), out),
            Array::I32(v) => elements(5, v, |v| v.to_le_bytes(), out),
            Array::F32(v) => elements(6, v, |v| v.to_le_bytes(), out),
            Array::Bool(v) => elements(7, v, |v| [u8::from(*v)], out),
            Array::String(v) => {
                elements(8, v, |_| [], out);
                v.iter().for_each(|text| string(text, out));
            }
            Array::U64(v) => elements(10, v, |v| v.to_le_bytes(), out),
            Array::I64(v) => elements(11, v, |v| v.to_le_bytes(), out),
            Array::F64(v) => elements(12, v, |v| v.to_le_bytes(), out),
        }
    }
}

/// The number of a type, a count, then elements of a fixed size.
fn elements<T, const N: usize>(kind: u32, elements: &[T], bytes: impl Fn(&T) -> [u8; N], out: &mut Vec<u8>) {
    out.extend(kind.to_le_bytes());
    out.extend((elements.len() as u64).to_le_bytes());
    elements.iter().for_each(|element| out.extend(bytes(element)));
}

fn boolean(reader: &mut Reader<'_>, field: &dyn Display) -> Result<bool> {
    let at = reader.at();
    match reader.array(field)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(reader.error(field, at, format!("is the bool {other}; 0 or 1 was expected"))),
    }
}

/// A count, then elements of a fixed size: one check for all of them.
fn numbers<T, const N: usize>(reader: &mut Reader<'_>, field: &dyn Display, from: fn([u8; N]) -> T) -> Result<Vec<T>> {
    let at = reader.at();
    let count = reader.u64(field)?;
    let bytes = reader.take(count, N, field, at)?;
    Ok(bytes.as_chunks().0.iter().map(|&chunk| from(chunk)).collect())
}

/// A count, then elements of at least `least` bytes that are checked one by one.
fn list<'a, T>(
    reader: &mut Reader<'a>,
    least: usize,
    field: &dyn Display,
    one: fn(&mut Reader<'a>, &dyn Display) -> Result<T>,
) -> Result<Vec<T>> {
    let count = reader.count(least, field)?;
    let mut out = Vec::with_capacity(count);
    for i in 0..count {
        out.push(one(reader, &format_args!("{field}[{i}]"))?);
    }
    Ok(out)
}

/// Key-value pairs of a GGUF, in the file's order.
///
/// Getters return `Ok(None)` for a missing key and an [`Error::Config`] that names the file and the key for a value of
/// another type.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    pairs: Vec<(String, Value)>,
    lookup: Lookup,
}

impl Metadata {
    pub(super) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Metadata> {
        let mut pairs = Vec::with_capacity(count);
        let mut starts = Vec::with_capacity(count);
        for i in 0..count {
            let at = reader.at();
            let key = reader.string(LONGEST_KEY, &format_args!("key {i}"))?;
            if key.is_empty() {
                return Err(reader.error(&format_args!("key {i}"), at, "is empty; a name was expected"));
            }
            starts.push(at);
            pairs.push((key.to_owned(), Value::read(reader, &key)?));
        }
        let lookup = Lookup::new(count, |i| &pairs[i].0).map_err(|twin| {
            reader.error(&pairs[twin].0, starts[twin], "is a key that occurs twice; once was expected")
        })?;
        Ok(Metadata { path: reader.path().to_owned(), pairs, lookup })
    }

    /// Least bytes of a pair, for checking their count.
    pub(super) const LEAST: usize = LEAST_PAIR;

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All pairs in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let place = self.lookup.find(key, |i| &self.pairs[i].0)?;
        Some(&self.pairs[place].1)
    }

    /// An integer of any width that a `u32` can hold.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.integer(key)
    }

    /// An integer of any width that a `u64` can hold.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.integer(key)
    }

    /// An integer of any width that a `usize` can hold.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.integer(key)
    }

    /// A float of either width.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "f32", |value| match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        })
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "bool", |value| if let Value::Bool(v) = value { Some(*v) } else { None })
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "string", |value| if let Value::String(v) = value { Some(v.as_str()) } else { None })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "array of string", |value| match value {
            Value::Array(Array::String(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of f32.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "array of f32", |value| match value {
            Value::Array(Array::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of i32.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>> {
        self.typed(key, "array of i32", |value| match value {
            Value::Array(Array::I32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An error about the value of `key`.
    fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::config(key, problem).in_file(&self.path)
    }

    /// An integer, or an array of equal integers with one for each of `layers`.
    pub(super) fn usize_per_layer(&self, key: &str, layers: usize) -> Result<Option<usize>> {
        let values: Vec<i128> = match self.get(key) {
            Some(Value::Array(Array::I32(v))) => v.iter().map(|&v| v.into()).collect(),
            Some(Value::Array(Array::U32(v))) => v.iter().map(|&v| v.into()).collect(),
            _ => return self.usize(key),
        };
        match values.first().map(|&first| usize::try_from(first)) {
            Some(Ok(first)) if values.len() == layers && values.iter().all(|v| *v == first as i128) => Ok(Some(first)),
            _ => {
                let problem = format!(
                    "has {} values; one number, the same for each of {layers} layers, was expected",
                    values.len()
                );
                Err(self.error(key, problem))
            }
        }
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.typed(key, "integer", Value::integer)? else { return Ok(None) };
        match T::try_from(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                let most = u64::MAX >> (64 - 8 * size_of::<T>());
                Err(self.error(key, format!("is {value}; 0 to {most} was expected")))
            }
        }
    }

    fn typed<'a, T>(&'a self, key: &str, expected: &str, of: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match of(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.error(key, format!("is of type {}; {expected} was expected", value.type_name()))),
        }
    }
}
