//! BF16 in twelve bits, exactly: a panel's exponents are few, so each is a code of four bits.
//!
//! A trained matrix is close to a Gaussian, whose numbers halve with every exponent below the largest few: of the 256
//! exponents that a bfloat16 can have, the sixteen most frequent of a panel cover all but one weight in some thousands. (That
//! exponents of trained weights hold some 2.6 bits is the observation of DFloat11, arXiv 2504.11651, whose Huffman codes
//! take eleven bits a weight; codes of one length need neither a table of 256 entries nor a search for where a code begins.)
//! What the sixteen do not cover is an **exception**, listed behind the panel.
//!
//! | piece of a panel of 32 rows | bytes | contents |
//! |---|---|---|
//! | head | 64 | exponents of codes 0 to 15, a u8 each; u32 number of exceptions, all ones if plain; u32 place among plain panels |
//! | pairs | 96 for two columns | codes of both, the first one's in low nibbles; sign and mantissa of the first; of the second |
//! | exceptions | 4 each, room for one in 256 weights | `column << 13 | row << 8 | exponent`, ascending |
//!
//! Eight rows at a time take turns in the 32 bytes of a piece of a pair: rows 0, 16, 8 and 24 begin a quarter. Two vectors of
//! bytes of 256 bits, exponents over mantissas, then interleave into rows 0 to 15 and 16 to 31, as a BF16 panel has them.
//!
//! A panel with more exceptions than it has room for is kept as the BF16 panel that it would have been, among the segment's
//! **plain** panels. A model has room for few of those ([`spare`]), so that what it holds is known before a weight is read.

use std::ops::Range;

use llama_core::checkpoint::TensorView;

/// Rows of a panel.
const ROWS: usize = 32;
/// Bytes in front of the pairs.
const HEAD: usize = 64;
/// Codes.
const CODES: usize = 16;
/// In the place of the number of exceptions: the panel is a plain one.
const PLAIN: u32 = u32::MAX;
/// In the place of a code: there is none. Its low bits are code 0.
const NONE: u8 = 0x80;
/// Columns that are packed together.
const BLOCK: usize = 64;
/// Columns that an exception can name.
const MAX_COLUMNS: usize = 1 << 19;

/// Two columns of a panel.
pub type Pair = [u8; 96];
/// A column as BF16: 32 rows of two bytes.
pub type Column = [u8; 64];

/// Bytes of a panel of `cols` columns.
pub fn panel_bytes(cols: usize) -> usize {
    (HEAD + cols.div_ceil(2) * size_of::<Pair>() + 4 * room(cols)).next_multiple_of(64)
}

/// Bytes that a model keeps free for plain panels, for so many bytes of coded ones.
pub fn spare(bytes: u64) -> u64 {
    bytes / 256
}

/// Exceptions that a panel of `cols` columns has room for.
fn room(cols: usize) -> usize {
    cols.div_ceil(8).next_multiple_of(16)
}

/// Where row `row` lies in the pieces of a pair.
fn place(row: usize) -> usize {
    row % 8 + 8 * (row / 8 % 2 * 2 + row / 16 % 2)
}

/// A coded panel, taken apart.
pub struct Panel<'a> {
    /// The exponents of the codes.
    pub exponents: &'a [u8; CODES],
    /// All columns, and one more where they are odd in number.
    pub pairs: &'a [Pair],
    exceptions: &'a [[u8; 4]],
}

/// The exceptions of a panel that are left, in the order of its columns.
pub struct Exceptions<'a>(&'a [[u8; 4]]);

impl Exceptions<'_> {
    /// The pair that the next one is in; without one, none that there is.
    pub fn next(&self) -> usize {
        self.0.first().map_or(usize::MAX, |bytes| Exception::read(bytes).column / 2)
    }

    /// Puts exponents without a code into columns `first ..` as they come of codes. Later calls are for later columns.
    pub fn mend(&mut self, first: usize, columns: &mut [Column]) {
        while let Some((bytes, rest)) = self.0.split_first() {
            let exception = Exception::read(bytes);
            if exception.column >= first + columns.len() {
                return;
            }
            self.0 = rest;
            if let Some(column) = exception.column.checked_sub(first) {
                let weight = &mut columns[column].as_chunks_mut::<2>().0[exception.row];
                *weight = exception.put(*weight);
            }
        }
    }
}

