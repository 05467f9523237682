//! The linear layer against its definition, bit for bit: every tier, format and numerics mode, over random shapes,
//! batches and thread counts.

mod common;

use common::{Random, encoded, set_factors};
use llama_core::Error;
use llama_core::backend::{Numerics, Part};
use llama_core::checkpoint::TensorView;
use llama_core::format::{Format, Group};
use llama_core::numerics::{GROUP, dot, quantize_group, remainder};
use llama_kernels::LinearKernels;
use llama_kernels::isa::Tier;
use llama_kernels::ops::embed::embed;
use llama_kernels::ops::linear::linear;
use llama_kernels::quant::LinearScratch;
use llama_kernels::threads::Threads;
use llama_kernels::weight::Weight;
use llama_kernels::weight::pack::{Forms, Pack};
use proptest::prelude::*;

/// One matrix with its bias.
struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
    bias: Option<Vec<u8>>,
}

impl Matrix {
    fn new(format: Format, rows: usize, cols: usize, bias: bool, random: &mut Random) -> Matrix {
        let data = encoded(format, rows, cols, random);
        let bias = bias.then(|| encoded(Format::F32, 1, rows, random));
        Matrix { format, rows, cols, data, bias }
    }

    fn view(&self) -> TensorView<'_> {
        TensorView::new("matrix", self.format, self.rows, self.cols, &self.data).unwrap()
    }

    fn part(&self) -> Part<'_> {
        let bias = self.bias.as_ref().map(|b| TensorView::new("bias", Format::F32, 1, self.rows, b).unwrap());
        Part { weight: self.view(), bias }
    }

    /// A row's output for each token, as docs/numerics.md defines it. A row is decoded once, for that is most of the work.
    fn outputs(&self, r: usize, tokens: &[Activations<'_>], numerics: Numerics) -> Vec<u32> {
        let dots: Vec<f32> = if self.format.is_quantised() && numerics.is_integer() {
            let groups: Vec<Group> = (0..self.cols / GROUP).map(|g| self.format.group(self.view().row(r), g)).collect();
            tokens.iter().map(|token| self.quantised_dot(&groups, token)).collect()
        } else {
            let row = self.decoded(r);
            tokens.iter().map(|token| dot(&row, token.x)).collect()
        };
        let bias = self.bias.as_ref().map(|b| f32::from_le_bytes(b[4 * r..4 * r + 4].try_into().unwrap()));
        dots.into_iter().map(|dot| bias.map_or(dot, |bias| dot + bias).to_bits()).collect()
    }

    fn decoded(&self, r: usize) -> Vec<f32> {
        let mut row = vec![0.0; self.cols];
        self.view().decode_row(r, &mut row);
        row
    }

    /// The chain over the first term, and with two terms that over what the first left, added.
    fn quantised_dot(&self, groups: &[Group], token: &Activations<'_>) -> f32 {
        let dot = self.term_dot(groups, &token.first);
        token.second.as_ref().map_or(dot, |second| dot + self.term_dot(groups, second))
    }

    fn term_dot(&self, groups: &[Group], term: &Term) -> f32 {
        let mut acc = 0.0f32;
        for (weights, &(scale, quants)) in groups.iter().zip(term) {
            let sub = self.format.sub_block();
            for s in 0..GROUP / sub {
                let own = s * sub..(s + 1) * sub;
                let sum: i32 = own.clone().map(|k| i32::from(weights.codes[k]) * i32::from(quants[k])).sum();
                acc = (weights.scale[s] * scale).mul_add(sum as f32, acc);
                if self.format.has_min() {
                    let sum: i32 = own.map(|k| i32::from(quants[k])).sum();
                    acc = weights.min[s].mul_add(scale * sum as f32, acc);
                }
            }
        }
        acc
    }
}

/// A row of quantised groups: scale and quants.
type Term = Vec<(f32, [i8; GROUP])>;

/// A token's activations, as floats and as terms.
struct Activations<'a> {
    x: &'a [f32],
    first: Term,
    second: Option<Term>,
}

impl<'a> Activations<'a> {
    fn new(x: &'a [f32], numerics: Numerics) -> Self {
        let groups = x.as_chunks::<GROUP>().0;
        let quantised = |x: &[f32; GROUP]| quantize_group(x, numerics.scaling());
        let first: Term = groups.iter().map(quantised).collect();
        let left = || groups.iter().zip(&first).map(|(x, (scale, quants))| remainder(x, *scale, quants));
        let second = (numerics.terms() == 2).then(|| left().map(|x| quantised(&x)).collect());
        Activations { x, first, second }
    }
}

