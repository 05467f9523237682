//! What people open in place of a model's file, known by its first bytes, and what to do instead.

use std::path::Path;

use crate::error::{Error, InFile};

/// First bytes of a file, what it is, what to do.
const FRONTS: [(&[u8], &str, &str); 10] = [
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file", "fetch the file itself: git lfs pull"),
    (b"<!DOCTYPE", PAGE, DOWNLOAD),
    (b"<!doctype", PAGE, DOWNLOAD),
    (b"<html", PAGE, DOWNLOAD),
    (b"PK\x03\x04", "a ZIP archive (as PyTorch's .bin and .pt are)", CONVERT),
    (b"\x80\x02", "a pickle of Python's (as PyTorch's older .bin and .pth are)", CONVERT),
    (b"tjgg", OLD, CONVERT),
    (b"fmgg", OLD, CONVERT),
    (b"lmgg", OLD, CONVERT),
    (b"{", "JSON", "open the folder that it is in, or the weights beside it"),
];
const PAGE: &str = "a web page in place of the file";
const DOWNLOAD: &str = "download it again, and look at what the server says";
const OLD: &str = "a ggml file from before August 2023";
const CONVERT: &str = "convert the model to safetensors or GGUF";

/// The refusal of `bytes`, a whole file of weights, if it is one of those.
pub(super) fn refusal(path: &Path, bytes: &[u8]) -> Option<Error> {
    let (_, kind, advice) = known(bytes).or_else(|| nameless_safetensors(bytes))?;
    Some(Error::unsupported(kind, advice).in_file(path))
}

/// The refusal of `bytes`, a whole file that is no JSON, or no tokenizer, if it is one of those.
pub(crate) fn refusal_of_text(path: &Path, bytes: &[u8]) -> Option<Error> {
    let (_, kind, advice) = known(bytes).filter(|(front, ..)| *front != b"{")?;
    Some(Error::unsupported(kind, advice).in_file(path))
}

fn known(bytes: &[u8]) -> Option<(&'static [u8], &'static str, &'static str)> {
    FRONTS.into_iter().find(|(front, ..)| bytes.starts_with(front))
}

/// As the hub's cache has them under `blobs/`.
fn nameless_safetensors(bytes: &[u8]) -> Option<(&'static [u8], &'static str, &'static str)> {
    let (length, header) = bytes.split_first_chunk()?;
    let fits = usize::try_from(u64::from_le_bytes(*length)).is_ok_and(|length| length <= header.len());
    let advice = "open the folder of the model, or a link to this file that ends in .safetensors";
    (fits && header.starts_with(b"{\"")).then_some((b"", "safetensors without that ending", advice))
}
