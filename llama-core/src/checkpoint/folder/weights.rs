//! model.safetensors, or model.safetensors.index.json and the shards that it lists.
//!
//! The index is taken at its word and no further: each tensor it lists is in the shard it says, in no other, and shards
//! hold nothing else. Its `total_size` is advice that many converters get wrong, and is not read.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::{absent, confined};
use crate::checkpoint::json as file;
use crate::checkpoint::safetensors::File;
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAP: &str = "weight_map";

/// Opens the weights of `folder`: the single file where there is one, as transformers prefers it; else the index, which is
/// returned too.
pub(super) fn open(folder: &Path) -> Result<(Vec<File>, Option<PathBuf>)> {
    if let Some(path) = confined(folder, SINGLE)? {
        return Ok((vec![File::open(path)?], None));
    }
    match confined(folder, INDEX)? {
        Some(path) => Ok((open_indexed(folder, &path)?, Some(path))),
        None => Err(absent::weights(folder, SINGLE, INDEX)),
    }
}

fn open_indexed(folder: &Path, index: &Path) -> Result<Vec<File>> {
    let object = file::object(index)?;
    let map = match object.get(MAP) {
        Some(Value::Object(map)) if !map.is_empty() => map,
        _ => {
            return Err(Error::file(
                index,
                MAP,
                None,
                "is missing, empty or not an object; tensors and their shards were expected",
            ));
        }
    };
    let mut files = Vec::new();
    for (name, tensors) in by_shard(index, map)? {
        let path = confined(folder, name)?.ok_or_else(|| {
            Error::file(index, MAP, None, format!("lists shard {name}, which is not in the folder; fetch it"))
        })?;
        let file = File::open(path)?;
        check_shard(index, name, &file, &tensors)?;
        files.push(file);
    }
    Ok(files)
}

/// Tensors by the shard that holds them.
fn by_shard<'a>(index: &Path, map: &'a Map<String, Value>) -> Result<BTreeMap<&'a str, Vec<&'a str>>> {
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in map {
        match shard.as_str().filter(|shard| is_plain(shard)) {
            Some(shard) => shards.entry(shard).or_default().push(tensor),
            None => {
                let problem =
                    format!("puts tensor {tensor} into {shard}; a .safetensors file of the folder was expected");
                return Err(Error::file(index, MAP, None, problem));
            }
        }
    }
    Ok(shards)
}

/// Whether `name` is a file name and no path.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    one && name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0'])
}

fn check_shard(index: &Path, shard: &str, file: &File, listed: &[&str]) -> Result<()> {
    if let Some(absent) = listed.iter().find(|tensor| file.find(tensor).is_none()) {
        return Err(Error::file(
            index,
            MAP,
            None,
            format!("lists tensor {absent} in {shard}, which does not hold it; fetch the two again"),
        ));
    }
    if file.tensors().len() == listed.len() {
        return Ok(());
    }
    let listed: HashSet<&str> = listed.iter().copied().collect();
    let extra = file.tensors().iter().find(|tensor| !listed.contains(tensor.name()));
    let name = extra.map_or("", |tensor| tensor.name());
    Err(Error::file(
        file.map().path(),
        format!("tensor {name}"),
        None,
        format!("is not listed in {INDEX} for this shard; fetch the two again"),
    ))
}