/// `[tokens, rows of all matrices]` by definition.
fn expected(matrices: &[Matrix], x: &[f32], numerics: Numerics) -> Vec<u32> {
    let tokens: Vec<_> = x.chunks_exact(matrices[0].cols).map(|x| Activations::new(x, numerics)).collect();
    let rows: Vec<_> = matrices.iter().flat_map(|m| (0..m.rows).map(|r| m.outputs(r, &tokens, numerics))).collect();
    (0..tokens.len()).flat_map(|t| rows.iter().map(move |row| row[t])).collect()
}

fn run(tier: Tier, threads: usize, w: &Weight, x: &[f32], numerics: Numerics) -> Vec<u32> {
    let tokens = x.len() / w.cols();
    let kernels = LinearKernels::new(tier).unwrap();
    let threads = Threads::new(threads).unwrap();
    let mut scratch = LinearScratch::new(tokens, w.cols(), threads.count(), numerics).unwrap();
    let mut out = vec![f32::NAN; tokens * w.rows()];
    linear(&kernels, &threads, &mut scratch, &mut out, x, tokens, w);
    out.into_iter().map(f32::to_bits).collect()
}

fn weight(matrices: &[Matrix], forms: impl Into<Forms>) -> Weight {
    let parts: Vec<Part<'_>> = matrices.iter().map(Matrix::part).collect();
    Weight::new(&parts, forms, &Threads::new(2).unwrap()).unwrap()
}

/// The ways to pack matrices for a mode: one more where one is BF16.
fn forms(matrices: &[Matrix], numerics: Numerics) -> Vec<Forms> {
    let coded = matrices.iter().any(|matrix| matrix.format == Format::BF16);
    [false, true].into_iter().take(1 + usize::from(coded)).map(|compact| Forms { numerics, compact }).collect()
}

/// Activations of uneven magnitude, with a group of zeros among them.
fn activations(tokens: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    uneven(tokens, cols, [1.0, 0.01, 30.0, 0.0], random)
}

/// Activations whose groups take turns through some sizes.
fn uneven(tokens: usize, cols: usize, sizes: [f32; 4], random: &mut Random) -> Vec<f32> {
    let mut x: Vec<f32> = (0..tokens * cols).map(|_| random.float()).collect();
    for (i, x) in x.chunks_mut(8).enumerate() {
        let scale = sizes[i / 4 % 4];
        x.iter_mut().for_each(|x| *x *= scale);
    }
    x
}

fn check(
    matrices: &[Matrix],
    tokens: impl IntoIterator<Item = usize>,
    threads: usize,
    numerics: Numerics,
    random: &mut Random,
) {
    let w: Vec<Weight> = forms(matrices, numerics).into_iter().map(|forms| weight(matrices, forms)).collect();
    for tokens in tokens {
        check_of(matrices, &w, &activations(tokens, matrices[0].cols, random), threads, numerics);
        if numerics == Numerics::Fast {
            // A tile without a group of zeros may go another way.
            let x = uneven(tokens, matrices[0].cols, [1.0, 0.01, 30.0, 1e-20], random);
            check_of(matrices, &w, &x, threads, numerics);
        }
    }
}

fn check_of(matrices: &[Matrix], weights: &[Weight], x: &[f32], threads: usize, numerics: Numerics) {
    let expected = expected(matrices, x, numerics);
    for (tier, w) in Tier::available().flat_map(|tier| weights.iter().map(move |w| (tier, w))) {
        let (packs, tokens): (Vec<_>, _) = (w.segments().iter().map(|s| s.pack()).collect(), x.len() / w.cols());
        let got = run(tier, threads, w, x, numerics);
        assert!(got == expected, "{tier}, {packs:?}, {tokens} tokens, {threads} threads, {numerics:?}");
    }
}

#[test]
fn every_format_and_tile_width_by_every_tier() {
    let mut random = Random(1);
    for format in Format::ALL {
        let matrices = [Matrix::new(format, 33, 512, true, &mut random)];
        check(&matrices, (1..=13).chain([24, 30]), 1, Numerics::Default, &mut random);
        check(&matrices, [1, 2, 3, 6, 7, 15], 1, Numerics::Precise, &mut random);
        check(&matrices, [1, 4, 12], 2, Numerics::Fast, &mut random);
        check(&matrices, [3], 2, Numerics::Float, &mut random);
    }
}

