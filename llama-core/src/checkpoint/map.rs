//! A file mapped into memory: the one place of this crate with unsafe code.
//!
//! Only regular files are mapped. What else a path may name (a folder, a FIFO, a device) is refused from its metadata,
//! before it is opened, because opening a FIFO waits for a writer; the opened file is looked at again, in case the path
//! was replaced in between.
//!
//! A map cannot be protected from a program that shortens the file under it: reading past the new end is a fatal signal
//! (SIGBUS), while [`Map::read`] returns an error. [`Map::verify`] tells whether the file is still the one that was opened,
//! so that a caller can stop with an error while weights are prepared. Replace model files by renaming, never by writing
//! into them: a renamed or deleted file keeps its bytes for as long as it is mapped.
//!
//! Pages of a map count as this process's memory from the first look at them, and a system may map megabytes at one look.
//! So that loading never holds a model twice, [`Map::read`] copies a part without looking, and [`Map::release`] gives pages
//! back.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// A read-only map of a whole regular file.
#[derive(Debug)]
pub struct Map {
    path: PathBuf,
    file: File,
    modified: Option<SystemTime>,
    bytes: memmap2::Mmap,
}

impl Map {
    /// Maps `path`. Folders, FIFOs, devices and empty files are errors at once.
    pub fn open(path: impl AsRef<Path>) -> Result<Map> {
        let path = path.as_ref();
        regular(path, &std::fs::metadata(path).map_err(|source| Error::io(path, source))?)?;
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        regular(path, &metadata)?;
        let bytes = map(&file).map_err(|source| Error::io(path, source))?;
        let map = Map { path: path.to_owned(), file, modified: metadata.modified().ok(), bytes };
        map.verify()?;
        Ok(map)
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// When the file was last written to before it was opened, where the system keeps that.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Asks the system to read the whole file into its cache meanwhile. It may not.
    pub fn prefetch(&self) {
        #[cfg(unix)]
        let _ = self.bytes.advise(memmap2::Advice::WillNeed);
    }

    /// Takes the pages that hold `part` of [`Map::bytes`] out of this process's memory. They stay readable: the next look
    /// takes them from the system's file cache, or from the disk. Bytes that are not this map's are left alone, and a
    /// system that refuses merely keeps the pages.
    pub fn release(&self, part: &[u8]) {
        if let Some(start) = self.start_of(part) {
            release(&self.bytes, start, part.len());
        }
    }

    /// Reads `part` of [`Map::bytes`] from the file itself: none of the map's pages come into this process's memory, and a
    /// file that was shortened is an error. `out` has the length of `part`; bytes that are not this map's are copied.
    pub fn read(&self, part: &[u8], out: &mut [u8]) -> Result<()> {
        let Some(start) = self.start_of(part) else {
            out.copy_from_slice(part);
            return Ok(());
        };
        read(&self.file, part, start as u64, out).or_else(|source| {
            self.verify()?;
            Err(Error::io(&self.path, source))
        })
    }

    /// Where `part` starts in the file, if it is this map's.
    fn start_of(&self, part: &[u8]) -> Option<usize> {
        let start = part.as_ptr().addr().wrapping_sub(self.bytes.as_ptr().addr());
        (start < self.bytes.len() && part.len() <= self.bytes.len() - start).then_some(start)
    }

    /// An error if the file was written to, or changed its length, since it was opened.
    pub fn verify(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|source| Error::io(&self.path, source))?;
        if now.len() != self.bytes.len() as u64 {
            let problem = format!("changed under us: {} bytes when opened, {} now", self.bytes.len(), now.len());
            return Err(Error::file(&self.path, "file length", None, problem));
        }
        if now.modified().ok() != self.modified {
            return Err(Error::file(&self.path, "file", None, "was written to since it was opened"));
        }
        Ok(())
    }
}

/// Refuses what is not a regular file, and files without a byte.
fn regular(path: &Path, metadata: &Metadata) -> Result<()> {
    let problem = if metadata.is_dir() {
        "is a folder; a regular file was expected"
    } else if !metadata.is_file() {
        "is a device, pipe or socket; a regular file was expected"
    } else if metadata.len() == 0 {
        "is empty; fetch it again"
    } else {
        return Ok(());
    };
    Err(Error::file(path, "file", None, problem))
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: a map must not change while its bytes are borrowed. It is read-only, and no program can be kept from
    // writing into the file, so this obligation is passed on to whoever owns the file (see the module's documentation).
    // Should it be broken: weights are plain bytes, of which none is invalid, so they are merely wrong; text is checked
    // and copied while a checkpoint is opened; a shortened file ends the process by SIGBUS, which corrupts nothing.
    unsafe { memmap2::Mmap::map(file) }
}

#[cfg(unix)]
fn read(file: &File, _: &[u8], start: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, start)
}

#[cfg(not(unix))]
fn read(_: &File, part: &[u8], _: u64, out: &mut [u8]) -> std::io::Result<()> {
    out.copy_from_slice(part);
    Ok(())
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn release(bytes: &memmap2::Mmap, start: usize, len: usize) {
    // SAFETY: the advice may not change what borrowed bytes hold. The map is of a file and nobody writes through it, so
    // its pages are copies: a dropped one is read again from the file, which is as unchanged as `map` relies on. The
    // addresses stay mapped.
    let _ = unsafe { bytes.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
}

#[cfg(not(unix))]
fn release(_: &memmap2::Mmap, _: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &str) -> String {
        Map::open(path).unwrap_err().to_string()
    }

    #[test]
    fn only_regular_files_are_mapped() {
        assert!(error("/").contains("is a folder"));
        assert!(error("/dev/zero").contains("is a device"));
        assert!(error("/no/such/file").contains("/no/such/file"));
    }

    #[test]
    fn parts_are_read_from_the_file() {
        let path = std::env::temp_dir().join(format!("llama-map-read-{}", std::process::id()));
        let contents: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        let map = Map::open(&path).unwrap();
        for range in [0..10_000, 9_999..10_000, 7..4103, 5..5] {
            let mut out = vec![0; range.len()];
            map.read(&map.bytes()[range.clone()], &mut out).unwrap();
            assert_eq!(out, contents[range]);
        }
        // Others' bytes.
        let mut out = [0; 3];
        map.read(&[1, 2, 3], &mut out).unwrap();
        assert_eq!(out, [1, 2, 3]);
        #[cfg(unix)]
        {
            File::options().write(true).open(&path).unwrap().set_len(5_000).unwrap();
            let error = map.read(&map.bytes()[4_000..6_000], &mut [0; 2_000]).unwrap_err().to_string();
            assert!(error.contains("10000 bytes when opened, 5000 now"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn released_pages_are_read_again() {
        let path = std::env::temp_dir().join(format!("llama-map-{}", std::process::id()));
        let contents: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        let map = Map::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for range in [0..300_000, 5000..5001, 4096..8192, 299_999..300_000, 7..7] {
            map.release(&map.bytes()[range]);
            assert_eq!(map.bytes(), contents);
        }
        // Others' bytes, wherever they lie.
        map.release(&contents);
        map.release(&[]);
        assert_eq!(contents[250], 250);
    }
}
