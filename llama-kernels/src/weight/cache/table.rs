//! The front of a cache file: what it is a cache of, and where whose panels lie.
//!
//! Numbers are little-endian, as panels are, on every machine.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 4 | [`VERSION`] |
//! | 4 | bytes of the table, which follows the front's 24 bytes |
//! | 8 | checksum of the table |
//! | 8, 8, 4 | table: fingerprints of the checkpoint and of the packing code, number of entries |
//! | 4 + n, 4 + n, 8, 8, 8, 8 | entry: tensor, packed form, fingerprint of the tensor, offset, bytes, checksum of the panels |
//!
//! Panels begin on whole pages behind the table, in the order of their entries, and the file ends with the last of them.
//! A table that parses is in bounds: its entries lie inside the file and do not overlap.

use std::ops::Range;
use std::path::Path;

use llama_core::checkpoint::checksum;
use llama_core::{Error, Result};

/// What a cache file begins with.
pub const MAGIC: [u8; 8] = *b"LLPANELS";
/// Version of the container. What is in the panels has a fingerprint of its own.
pub const VERSION: u32 = 1;
/// Panels begin at multiples of this.
pub const PAGE: u64 = 4096;

/// Bytes in front of the table.
const FRONT: usize = 24;

/// What a cache was made from: equal or useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The checkpoint's.
    pub source: u64,
    /// The packing code's, in the forms of the numerics mode.
    pub packing: u64,
}

/// The panels of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name as the checkpoint spells it.
    pub name: String,
    /// Name of the packed form.
    pub pack: String,
    /// Fingerprint of the tensor they were made from.
    pub source: u64,
    /// From the start of the file.
    pub offset: u64,
    /// Of all panels.
    pub bytes: u64,
    /// Of all panels.
    pub sum: u64,
}

/// A parsed front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What the cache was made from.
    pub identity: Identity,
    /// In the order of their panels.
    pub entries: Vec<Entry>,
}

impl Entry {
    /// Gives panels a place behind `end`, which it moves behind them.
    pub fn place(&mut self, end: &mut u64) {
        self.offset = end.next_multiple_of(PAGE);
        *end = self.offset + self.bytes;
    }

    /// Where the panels lie in the file.
    pub fn range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.bytes) as usize
    }
}

impl Table {
    /// The front as it is written.
    pub fn encode(&self) -> Vec<u8> {
        let mut table = Vec::new();
        table.extend(self.identity.source.to_le_bytes());
        table.extend(self.identity.packing.to_le_bytes());
        table.extend((self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            for text in [&entry.name, &entry.pack] {
                table.extend((text.len() as u32).to_le_bytes());
                table.extend(text.as_bytes());
            }
            for number in [entry.source, entry.offset, entry.bytes, entry.sum] {
                table.extend(number.to_le_bytes());
            }
        }
        let mut out = Vec::with_capacity(FRONT + table.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((table.len() as u32).to_le_bytes());
        out.extend(checksum(u64::from(VERSION), &table).to_le_bytes());
        out.extend(table);
        out
    }

    /// The table of a whole file; `path` is for error messages.
    ///
    /// # Errors
    /// [`Error::File`] for anything but what [`Table::encode`] writes in front of panels in bounds.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Table> {
        let reader = &mut Reader { path, bytes: file, at: 0 };
        if reader.take::<8>("magic")? != MAGIC {
            return reader.error("magic", 0, "is not that of a cache of packed weights");
        }
        if reader.u32("version")? != VERSION {
            return reader.error("version", MAGIC.len(), "is another version's");
        }
        let len = reader.u32("table length")? as usize;
        let sum = reader.u64("checksum")?;
        let Some(table) = file[FRONT..].get(..len) else { return reader.error("table", FRONT, "is cut off") };
        if checksum(u64::from(VERSION), table) != sum {
            return reader.error("table", FRONT, "does not have its checksum");
        }
        reader.bytes = &file[..FRONT + len];
        let table = reader.table()?;
        check(path, &table, (FRONT + len) as u64, file.len() as u64)?;
        Ok(table)
    }
}

/// Whether panels begin on pages, lie behind the front and one behind another, and end with the file.
fn check(path: &Path, table: &Table, front: u64, file: u64) -> Result<()> {
    let mut end = front;
    for entry in &table.entries {
        let error = |problem| Err(Error::file(path, format!("panels of {}", entry.name), entry.offset, problem));
        if !entry.offset.is_multiple_of(PAGE) {
            return error("do not begin with a page");
        }
        if entry.offset < end {
            return error("overlap what is in front of them");
        }
        match entry.offset.checked_add(entry.bytes) {
            Some(next) if next <= file => end = next,
            _ => return error("reach beyond the end of the file"),
        }
    }
    if end != file {
        return Err(Error::file(path, "file length", None, format!("is {file} bytes; {end} were expected")));
    }
    Ok(())
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn error<T>(&self, field: &str, at: usize, problem: &str) -> Result<T> {
        Err(Error::file(self.path, field, at as u64, problem))
    }

    fn take<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        match self.bytes[self.at..].first_chunk() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => self.error(field, self.at, "is cut off"),
        }
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        self.take(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        self.take(field).map(u64::from_le_bytes)
    }

