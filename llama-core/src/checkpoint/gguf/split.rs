//! Models split over several GGUF files, `name-00001-of-0000N.gguf`, as `gguf-split` writes them.
//!
//! Every shard has `split.no` (from 0), `split.count` and `split.tensors.count`; the first also has the metadata.

use std::path::{Path, PathBuf};

use super::File;
use crate::error::{Error, Result};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Opens `path` and, where it is a shard, all others of its model, in order.
pub(in crate::checkpoint) fn open_all(path: &Path) -> Result<Vec<File>> {
    let file = File::open(path)?;
    let count = file.metadata().u32(COUNT)?.unwrap_or(1);
    match count {
        0 => Err(Error::config(COUNT, "is 0")),
        1 => Ok(vec![file]),
        2..=65_535 => open_shards(file, count),
        _ => Err(Error::config(COUNT, format!("is {count}; at most 65535 was expected"))),
    }
}

fn open_shards(opened: File, count: u32) -> Result<Vec<File>> {
    let no = shard_number(&opened, count)?;
    let stem = stem(opened.map().path(), no, count)?;
    let mut opened = Some(opened);
    let mut files = Vec::new();
    for i in 0..count {
        let file = match opened.take_if(|_| i == no) {
            Some(file) => file,
            None => File::open(shard_path(&stem, i, count))?,
        };
        if shard_number(&file, count)? != i {
            return Err(Error::file(file.map().path(), NO, 0, format!("is not {i}, which its name promises")));
        }
        files.push(file);
    }
    check_tensor_count(&files)?;
    Ok(files)
}

/// `split.no` of a file whose `split.count` must be `count`.
fn shard_number(file: &File, count: u32) -> Result<u32> {
    let wrong = |key: &str, problem: String| Err(Error::file(file.map().path(), key, 0, problem));
    let found = file.metadata().u32(COUNT)?;
    if found != Some(count) {
        return wrong(COUNT, format!("is {found:?}; the other shards say {count}"));
    }
    match file.metadata().u32(NO)? {
        Some(no) if no < count => Ok(no),
        other => wrong(NO, format!("is {other:?}; a number under {count} was expected")),
    }
}

/// What the shards' names share: the path without `-0000i-of-0000N.gguf`.
fn stem(path: &Path, no: u32, count: u32) -> Result<PathBuf> {
    let suffix = suffix(no, count);
    match path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(&suffix)) {
        Some(stem) => Ok(path.with_file_name(stem)),
        None => {
            let problem = format!("is {no} of {count}, so the file's name must end in {suffix}");
            Err(Error::file(path, NO, 0, problem))
        }
    }
}

fn shard_path(stem: &Path, no: u32, count: u32) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(suffix(no, count));
    path.into()
}

fn suffix(no: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// `split.tensors.count`, where given, is the sum over all shards.
fn check_tensor_count(files: &[File]) -> Result<()> {
    let sum: usize = files.iter().map(|file| file.tensors().len()).sum();
    for file in files {
        match file.metadata().u64(TENSORS)? {
            Some(claimed) if claimed != sum as u64 => {
                let problem = format!("is {claimed}; all shards together have {sum} tensors");
                return Err(Error::file(file.map().path(), TENSORS, 0, problem));
            }
            _ => {}
        }
    }
    Ok(())
}
