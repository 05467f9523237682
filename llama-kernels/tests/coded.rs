//! BF16 in twelve bits: whatever the exponents of a matrix, the bits of a product are those of its BF16 panels; or the matrix
//! is refused.

#[allow(dead_code, reason = "only numbers are wanted")]
mod common;

use common::Random;
use llama_core::Error;
use llama_core::backend::{Numerics, Part};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_kernels::LinearKernels;
use llama_kernels::isa::Tier;
use llama_kernels::ops::linear::linear;
use llama_kernels::quant::LinearScratch;
use llama_kernels::threads::Threads;
use llama_kernels::weight::Weight;
use llama_kernels::weight::pack::{Forms, Pack};
use proptest::prelude::*;

const PLAIN: Forms = Forms { numerics: Numerics::Default, compact: false };
const COMPACT: Forms = Forms { numerics: Numerics::Default, compact: true };

/// `[rows, cols]` weights with sixteen exponents, all signs and mantissas.
fn matrix(rows: usize, cols: usize, random: &mut Random) -> Vec<u16> {
    (0..rows * cols).map(|_| with_exponent(random, 112, 16)).collect()
}

/// A weight with one of `count` exponents from `first` on.
fn with_exponent(random: &mut Random, first: u16, count: u16) -> u16 {
    let bits = u16::from_le_bytes([random.byte(), random.byte()]);
    ((first + bits % count) << 7) | bits & 0x807F
}

fn pack(rows: usize, weights: &[u16], forms: Forms, threads: &Threads) -> llama_core::Result<Weight> {
    let data: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let weight = TensorView::new("matrix", Format::BF16, rows, weights.len() / rows, &data)?;
    Weight::new(&[Part { weight, bias: None }], forms, threads)
}

/// `[tokens, rows]` products by a tier, as bits.
fn products(tier: Tier, threads: &Threads, w: &Weight, x: &[f32]) -> Vec<u32> {
    let tokens = x.len() / w.cols();
    let kernels = LinearKernels::new(tier).unwrap();
    let mut scratch = LinearScratch::new(tokens, w.cols(), threads.count(), Numerics::Default).unwrap();
    let mut out = vec![f32::NAN; tokens * w.rows()];
    linear(&kernels, threads, &mut scratch, &mut out, x, tokens, w);
    out.into_iter().map(f32::to_bits).collect()
}

fn rows(w: &Weight) -> Vec<u32> {
    let mut all = vec![0.0; w.rows() * w.cols()];
    all.chunks_exact_mut(w.cols()).enumerate().for_each(|(r, row)| w.decode_row(r, row));
    all.into_iter().map(f32::to_bits).collect()
}

/// How many panels have no code.
fn plain_panels(w: &Weight) -> usize {
    let segment = &w.segments()[0];
    (0..segment.panels()).filter(|&p| segment.panel(p).0 == Pack::BF16).count()
}

/// Both forms of a matrix agree; returns the coded one.
fn same(rows_of: usize, weights: &[u16], tokens: usize, threads: usize, random: &mut Random) -> Weight {
    let threads = Threads::new(threads).unwrap();
    let [plain, coded] = [PLAIN, COMPACT].map(|forms| pack(rows_of, weights, forms, &threads).unwrap());
    assert!(rows(&plain) == rows(&coded), "[{rows_of}, {}] decoded", plain.cols());
    let x: Vec<f32> = (0..tokens * plain.cols()).map(|_| random.float()).collect();
    let want = products(Tier::Portable, &threads, &plain, &x);
    for tier in Tier::available() {
        let got = products(tier, &threads, &coded, &x);
        assert!(got == want, "{tier}, [{rows_of}, {}], {tokens} tokens", plain.cols());
    }
    coded
}

#[test]
fn weights_without_a_code_keep_their_bits() {
    let mut random = Random(1);
    // Zeros, subnormal numbers, the largest finite ones; at both ends, side by side, and one above the other.
    let places =
        [(0, 0), (0, 1), (31, 0), (31, 1), (7, 63), (8, 64), (16, 65), (24, 127), (3, 128), (3, 199), (31, 199)];
    for exponent in [0, 1, 254] {
        let mut weights = matrix(32, 200, &mut random);
        for (row, col) in places {
            weights[row * 200 + col] = with_exponent(&mut random, exponent, 1);
        }
        for tokens in [1, 2, 3, 5, 100] {
            assert_eq!(plain_panels(&same(32, &weights, tokens, 1, &mut random)), 0);
        }
    }
}

/// One panel with all exponents among many, and then a matrix of such.
#[test]
fn few_panels_may_have_too_many_exponents() {
    let (panels, cols) = (700, 64);
    let mut random = Random(2);
    let mut weights = matrix(32 * panels, cols, &mut random);
    for (p, count) in [(3, 1), (panels - 1, 2)] {
        weights[p * 32 * cols..][..32 * cols].iter_mut().for_each(|w| *w = with_exponent(&mut random, 1, 250));
        let coded = same(32 * panels, &weights, 3, 2, &mut random);
        assert_eq!(plain_panels(&coded), count);
    }
    weights[64 * cols..][..32 * cols].iter_mut().for_each(|w| *w = with_exponent(&mut random, 1, 250));
    let error = pack(32 * panels, &weights, COMPACT, &Threads::new(2).unwrap()).err().expect("three panels of 700");
    let Error::Tensor { name, problem, .. } = &error else { panic!("{error}") };
    assert!(name == "matrix" && problem.starts_with("3 of 700 ") && problem.contains("compact"), "{error}");
}

/// What a model is said to hold is no less than what it holds, and at most a 256th more.
#[test]
fn bytes_are_known_before_loading() {
    for (rows, cols) in [(1, 2), (33, 63), (4096, 2048), (128_256, 4096)] {
        let slots = (rows as u64).div_ceil(32) * Pack::CodedBF16.panel_bytes(cols) as u64;
        let bytes = Weight::bytes(&[(Format::BF16, rows, cols)], COMPACT);
        assert_eq!(bytes, slots + slots / 256);
        if cols >= 1024 {
            let ratio = bytes as f64 / Weight::bytes(&[(Format::BF16, rows, cols)], PLAIN) as f64;
            assert!((0.75..0.764).contains(&ratio), "{ratio}");
        }
    }
    assert_eq!(Weight::bytes(&[(Format::F16, 64, 64)], COMPACT), Weight::bytes(&[(Format::F16, 64, 64)], PLAIN));
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let mut weights = matrix(40, 64, &mut Random(3));
    weights[35 * 64 + 9] = 0x7F80;
    let error = pack(40, &weights, COMPACT, &Threads::new(1).unwrap()).err().expect("infinite");
    assert!(matches!(&error, Error::Tensor { problem, .. } if problem.starts_with("row 35 ")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_shape_gives_the_bits_of_bf16(
        (rows, cols) in (1..100usize, 1..300usize),
        (tokens, threads) in (1..40usize, 1..3usize),
        rare in prop::collection::vec((0..100usize, 0..300usize, 0..255u16), 0..12),
        seed: u64,
    ) {
        let mut random = Random(seed);
        let mut weights = matrix(rows, cols, &mut random);
        for (row, col, exponent) in rare {
            weights[row % rows * cols + col % cols] = with_exponent(&mut random, exponent, 1);
        }
        prop_assert_eq!(plain_panels(&same(rows, &weights, tokens, threads, &mut random)), 0);
    }
}
