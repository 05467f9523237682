//! Files that are there whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What `write` makes at the path that it is given appears at `path` when it is done. What cannot be written whole is not left
/// behind: where there was no room for it, others need what it took.
pub(crate) fn written<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let partial = Partial(path.with_added_extension("partial"));
    let written = write(&partial.0)?;
    fs::rename(&partial.0, path).map_err(|source| Error::io(path, source))?;
    Ok(written)
}

/// A file that is gone unless it got another name.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
