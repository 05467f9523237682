//! Models split over several GGUF files, `name-00001-of-0000N.gguf`, as `gguf-split` writes them.
//!
//! Every shard has `split.no` (from 0), `split.count` and `split.tensors.count`; the first also has the metadata.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::File;
use crate::error::{Error, InFile, Result};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Opens `path` and, where it is a shard, all others of its model, in order.
pub(in crate::checkpoint) fn open_all(path: &Path) -> Result<Vec<File>> {
    let file = File::open(path)?;
    let count = file.metadata().u32(COUNT)?.unwrap_or(1);
    match count {
        0 => Err(Error::config(COUNT, "is 0; at least 1 was expected").in_file(path)),
        1 => Ok(vec![file]),
        2..=65_535 => open_shards(file, count),
        _ => Err(Error::config(COUNT, format!("is {count}; at most 65535 was expected")).in_file(path)),
    }
}

fn open_shards(opened: File, count: u32) -> Result<Vec<File>> {
    let no = shard_number(&opened, count)?;
    let stem = stem(opened.map().path(), no, count)?;
    let named = opened.map().path().to_owned();
    let mut opened = Some(opened);
    let mut files = Vec::new();
    for i in 0..count {
        let file = match opened.take_if(|_| i == no) {
            Some(file) => file,
            None => File::open(shard_path(&stem, i, count)).map_err(|error| if_missing(error, &named))?,
        };
        if shard_number(&file, count)? != i {
            return Err(Error::file(
                file.map().path(),
                NO,
                None,
                format!("is another than {i}, which was expected by the file's name"),
            ));
        }
        files.push(file);
    }
    check_tensor_count(&files)?;
    Ok(files)
}

/// The error of a shard that is not there says which file it was looked for.
fn if_missing(error: Error, named: &Path) -> Error {
    match error {
        Error::Io { path, source } if source.kind() == ErrorKind::NotFound => {
            let named = named.file_name().unwrap_or_default().display();
            let problem = format!("is not there, and is a part of the same model as {named}; fetch them all");
            Error::io(path, std::io::Error::new(ErrorKind::NotFound, problem))
        }
        other => other,
    }
}

/// `split.no` of a file whose `split.count` must be `count`.
fn shard_number(file: &File, count: u32) -> Result<u32> {
    let wrong = |key: &str, problem: String| Err(Error::file(file.map().path(), key, None, problem));
    let said = |found: Option<u32>| found.map_or("missing".into(), |number| number.to_string());
    let found = file.metadata().u32(COUNT)?;
    if found != Some(count) {
        return wrong(COUNT, format!("is {}; {count}, as the other shards say, was expected", said(found)));
    }
    match file.metadata().u32(NO)? {
        Some(no) if no < count => Ok(no),
        other => wrong(NO, format!("is {}; a number under {count} was expected", said(other))),
    }
}

/// What the shards' names share: the path without `-0000i-of-0000N.gguf`.
fn stem(path: &Path, no: u32, count: u32) -> Result<PathBuf> {
    let suffix = suffix(no, count);
    match path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(&suffix)) {
        Some(stem) => Ok(path.with_file_name(stem)),
        None => {
            let problem = format!("is {no} of {count}, so a name that ends in {suffix} was expected of the file");
            Err(Error::file(path, NO, None, problem))
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
                let problem = format!("is {claimed}; {sum}, as all shards together have tensors, was expected");
                return Err(Error::file(file.map().path(), TENSORS, None, problem));
            }
            _ => {}
        }
    }
    Ok(())
}
