//! Reads the arrays of a reference .safetensors file. Deliberately not the library's own reader: the tests of a reader
//! should not depend on it.

use std::path::Path;

use serde_json::Value;

/// A whole file in memory.
pub struct Arrays {
    header: Value,
    data: Vec<u8>,
}

impl Arrays {
    /// Reads `path`.
    ///
    /// # Panics
    /// If it is not a safetensors file: reference data is ours.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        Arrays { header: serde_json::from_slice(&bytes[8..8 + len]).unwrap(), data: bytes[8 + len..].to_vec() }
    }

    /// Shape of `name`.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.numbers(name, "shape")
    }

    /// `name` as f32.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name, "F32").as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    /// `name`, int64, as token ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.bytes(name, "I64").as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect()
    }

    fn numbers(&self, name: &str, field: &str) -> Vec<usize> {
        let list = self.header[name][field].as_array().unwrap_or_else(|| panic!("{name} has no {field}"));
        list.iter().map(|n| n.as_u64().unwrap() as usize).collect()
    }

    fn bytes(&self, name: &str, dtype: &str) -> &[u8] {
        assert_eq!(self.header[name]["dtype"], dtype, "{name}");
        let offsets = self.numbers(name, "data_offsets");
        &self.data[offsets[0]..offsets[1]]
    }
}
