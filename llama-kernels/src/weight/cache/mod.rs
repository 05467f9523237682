//! Packed weights in a file, so that a second start maps what the first one prepared.
//!
//! The caller asks for it and names the file (or a folder, in which every checkpoint gets a file of its own, and one more
//! where `Numerics::Float` packs it otherwise than the integer modes, which share one). The first start packs all matrices
//! of the checkpoint into the file, a stretch at a time, and then maps it like any later one. Panels are the same for every
//! tier and machine, so one file serves all.
//!
//! * **Stale or damaged** files are written anew: one of another checkpoint, of a checkpoint that changed, of other
//!   packed forms, of a version of this library that packs differently (the fingerprint of the packing code is made by
//!   running it), or one whose front is broken. A file that is no cache is an error and is left alone: a path may be
//!   mistyped.
//! * **Writing** goes to a temporary file beside it, which is renamed when it is on the disk. A cache that cannot be
//!   written was asked for, so it is an error. Whoever has the old one mapped keeps it.
//! * **Opening** checks the front alone. Summing up the panels would read the whole file, which is what mapping avoids;
//!   [`Cache::verify`] does it for whoever asks. Panels that a disk has changed give wrong numbers and nothing worse: no
//!   address is computed from a panel's contents.
//!
//! The map stays for as long as the model does. As with any model file: replace it by renaming, never by writing into it.

mod table;

use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llama_core::checkpoint::map::Map;
use llama_core::checkpoint::{Checkpoint, TensorView, checksum};
use llama_core::format::Format;
use llama_core::{Error, Result};

use super::pack::{Forms, Pack};
use super::plain::{self, Spare};
use super::{panels_of, repack};
use crate::buffer::Pages;
use crate::threads::Threads;
use table::{Entry, Identity, MAGIC, PAGE, Table};

/// Bytes of panels that are packed between two writes.
const PIECE: usize = 32 << 20;

/// A mapped cache file.
pub struct Cache {
    map: Arc<Map>,
    table: Table,
}

/// The panels of one tensor in a cache.
pub struct Mapped {
    map: Arc<Map>,
    range: Range<usize>,
}

impl Mapped {
    /// All panels.
    pub fn data(&self) -> &[u8] {
        &self.map.bytes()[self.range.clone()]
    }
}

impl Cache {
    /// The cache of `checkpoint` at `path`, a file or a folder, which is written first if there is none or a useless one.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read or written, [`Error::File`] for one that is something else,
    /// [`Error::Tensor`] for weights that are not finite.
    pub fn open_or_write(path: &Path, checkpoint: &Checkpoint, forms: Forms, threads: &Threads) -> Result<Cache> {
        let identity = Identity { source: checkpoint.fingerprint(), packing: packing(forms)? };
        let path = &file_in(path, identity);
        if let Some(cache) = Cache::open(path, identity)? {
            return Ok(cache);
        }
        write(path, identity, checkpoint, forms, threads)?;
        let problem = "was replaced while it was written";
        Cache::open(path, identity)?.ok_or_else(|| Error::file(path, "file", None, problem))
    }

    /// The cache at `path`, unless there is none, or one that must be written anew.
    fn open(path: &Path, identity: Identity) -> Result<Option<Cache>> {
        let map = match Map::open(path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            map => map?,
        };
        if !map.bytes().starts_with(&MAGIC) {
            let problem = "is not that of a cache of packed weights; the file is left as it is";
            return Err(Error::file(path, "magic", 0, problem));
        }
        match Table::parse(path, map.bytes()) {
            Ok(table) if table.identity == identity => {
                map.prefetch();
                Ok(Some(Cache { map: Arc::new(map), table }))
            }
            _ => Ok(None),
        }
    }