/// A weight whose exponent has no code.
struct Exception {
    column: usize,
    row: usize,
    exponent: u8,
}

impl<'a> Panel<'a> {
    /// Of a panel of `cols` columns. One that a disk has damaged gives other numbers.
    ///
    /// # Panics
    /// If it has not [`panel_bytes`].
    pub fn of(panel: &'a [u8], cols: usize) -> Panel<'a> {
        assert_eq!(panel.len(), panel_bytes(cols), "a coded panel of {cols} columns");
        let (head, rest) = panel.split_at(HEAD);
        let (pairs, list) = rest.split_at(cols.div_ceil(2) * size_of::<Pair>());
        let listed = (number(head, CODES) as usize).min(room(cols));
        Panel {
            exponents: head.first_chunk().expect("a head"),
            pairs: pairs.as_chunks().0,
            exceptions: &list.as_chunks().0[..listed],
        }
    }

    /// What is to be put right while columns are gone through.
    pub fn exceptions(&self) -> Exceptions<'a> {
        Exceptions(self.exceptions)
    }

    /// The weights of a row, as BF16, in their order.
    pub fn row(&self, row: usize) -> impl Iterator<Item = [u8; 2]> {
        let mut exceptions = self.exceptions.iter().map(Exception::read).filter(move |e| e.row == row).peekable();
        (0..2 * self.pairs.len()).map(move |k| {
            let coded = weight(&self.pairs[k / 2], self.exponents, k % 2, row);
            exceptions.next_if(|e| e.column == k).map_or(coded, |e| e.put(coded))
        })
    }
}

/// A weight of the first or second column of a pair, as BF16, by its code.
pub fn weight(pair: &Pair, exponents: &[u8; CODES], column: usize, row: usize) -> [u8; 2] {
    let code = pair[place(row)] >> (4 * column) & 15;
    let rest = pair[32 + 32 * column + place(row)];
    let exponent = exponents[usize::from(code)];
    [rest & 0x7F | exponent << 7, rest & 0x80 | exponent >> 1]
}

impl Exception {
    fn read(bytes: &[u8; 4]) -> Exception {
        let all = u32::from_le_bytes(*bytes);
        Exception { column: (all >> 13) as usize, row: (all >> 8) as usize % ROWS, exponent: all as u8 }
    }

    /// The weight with this exponent.
    fn put(&self, [low, high]: [u8; 2]) -> [u8; 2] {
        [low & 0x7F | self.exponent << 7, high & 0x80 | self.exponent >> 1]
    }

    fn write(&self) -> [u8; 4] {
        ((self.column as u32) << 13 | (self.row as u32) << 8 | u32::from(self.exponent)).to_le_bytes()
    }
}

/// The 32-bit number at `at`.
fn number(head: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*head[at..].first_chunk().expect("four bytes"))
}

/// Packs rows `rows` of `view`, at most 32, into `out`, which holds zeros. A panel that has too many exceptions is
/// [marked as plain](plain) instead. The error names a row that holds a weight which is not finite.
pub fn encode(view: &TensorView<'_>, rows: Range<usize>, out: &mut [u8]) -> Result<(), usize> {
    let counts = count(view, rows.clone())?;
    let exponents = frequent(&counts);
    let coded: u32 = exponents.iter().map(|&e| counts[usize::from(e)]).sum();
    let exceptions = counts.iter().sum::<u32>() - coded;
    let cols = view.cols();
    if exceptions as usize > room(cols) || cols > MAX_COLUMNS {
        out[CODES..][..4].copy_from_slice(&PLAIN.to_le_bytes());
        return Ok(());
    }
    out[..CODES].copy_from_slice(&exponents);
    out[CODES..][..4].copy_from_slice(&exceptions.to_le_bytes());
    let (pairs, list) = out[HEAD..].split_at_mut(cols.div_ceil(2) * size_of::<Pair>());
    let mut found = put(view, rows, &exponents, pairs.as_chunks_mut().0);
    found.sort_unstable_by_key(|e| (e.column, e.row));
    list.as_chunks_mut().0.iter_mut().zip(found).for_each(|(place, e)| *place = e.write());
    Ok(())
}