    fn text(&mut self, field: &str) -> Result<String> {
        let len = self.u32(field)? as usize;
        let text = self.bytes[self.at..].get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok());
        match text.map(str::to_owned) {
            Some(text) => {
                self.at += len;
                Ok(text)
            }
            None => self.error(field, self.at, "is cut off or not UTF-8"),
        }
    }

    fn table(&mut self) -> Result<Table> {
        let identity = Identity { source: self.u64("fingerprint")?, packing: self.u64("fingerprint")? };
        let count = self.u32("number of entries")?;
        // Nothing is set aside for them: the number may be a lie.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(Entry {
                name: self.text("name")?,
                pack: self.text("packed form")?,
                source: self.u64("fingerprint")?,
                offset: self.u64("offset")?,
                bytes: self.u64("bytes")?,
                sum: self.u64("checksum")?,
            });
        }
        if self.at != self.bytes.len() {
            return self.error("table", self.at, "is longer than its entries");
        }
        Ok(Table { identity, entries })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table {
        let entry = |name: &str, bytes| Entry {
            name: name.into(),
            pack: "Q8_0".into(),
            source: bytes ^ 5,
            offset: 0,
            bytes,
            sum: 3 * bytes,
        };
        let entries = vec![entry("embed", 5000), entry("q", 4096), entry("empty", 0), entry("head", 1)];
        let mut table = Table { identity: Identity { source: 1, packing: 2 }, entries };
        let mut end = table.encode().len() as u64;
        table.entries.iter_mut().for_each(|entry| entry.place(&mut end));
        table
    }

    fn file(table: &Table) -> Vec<u8> {
        let mut file = table.encode();
        file.resize(table.entries.last().map_or(file.len(), |last| last.range().end), 0);
        file
    }

    fn parse(file: &[u8]) -> Result<Table> {
        Table::parse(Path::new("cache"), file)
    }

    #[test]
    fn what_is_written_is_read() {
        for entries in [0, 1, 4] {
            let mut table = table();
            table.entries.truncate(entries);
            assert_eq!(parse(&file(&table)).unwrap(), table);
        }
    }

    #[test]
    fn every_cut_and_every_byte_more_is_an_error() {
        let file = file(&table());
        for len in (0..200).chain([4095, 4096, 5000, file.len() - 1]) {
            assert!(parse(&file[..len]).is_err(), "{len} bytes");
        }
        assert!(parse(&[file, vec![0]].concat()).is_err());
    }

    #[test]
    fn tables_that_lie_are_refused_whatever_their_checksum() {
        let says = |change: fn(&mut Table)| {
            let good = table();
            let mut bad = good.clone();
            change(&mut bad);
            let mut file = file(&good);
            let front = bad.encode();
            file[..front.len()].copy_from_slice(&front);
            parse(&file).unwrap_err().to_string()
        };
        assert!(says(|t| t.entries[1].offset += 1).contains("panels of q at byte 12289: do not begin with a page"));
        assert!(says(|t| t.entries[1].offset = 0).contains("overlap"));
        assert!(says(|t| t.entries[1].offset -= PAGE).contains("overlap"));
        assert!(says(|t| t.entries[0].bytes += 4096).contains("overlap"));
        assert!(says(|t| t.entries[3].bytes = u64::MAX).contains("beyond the end"));
        assert!(says(|t| t.entries[3].offset = u64::MAX - 4095).contains("beyond the end"));
        assert!(says(|t| t.entries[3].bytes = 0).contains("file length"));
    }

    proptest! {
        /// Bytes changed at random, and the checksum made right again: an error, or a table in bounds.
        #[test]
        fn mutants_are_errors_or_in_bounds(changes in prop::collection::vec((0usize..400, any::<u8>()), 1..6), cut in 0usize..9000) {
            let mut file = file(&table());
            let front = table().encode().len();
            for (at, byte) in changes {
                file[12 + at % (front - 12)] = byte;
            }
            file.truncate(file.len().max(cut) - cut / 2);
            let len = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
            if let Some(table) = file[FRONT..].get(..len) {
                let sum = checksum(u64::from(VERSION), table);
                file[16..24].copy_from_slice(&sum.to_le_bytes());
            }
            if let Ok(table) = parse(&file) {
                let mut end = FRONT + len;
                for entry in &table.entries {
                    let range = entry.range();
                    prop_assert!(end <= range.start && range.start <= range.end && range.end <= file.len());
                    end = range.end;
                }
                prop_assert_eq!(end, file.len());
                prop_assert_eq!(parse(&[&table.encode()[..], &file[FRONT + len..]].concat()).unwrap(), table);
            }
        }
    }
}