/// More tokens and more columns than any tier takes at a time, and no multiple of what it takes.
#[test]
fn passes_and_runs_end_anywhere() {
    let mut random = Random(10);
    for format in Format::ALL {
        let matrix = [Matrix::new(format, 20, 1280, false, &mut random)];
        check(&matrix, [101], 1, Numerics::Default, &mut random);
    }
    // Terms are columns to a kernel, so kinds of kernels are enough: of nibbles, with minima, with two sub-blocks.
    for format in [Format::Q4_0, Format::Q5_K, Format::Q6_K] {
        let matrix = [Matrix::new(format, 20, 1280, false, &mut random)];
        check(&matrix, [51], 1, Numerics::Precise, &mut random);
    }
}

/// The wide forms of the formats that have a native one: nothing else reaches those with minima.
#[test]
fn wide_forms_give_the_bits_of_native_ones() {
    const TOKENS: usize = 11;
    let mut random = Random(11);
    for format in Format::ALL.into_iter().filter(|format| format.is_quantised()) {
        let matrix = Matrix::new(format, 20, 512, false, &mut random);
        let x = activations(TOKENS, matrix.cols, &mut random);
        let [native, wide] = [Pack::of(format, Numerics::Default), Pack::wide(format)]
            .map(|pack| Weight::of_pack(&matrix.view(), pack, &Threads::new(1).unwrap()).unwrap());
        for tier in Tier::available() {
            let [native, wide] = [&native, &wide].map(|w| run(tier, 1, w, &x, Numerics::Default));
            assert!(native == wide, "{tier}, {}", format.name());
        }
    }
}

/// Codes, quants and sums at the ends of their ranges: where sixteen bits would overflow if they could.
#[test]
fn extreme_codes_do_not_saturate() {
    let mut random = Random(2);
    for format in Format::ALL.into_iter().filter(|format| format.is_quantised()) {
        for fill in [0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0] {
            let mut matrix = Matrix::new(format, 16, 256, false, &mut random);
            for block in matrix.data.chunks_exact_mut(format.block_bytes()) {
                block.fill(fill);
                set_factors(format, block, || 0x3800);
            }
            let matrices = [matrix];
            let w = weight(&matrices, Numerics::Default);
            // What is quantised to 127. One token and five, which some tiers give different kernels.
            for (numerics, one) in [(Numerics::Default, 1.0), (Numerics::Fast, 127.0 / 64.0)] {
                for x in [vec![one; 256], vec![-one; 256], vec![one; 5 * 256], vec![-one; 5 * 256]] {
                    let expected = expected(&matrices, &x, numerics);
                    for tier in Tier::available() {
                        let got = run(tier, 1, &w, &x, numerics);
                        assert!(got == expected, "{tier}, {}, {fill:#x}, {numerics:?}", format.name());
                    }
                }
            }
        }
    }
}

