//! Writing GGUF, version 3: everything of a file but its weights. [`super`] has the layout, and reads it back.

use super::Value;
use crate::format::Format;

/// The alignment of a file that does not say another: what is written has no `general.alignment`.
pub(crate) const ALIGNMENT: usize = 32;

/// A tensor of a file that is to be written. A vector has one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub name: String,
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    /// Whether it is a vector, of one dimension in the file, and not a matrix that may have one row.
    pub vector: bool,
}

impl Entry {
    /// Bytes of its weights, without what fills them up to the alignment.
    ///
    /// # Panics
    /// If its rows are not whole blocks of its format.
    pub(crate) fn bytes(&self) -> usize {
        self.rows * self.format.row_bytes(self.cols).expect("whole blocks")
    }

    fn write(&self, offset: usize, out: &mut Vec<u8>) {
        string(&self.name, out);
        let dims = if self.vector { &[self.cols][..] } else { &[self.cols, self.rows] };
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|&dim| out.extend((dim as u64).to_le_bytes()));
        out.extend(self.format.ggml_type().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
    }
}

/// The front of a file, up to where its weights begin: those of the first of `tensors`, each filled up to [`ALIGNMENT`].
pub(crate) fn front(pairs: &[(String, Value)], tensors: &[Entry]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        string(key, &mut out);
        value.write(&mut out);
    }
    let mut offset = 0;
    for tensor in tensors {
        tensor.write(offset, &mut out);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// A string as GGUF has it: its length, then its bytes.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::{Array, Header};
    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u8>().prop_map(Value::U8),
            any::<i8>().prop_map(Value::I8),
            any::<u16>().prop_map(Value::U16),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<i32>().prop_map(Value::I32),
            any::<u64>().prop_map(Value::U64),
            any::<i64>().prop_map(Value::I64),
            (-1e30f32..1e30).prop_map(Value::F32),
            (-1e300f64..1e300).prop_map(Value::F64),
            any::<bool>().prop_map(Value::Bool),
            ".{0,9}".prop_map(Value::String),
            arrays().prop_map(Value::Array),
        ]
    }

    fn arrays() -> impl Strategy<Value = Array> {
        use prop::collection::vec;
        prop_oneof![
            vec(any::<u8>(), 0..5).prop_map(Array::U8),
            vec(any::<i8>(), 0..5).prop_map(Array::I8),
            vec(any::<u16>(), 0..5).prop_map(Array::U16),
            vec(any::<i16>(), 0..5).prop_map(Array::I16),
            vec(any::<u32>(), 0..5).prop_map(Array::U32),
            vec(any::<i32>(), 0..5).prop_map(Array::I32),
            vec(any::<u64>(), 0..5).prop_map(Array::U64),
            vec(any::<i64>(), 0..5).prop_map(Array::I64),
            vec(-1e30f32..1e30, 0..5).prop_map(Array::F32),
            vec(-1e300f64..1e300, 0..5).prop_map(Array::F64),
            vec(any::<bool>(), 0..5).prop_map(Array::Bool),
            vec(".{0,9}", 0..5).prop_map(Array::String),
        ]
    }

    fn entries() -> impl Strategy<Value = Entry> {
        (0..Format::ALL.len(), 1usize..5, 1usize..4, any::<bool>()).prop_map(|(format, rows, blocks, vector)| {
            let format = Format::ALL[format];
            let rows = if vector { 1 } else { rows };
            Entry { name: String::new(), format, rows, cols: blocks * format.block_len(), vector }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read(
            values in prop::collection::vec(values(), 0..8),
            mut tensors in prop::collection::vec(entries(), 0..6),
        ) {
            let pairs: Vec<_> = values.into_iter().enumerate().map(|(i, value)| (format!("key {i}"), value)).collect();
            tensors.iter_mut().enumerate().for_each(|(i, tensor)| tensor.name = format!("tensor {i}"));
            let mut file = front(&pairs, &tensors);
            let start = file.len();
            let lengths = tensors.iter().map(|tensor| tensor.bytes().next_multiple_of(ALIGNMENT));
            file.resize(start + lengths.sum::<usize>(), 0);
            let header = Header::parse(Path::new("file"), &file).unwrap();
            prop_assert_eq!(header.version(), 3);
            let read: Vec<_> = header.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
            prop_assert_eq!(read, pairs);
            let mut at = start;
            prop_assert_eq!(header.tensors().len(), tensors.len());
            for (read, tensor) in header.tensors().iter().zip(&tensors) {
                prop_assert_eq!(read.name(), &tensor.name);
                prop_assert_eq!((read.format(), read.rows(), read.cols()), (tensor.format, tensor.rows, tensor.cols));
                prop_assert_eq!(read.range(), at..at + tensor.bytes());
                at = read.range().end.next_multiple_of(ALIGNMENT);
            }
        }
    }
}