/// How often each exponent occurs.
fn count(view: &TensorView<'_>, rows: Range<usize>) -> Result<[u32; 256], usize> {
    // Neighbours often have one exponent: with one table each they need not wait for one another.
    let mut tables = [[0u32; 256]; 4];
    for row in rows {
        for weights in view.row(row).chunks(8) {
            for (table, weight) in tables.iter_mut().zip(weights.as_chunks().0) {
                table[usize::from((u16::from_le_bytes(*weight) >> 7) as u8)] += 1;
            }
        }
        if tables.iter().any(|table| table[255] > 0) {
            return Err(row);
        }
    }
    Ok(std::array::from_fn(|e| tables.iter().map(|table| table[e]).sum()))
}

/// The exponents that most weights have, most frequent first, and of equals the smaller one.
fn frequent(counts: &[u32; 256]) -> [u8; CODES] {
    let mut all: [u8; 256] = std::array::from_fn(|e| e as u8);
    all.sort_by_key(|&e| std::cmp::Reverse(counts[usize::from(e)]));
    *all.first_chunk().expect("sixteen of 256")
}

/// Writes all pairs, and returns what has no code.
fn put(view: &TensorView<'_>, rows: Range<usize>, exponents: &[u8; CODES], pairs: &mut [Pair]) -> Vec<Exception> {
    let mut codes = [NONE; 256];
    (0..).zip(exponents).for_each(|(code, &e)| codes[usize::from(e)] = code);
    let mut found = Vec::new();
    // So few columns of all rows stay in the first-level cache.
    for (block, pairs) in pairs.chunks_mut(BLOCK / 2).enumerate() {
        for (row, raw) in rows.clone().map(|row| view.row(row)).enumerate() {
            let (twos, last) = raw[2 * BLOCK * block..].as_chunks::<4>();
            let last = last.first_chunk().map(|&[low, high]| [low, high, 0, 0]);
            for ((k, pair), two) in pairs.iter_mut().enumerate().zip(twos.iter().chain(&last)) {
                let (two, at) = (u32::from_le_bytes(*two), place(row));
                let (first, second) = (codes[usize::from((two >> 7) as u8)], codes[usize::from((two >> 23) as u8)]);
                pair[at] = first & 15 | second << 4;
                pair[32 + at] = (two & 0x7F | two >> 8 & 0x80) as u8;
                pair[64 + at] = (two >> 16 & 0x7F | two >> 24 & 0x80) as u8;
                if first | second >= NONE {
                    note(&mut found, row, BLOCK * block + 2 * k, [first, second], two);
                }
            }
        }
    }
    found.retain(|e| e.column < view.cols());
    found
}

/// Notes which of two neighbours has no code.
#[cold]
fn note(found: &mut Vec<Exception>, row: usize, column: usize, codes: [u8; 2], two: u32) {
    for (k, _) in codes.into_iter().enumerate().filter(|&(_, code)| code == NONE) {
        found.push(Exception { column: column + k, row, exponent: (two >> (7 + 16 * k)) as u8 });
    }
}

/// Whether a panel is only marked as plain, and at which place among the plain ones it is.
pub fn plain(panel: &[u8]) -> Option<usize> {
    (number(panel, CODES) == PLAIN).then(|| number(panel, CODES + 4) as usize)
}

/// Says where a panel that is [`plain`] lies.
pub fn set_place(panel: &mut [u8], place: u32) {
    panel[CODES + 4..][..4].copy_from_slice(&place.to_le_bytes());
}