/// Powers of two from subnormal ones to the last with which every code is a finite number.
#[test]
fn exponents_of_mxfp4_reach_both_ends() {
    let mut random = Random(9);
    for (exponents, size) in [([0, 1, 2, 3], 1e6f32), ([249, 250, 251, 252], 1e-6)] {
        let mut matrix = Matrix::new(Format::MXFP4, 20, 256, false, &mut random);
        for (i, block) in matrix.data.chunks_exact_mut(Format::MXFP4.block_bytes()).enumerate() {
            block[0] = exponents[i % 4];
        }
        let matrices = [matrix];
        let w = weight(&matrices, Numerics::Default);
        let x: Vec<f32> = activations(2, 256, &mut random).iter().map(|x| x * size).collect();
        for numerics in [Numerics::Default, Numerics::Fast, Numerics::Precise] {
            let expected = expected(&matrices, &x, numerics);
            assert!(expected.iter().all(|&bits| f32::from_bits(bits).is_finite() && f32::from_bits(bits) != 0.0));
            for tier in Tier::available() {
                let got = run(tier, 1, &w, &x, numerics);
                assert!(got == expected, "{tier}, exponents {exponents:?}, {numerics:?}");
            }
        }
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_in_a_batch() {
    let mut random = Random(3);
    for format in Format::ALL {
        let matrix = [Matrix::new(format, 50, 256, true, &mut random)];
        let x = activations(21, 256, &mut random);
        for numerics in Numerics::ALL {
            let w = weight(&matrix, numerics);
            let batch = run(Tier::best(), 2, &w, &x, numerics);
            for (x, batch) in x.chunks_exact(256).zip(batch.chunks_exact(50)) {
                assert_eq!(run(Tier::best(), 1, &w, x, numerics), batch, "{}, {numerics:?}", format.name());
            }
        }
    }
}

/// Activations of every size, from nothing to infinity, side by side: what of it is finite has its bits, and what is not
/// makes every output of its token so, and none of another's.
#[test]
fn what_is_not_finite_reaches_every_output_of_its_token() {
    let mut random = Random(11);
    for format in Format::ALL {
        let matrix = [Matrix::new(format, 20, 256, true, &mut random)];
        for numerics in Numerics::ALL {
            let w = weight(&matrix, numerics);
            let mut x = activations(6, 256, &mut random);
            for (token, extreme) in [(1, f32::NAN), (2, f32::INFINITY), (3, 1e-30), (4, f32::from_bits(1))] {
                x[token * 256 + 70] = extreme;
            }
            let expected = expected(&matrix, &x, numerics);
            for tier in Tier::available() {
                let got = run(tier, 1, &w, &x, numerics);
                for (i, (got, want)) in got.iter().zip(&expected).enumerate() {
                    let (finite, place) = (f32::from_bits(*got).is_finite(), (tier, format.name(), numerics, i / 20));
                    // A weight may be 0, and 0 times infinity is NaN: which of the two is not promised.
                    assert_eq!(finite, !matches!(i / 20, 1 | 2), "{place:?}");
                    assert!(!finite || got == want, "{place:?}");
                }
            }
        }
    }
}

/// Root of the mean square of errors against f64, of every output of some tokens.
fn error(matrix: &[Matrix; 1], x: &[f32], numerics: Numerics) -> f64 {
    let w = weight(matrix, numerics);
    let got = run(Tier::best(), 1, &w, x, numerics);
    let rows: Vec<Vec<f32>> = (0..matrix[0].rows).map(|r| matrix[0].decoded(r)).collect();
    let truth = |i: usize| {
        let (x, row) = (&x[i / rows.len() * matrix[0].cols..], &rows[i % rows.len()]);
        row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>()
    };
    let square = |(i, got): (usize, &u32)| (f64::from(f32::from_bits(*got)) - truth(i)).powi(2);
    (got.iter().enumerate().map(square).sum::<f64>() / got.len() as f64).sqrt()
}

/// One term is off by up to half a 127th of a group's largest number, two by a 254th of that, beside which chains of f32 round
/// little. Steps that are a power of two are up to twice as wide, and of all sizes between.
#[test]
fn two_terms_err_far_less_than_one_and_powers_of_two_somewhat_more() {
    let mut random = Random(12);
    for format in Format::ALL.into_iter().filter(|format| format.is_quantised()) {
        let matrix = [Matrix::new(format, 64, 512, false, &mut random)];
        let mut x: Vec<f32> = (0..8 * 512).map(|_| random.float()).collect();
        for group in x.as_chunks_mut::<GROUP>().0 {
            let size = random.float().exp2();
            group.iter_mut().for_each(|x| *x *= size);
        }
        let [default, fast, precise, float] = Numerics::ALL.map(|numerics| error(&matrix, &x, numerics));
        let name = format.name();
        println!("{name}: default {default:.1e}, fast {fast:.1e}, precise {precise:.1e}, float {float:.1e}");
        assert!(precise < default / 100.0, "{name}: {precise:e} of {default:e}");
        assert!(default < fast && fast < 2.0 * default, "{name}: {fast:e} of {default:e}");
    }
}

#[test]
fn rows_decode_to_the_bits_of_their_format() {
    let mut random = Random(4);
    for (format, numerics) in Format::ALL.into_iter().flat_map(|f| Numerics::ALL.map(|n| (f, n))) {
        let matrices =
            [Matrix::new(format, 37, 512, true, &mut random), Matrix::new(Format::Q8_0, 5, 512, false, &mut random)];
        let wanted = || matrices.iter().flat_map(|m| (0..m.rows).map(|r| (m.view(), r)));
        let weights: Vec<Weight> =
            forms(&matrices, numerics).into_iter().map(|forms| weight(&matrices, forms)).collect();
        for (w, (row, (view, r))) in weights.iter().flat_map(|w| wanted().enumerate().map(move |row| (w, row))) {
            let (mut ours, mut theirs) = (vec![f32::NAN; 512], vec![0.0; 512]);
            w.decode_row(row, &mut ours);
            view.decode_row(r, &mut theirs);
            assert!(
                ours.iter().map(|v| v.to_bits()).eq(theirs.iter().map(|v| v.to_bits())),
                "{} row {r}, {numerics:?}",
                format.name()
            );
        }
    }
}

#[test]
fn embedding_takes_rows_in_any_order() {
    let matrix = Matrix::new(Format::Q6_K, 60, 256, false, &mut Random(8));
    let (w, tokens) = (weight(&[matrix], Numerics::Default), [59, 0, 17, 17]);
    for scale in [1.0, 12.0 / 0.22] {
        let mut out = vec![0.0; 4 * 256];
        embed(&Threads::new(2).unwrap(), &mut out, &w, scale, &tokens);
        for (out, token) in out.chunks_exact(256).zip(tokens) {
            let mut row = vec![0.0; 256];
            w.decode_row(token as usize, &mut row);
            row.iter_mut().for_each(|number| *number *= scale);
            assert_eq!(out, row, "times {scale}");
        }
    }
}

#[test]
fn bytes_are_known_before_loading() {
    let mut random = Random(5);
    for numerics in Numerics::ALL {
        for format in Format::ALL {
            let matrices = [
                Matrix::new(format, 19, 256, false, &mut random),
                Matrix::new(Format::F16, 40, 256, false, &mut random),
            ];
            let shapes = [(format, 19, 256), (Format::F16, 40, 256)];
            let held: usize = weight(&matrices, numerics).segments().iter().map(|s| s.panels() * s.panel_bytes()).sum();
            assert_eq!(Weight::bytes(&shapes, numerics), held as u64);
        }
    }
}

#[test]
fn damage_is_named() {
    let mut random = Random(6);
    let threads = Threads::new(2).unwrap();
    for format in Format::ALL {
        let mut matrix = Matrix::new(format, 40, 256, false, &mut random);
        let row = matrix.data.len() / 40;
        for r in [29, 33] {
            let row = &mut matrix.data[r * row..][..row];
            match format {
                Format::F32 | Format::F16 | Format::BF16 => *row.last_chunk_mut().unwrap() = [0xFF, 0x7F],
                _ => set_factors(format, &mut row[..format.block_bytes()], || 0x7FFF),
            }
        }
        let error = Weight::new(&[matrix.part()], Numerics::Default, &threads).err().expect("damaged");
        assert!(
            matches!(&error, Error::Tensor { name, problem, .. } if name == "matrix" && problem.starts_with("row 29 ")),
            "{error}"
        );
    }
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let mut random = Random(7);
    let threads = Threads::new(1).unwrap();
    let (a, b) =
        (Matrix::new(Format::F32, 3, 64, true, &mut random), Matrix::new(Format::F32, 3, 32, false, &mut random));
    assert!(Weight::new(&[a.part(), b.part()], Numerics::Default, &threads).is_err());
    let part = Part { bias: a.part().bias, ..Matrix::part(&b) };
    assert!(Weight::new(&[part], Numerics::Default, &threads).is_ok());
    let c = Matrix::new(Format::F32, 4, 32, false, &mut random);
    assert!(Weight::new(&[Part { bias: a.part().bias, ..c.part() }], Numerics::Default, &threads).is_err());
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn stacked_parts_of_any_shape(
        parts in prop::collection::vec((any_format(), 1usize..70, any::<bool>()), 1..4),
        blocks in 1usize..4,
        tokens in 1usize..21,
        threads in 1usize..4,
        numerics in prop::sample::select(Numerics::ALL.to_vec()),
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let block = parts.iter().map(|(format, ..)| format.block_len()).max().unwrap_or(1);
        let cols = blocks * block;
        let matrices: Vec<Matrix> =
            parts.iter().map(|&(format, rows, bias)| Matrix::new(format, rows, cols, bias, &mut random)).collect();
        check(&matrices, [tokens], threads, numerics, &mut random);
    }
}