    /// Reads all panels and compares their checksums.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor whose panels have changed since they were written.
    pub fn verify(&self) -> Result<()> {
        for entry in &self.table.entries {
            if checksum(0, &self.map.bytes()[entry.range()]) != entry.sum {
                let field = format!("panels of {}", entry.name);
                return Err(Error::file(self.map.path(), field, entry.offset, "do not have their checksum"));
            }
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The panels of `view`, and its plain ones, if they are here: of this very tensor, in this form, as many as there must be.
    pub(super) fn find(&self, view: &TensorView<'_>, pack: Pack) -> Option<[Mapped; 2]> {
        let entry = self.table.entries.iter().find(|entry| entry.name == view.name())?;
        let all = entry.range();
        let split = all.start.checked_add(panels_of(view, pack) * pack.panel_bytes(view.cols()))?;
        let same = entry.pack == format!("{pack:?}") && entry.source == view.fingerprint();
        let fits = split == all.end || split < all.end && pack == Pack::CodedBF16;
        let mapped = |range| Mapped { map: Arc::clone(&self.map), range };
        (same && fits).then(|| [all.start..split, split..all.end].map(mapped))
    }
}

/// The file that a caller's path means.
fn file_in(path: &Path, identity: Identity) -> PathBuf {
    let name = || format!("{:016x}-{:016x}.panels", identity.source, identity.packing);
    if path.is_dir() { path.join(name()) } else { path.to_owned() }
}

/// A number that changes with what the packing code does: a checksum of panels of every format, made from noise.
fn packing(forms: Forms) -> Result<u64> {
    const COLS: usize = 512;
    let mut sum = 0;
    for format in Format::ALL {
        let pack = forms.pack(format);
        let rows = pack.rows() + 3;
        let bytes = format.row_bytes(COLS).unwrap_or(0) * rows;
        // Without its second highest bit no byte makes a float of any width infinite. Sixteen exponents have codes, and a few
        // others make exceptions.
        let mask = |i: u64| if pack == Pack::CodedBF16 && !i.is_multiple_of(401) { 0x87 } else { 0xBF };
        let noise: Vec<u8> = (0..bytes as u64).map(|i| checksum(i, &[0]) as u8 & mask(i)).collect();
        let view = TensorView::new("noise", format, rows, COLS, &noise)?;
        sum = checksum(sum, format!("{} {pack:?}", format.name()).as_bytes());
        for first in [0, pack.rows()] {
            let mut out = vec![0; pack.panel_bytes(COLS)];
            let finite = repack::panel(pack, &view, first, &mut out).is_ok();
            sum = checksum(checksum(sum, &out), &[u8::from(finite)]);
        }
    }
    Ok(sum)
}

fn write(path: &Path, identity: Identity, checkpoint: &Checkpoint, forms: Forms, threads: &Threads) -> Result<()> {
    let tensors: Vec<(TensorView<'_>, Pack)> =
        checkpoint.matrices().map(|view| (view, forms.pack(view.format()))).collect();
    let entry = |(view, pack): &(TensorView<'_>, Pack)| Entry {
        name: view.name().to_owned(),
        pack: format!("{pack:?}"),
        source: view.fingerprint(),
        offset: 0,
        bytes: 0,
        sum: 0,
    };
    let mut table = Table { identity, entries: tensors.iter().map(entry).collect() };

    let mut temporary = Temporary::beside(path)?;
    let (mut end, mut spare) = (table.encode().len() as u64, Spare::default());
    for ((view, pack), entry) in tensors.iter().zip(&mut table.entries) {
        temporary.seek(end.next_multiple_of(PAGE))?;
        (entry.bytes, entry.sum) = write_panels(&mut temporary, view, *pack, &mut spare, threads)?;
        entry.place(&mut end);
    }
    checkpoint.verify()?;
    temporary.seek(0)?;
    temporary.write(&table.encode())?;
    temporary.rename()
}

/// Packs and writes one tensor, and returns the bytes and the checksum of its panels, plain ones last.
fn write_panels(
    file: &mut Temporary,
    view: &TensorView<'_>,
    pack: Pack,
    spare: &mut Spare,
    threads: &Threads,
) -> Result<(u64, u64)> {
    let panel_bytes = pack.panel_bytes(view.cols());
    let panels = panels_of(view, pack);
    let piece = (PIECE / panel_bytes).clamp(1, panels);
    let (mut written, mut plain) = ((0, 0), Vec::new());
    for first in (0..panels).step_by(piece) {
        let mut out = pages(piece.min(panels - first) * panel_bytes)?;
        super::fill(&mut out, view, pack, first, threads)?;
        plain::number(&mut out, pack, view.cols(), first, &mut plain);
        append(file, &out, &mut written)?;
    }
    let mut out = pages(spare.take(view, pack, plain.len())?)?;
    plain::fill(&mut out, view, &plain)?;
    append(file, &out, &mut written)?;
    Ok(written)
}

fn pages(bytes: usize) -> Result<Pages> {
    Pages::zeroed(bytes, "packed weights on their way to a file", "the size of the model")
}

/// Writes what follows in the panels of a tensor, of which so many bytes with this checksum are written.
fn append(file: &mut Temporary, panels: &[u8], (bytes, sum): &mut (u64, u64)) -> Result<()> {
    if !panels.is_empty() {
        (*bytes, *sum) = (*bytes + panels.len() as u64, checksum(*sum, panels));
        file.write(panels)?;
    }
    Ok(())
}

/// A file that is deleted again unless it is renamed.
struct Temporary {
    /// What it will be called.
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    renamed: bool,
}

impl Temporary {
    /// A new file beside `path`, with a name that no other writer has.
    fn beside(path: &Path) -> Result<Temporary> {
        let mut attempt = 0;
        loop {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}-{attempt}.tmp", std::process::id()));
            let temporary = path.with_file_name(name);
            match File::create_new(&temporary) {
                Ok(file) => return Ok(Temporary { path: path.to_owned(), temporary, file, renamed: false }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
                Err(source) => return Err(Error::io(path, source)),
            }
        }
    }

    fn io<T>(&self, result: std::io::Result<T>) -> Result<T> {
        result.map_err(|source| Error::io(&self.temporary, source))
    }

    fn seek(&mut self, offset: u64) -> Result<()> {
        let result = self.file.seek(SeekFrom::Start(offset)).map(|_| ());
        self.io(result)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.file.write_all(bytes);
        self.io(result)
    }

    /// Gives the file its name. It is on the disk before that: nobody looks at the panels again, so a name must not
    /// outlive a power cut that its contents did not.
    fn rename(mut self) -> Result<()> {
        self.io(self.file.sync_all())?;
        std::fs::rename(&self.temporary, &self.path).map_err(|source| Error::io(&self.path, source))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use llama_core::backend::Numerics;

    use super::super::coded;
    use super::*;

    #[test]
    fn modes_that_pack_alike_have_one_fingerprint() {
        let [default, fast, precise, float] = Numerics::ALL.map(|numerics| packing(numerics.into()).unwrap());
        assert!(default == fast && default == precise && default != float);
        let compact = Forms { numerics: Numerics::Default, compact: true };
        assert!(packing(compact).unwrap() != default);
    }

    /// Of 700 panels two have all exponents. They are found behind the others, each at the place that its mark names.
    #[test]
    fn plain_panels_are_written_and_found_behind_the_others() {
        const COLS: usize = 64;
        const PANEL: usize = 32 * COLS;
        let weight =
            |i: usize| (if matches!(i / PANEL, 9 | 500) { i % 250 } else { 120 }) as u16 * 128 + i as u16 % 128;
        let data: Vec<u8> = (0..700 * PANEL).flat_map(|i| weight(i).to_le_bytes()).collect();
        let view = TensorView::new("w", Format::BF16, 32 * 700, COLS, &data).unwrap();
        let folder = std::env::temp_dir().join(format!("llama-plain-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("panels");
        let mut file = Temporary::beside(&path).unwrap();
        let (pack, threads) = (Pack::CodedBF16, Threads::new(2).unwrap());
        let (bytes, sum) = write_panels(&mut file, &view, pack, &mut Spare::default(), &threads).unwrap();
        file.rename().unwrap();

        let entry =
            Entry { name: "w".into(), pack: format!("{pack:?}"), source: view.fingerprint(), offset: 0, bytes, sum };
        let table = Table { identity: Identity { source: 0, packing: 0 }, entries: vec![entry] };
        let cache = Cache { map: Arc::new(Map::open(&path).unwrap()), table };
        cache.verify().unwrap();
        let [coded, plain] = cache.find(&view, pack).unwrap();
        let marks: Vec<usize> = coded.data().chunks_exact(pack.panel_bytes(COLS)).filter_map(coded::plain).collect();
        assert_eq!(marks, [0, 1]);
        let panels: Vec<&[u8]> = plain.data().chunks_exact(2 * PANEL).collect();
        assert_eq!(panels.len(), 2);
        for (panel, first) in panels.into_iter().zip([32 * 9, 32 * 500]) {
            let mut want = vec![0; 2 * PANEL];
            repack::panel(Pack::BF16, &view, first, &mut want).unwrap();
            assert!(panel == want, "rows from {first} on");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn temporary_files_vanish_unless_renamed() {
        let folder = std::env::temp_dir().join(format!("llama-cache-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("cache");
        let files = || std::fs::read_dir(&folder).unwrap().count();
        let [first, second] = [(); 2].map(|()| Temporary::beside(&path).unwrap());
        assert_eq!(files(), 2);
        drop(first);
        second.rename().unwrap();
        assert!(path.exists() && files() == 1);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(Temporary::beside(&path), Err(Error::Io { .. })));
    }
}
