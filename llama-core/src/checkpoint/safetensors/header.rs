//! The header's JSON, read into exactly what it may hold: anything else is an error at its place in the text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Most dimensions of a tensor.
const MOST_DIMS: usize = 8;
/// Most entries of `__metadata__`, whose contents nothing here uses.
const MOST_METADATA: usize = 4096;

/// One tensor as the header describes it, not checked yet.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) data_offsets: [u64; 2],
}

/// All tensors of a header, in its order.
pub(super) fn entries(json: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    serde_json::from_slice::<Entries>(json).map(|entries| entries.0)
}

struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(EntriesVisitor).map(Entries)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Vec<Entry>, A::Error> {
        let mut entries = Vec::new();
        let mut metadata = false;
        while let Some(name) = pairs.next_key::<String>()? {
            if name != "__metadata__" {
                let Body { dtype, shape, data_offsets } = pairs.next_value()?;
                entries.push(Entry { name, dtype, shape, data_offsets });
            } else if std::mem::replace(&mut metadata, true) {
                return Err(A::Error::duplicate_field("__metadata__"));
            } else {
                pairs.next_value::<Metadata>()?;
            }
        }
        Ok(entries)
    }
}

/// `{ dtype, shape, data_offsets }`: each once, nothing else.
struct Body {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Body, A::Error> {
        let (mut dtype, mut shape, mut data_offsets) = (None, None, None);
        while let Some(key) = pairs.next_key::<String>()? {
            match key.as_str() {
                "dtype" => once(&mut dtype, "dtype", pairs.next_value()?)?,
                "shape" => once(&mut shape, "shape", pairs.next_value::<Shape>()?.0)?,
                "data_offsets" => once(&mut data_offsets, "data_offsets", pairs.next_value()?)?,
                _ => return Err(A::Error::unknown_field(&key, &["dtype", "shape", "data_offsets"])),
            }
        }
        Ok(Body {
            dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            data_offsets: data_offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
        })
    }
}

fn once<T, E: serde::de::Error>(place: &mut Option<T>, key: &'static str, value: T) -> Result<(), E> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(key)),
    }
}

struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_seq(ShapeVisitor).map(Shape)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Vec<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST_DIMS} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut dims: A) -> Result<Vec<usize>, A::Error> {
        let mut shape = Vec::new();
        while let Some(dim) = dims.next_element()? {
            if shape.len() == MOST_DIMS {
                return Err(A::Error::invalid_length(MOST_DIMS + 1, &self));
            }
            shape.push(dim);
        }
        Ok(shape)
    }
}

/// `__metadata__`: strings by string, checked and dropped.
struct Metadata;

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {MOST_METADATA} strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Metadata, A::Error> {
        let mut keys = Vec::new();
        while let Some((key, _)) = pairs.next_entry::<String, String>()? {
            if keys.len() == MOST_METADATA {
                return Err(A::Error::invalid_length(MOST_METADATA + 1, &self));
            }
            keys.push(key);
        }
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(A::Error::custom(format!("key {:?} of __metadata__ occurs twice", pair[0]))),
            None => Ok(Metadata),
        }
    }
}
