//! A native packed form holds the bits of its format and nothing else, each in a place of its own.
//!
//! Where a bit goes is found by packing it alone (in five sets of rows, which tell the row); a map that reaches every bit of
//! a panel once is a permutation, and its inverse has to turn the panels of random weights back into the file's bytes.
//! Wide forms are not permutations: that they hold the exact weights, `linear.rs` tests.

mod common;

use std::collections::HashMap;

use common::{Random, encoded};
use llama_core::backend::{Numerics, Part};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_kernels::threads::Threads;
use llama_kernels::weight::Weight;
use llama_kernels::weight::pack::Pack;
use proptest::prelude::*;

/// Rows of a panel of a quantised form.
const ROWS: usize = 16;

fn native() -> impl Iterator<Item = Format> {
    let is_native = |&format: &Format| {
        let pack = Pack::of(format, Numerics::Default);
        !pack.is_float() && !pack.is_wide()
    };
    Format::ALL.into_iter().filter(is_native)
}

/// All panels of rows of `data`, one after the other.
fn packed(format: Format, rows: usize, data: &[u8], threads: &Threads) -> Vec<u8> {
    let cols = data.len() / rows / format.block_bytes() * format.block_len();
    let weight = TensorView::new("w", format, rows, cols, data).unwrap();
    let w = Weight::new(&[Part { weight, bias: None }], Numerics::Default, threads).unwrap();
    w.segments()[0].data().to_vec()
}

/// The ones among the bits that differ.
fn ones<'a>(a: &'a [u8], b: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let differ = a.iter().zip(b).map(|(a, b)| a ^ b).enumerate().filter(|(_, byte)| *byte != 0);
    differ.flat_map(|(i, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| 8 * i + bit))
}

/// How the bits of sixteen blocks, one a row, lie in a panel of one block.
struct Map {
    format: Format,
    /// The panel of zeros: a zero point may have flipped bits.
    zeros: Vec<u8>,
    /// `[bit of the panel]` (row, bit of its block).
    sources: Vec<(usize, usize)>,
}

impl Map {
    fn of(format: Format) -> Map {
        let threads = Threads::new(1).unwrap();
        let bytes = format.block_bytes();
        let with_bit = |bit: usize, rows: &dyn Fn(usize) -> bool| {
            let mut data = vec![0u8; ROWS * bytes];
            (0..ROWS).filter(|&r| rows(r)).for_each(|r| data[r * bytes + bit / 8] = 1 << (bit % 8));
            packed(format, ROWS, &data, &threads)
        };
        let zeros = with_bit(0, &|_| false);
        let mut sources = HashMap::new();
        for bit in 0..8 * bytes {
            let all = with_bit(bit, &|_| true);
            let mut rows: HashMap<usize, usize> = ones(&all, &zeros).map(|at| (at, 0)).collect();
            assert_eq!(rows.len(), ROWS, "{} bit {bit} goes to one place a row", format.name());
            for k in 0..4 {
                let some = with_bit(bit, &|r| r >> k & 1 == 1);
                ones(&some, &zeros).for_each(|at| *rows.get_mut(&at).expect("a place of this bit") |= 1 << k);
            }
            for (at, row) in rows {
                assert_eq!(sources.insert(at, (row, bit)), None, "{} bit {bit} shares a place", format.name());
            }
        }
        assert_eq!(sources.len(), 8 * zeros.len(), "{}: every bit of a panel comes from a block", format.name());
        Map { format, sources: (0..sources.len()).map(|at| sources[&at]).collect(), zeros }
    }

    /// The bytes that `rows` rows of `blocks` blocks were packed from.
    fn undo(&self, rows: usize, blocks: usize, panels: &[u8]) -> Vec<u8> {
        let bytes = self.format.block_bytes();
        let mut data = vec![0u8; rows * blocks * bytes];
        for (i, block) in panels.chunks_exact(self.zeros.len()).enumerate() {
            let (panel, b) = (i / blocks, i % blocks);
            for at in ones(block, &self.zeros) {
                let (row, bit) = self.sources[at];
                let row = ROWS * panel + row;
                // Rows that fill up the last panel are zero bytes, whatever the zero point.
                if row < rows {
                    data[(row * blocks + b) * bytes + bit / 8] |= 1 << (bit % 8);
                }
            }
        }
        data
    }
}

#[test]
fn every_native_form_is_a_permutation_of_bits_that_can_be_undone() {
    let threads = Threads::new(2).unwrap();
    for (seed, format) in native().enumerate() {
        let map = Map::of(format);
        let shapes = (1usize..40, 1usize..5, any::<u64>());
        let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let result = runner.run(&shapes, |(rows, blocks, random)| {
            let random = &mut Random(random ^ seed as u64);
            let data = encoded(format, rows, blocks * format.block_len(), random);
            let panels = packed(format, rows, &data, &threads);
            prop_assert!(map.undo(rows, blocks, &panels) == data, "[{}, {}] blocks", rows, blocks);
            Ok(())
        });
        assert!(result.is_ok(), "{}: {}", format.name(), result.unwrap_err());
    }
    assert_eq!(native().count(), 13);
}
