//! The linear layer against its definition, bit for bit: every tier, format and numerics mode, over random shapes,
//! batches and thread counts.

mod common;

use common::{Random, encoded, set_factors};
use llama_core::Error;
use llama_core::backend::{Numerics, Part};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_core::numerics::{GROUP, dot, quantize_group};
use llama_kernels::LinearKernels;
use llama_kernels::isa::Tier;
use llama_kernels::ops::embed::embed;
use llama_kernels::ops::linear::linear;
use llama_kernels::quant::LinearScratch;
use llama_kernels::threads::Threads;
use llama_kernels::weight::Weight;
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

    /// One output, as docs/numerics.md defines it.
    fn output(&self, r: usize, x: &[f32], numerics: Numerics) -> f32 {
        let acc = if self.format.is_quantised() && numerics == Numerics::Default {
            self.quantised_dot(r, x)
        } else {
            let mut row = vec![0.0; self.cols];
            self.view().decode_row(r, &mut row);
            dot(&row, x)
        };
        self.bias.as_ref().map_or(acc, |b| acc + f32::from_le_bytes(b[4 * r..4 * r + 4].try_into().unwrap()))
    }

    fn quantised_dot(&self, r: usize, x: &[f32]) -> f32 {
        let mut acc = 0.0f32;
        for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let weights = self.format.group(self.view().row(r), g);
            let (scale, quants) = quantize_group(x);
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

/// `[tokens, rows of all matrices]` by definition.
fn expected(matrices: &[Matrix], x: &[f32], numerics: Numerics) -> Vec<u32> {
    let outputs = |x: &[f32]| -> Vec<u32> {
        matrices.iter().flat_map(|m| (0..m.rows).map(|r| m.output(r, x, numerics).to_bits())).collect()
    };
    x.chunks_exact(matrices[0].cols).flat_map(outputs).collect()
}

fn run(tier: Tier, threads: usize, w: &Weight, x: &[f32]) -> Vec<u32> {
    let tokens = x.len() / w.cols();
    let kernels = LinearKernels::new(tier).unwrap();
    let threads = Threads::new(threads).unwrap();
    let mut scratch = LinearScratch::new(tokens, w.cols(), threads.count()).unwrap();
    let mut out = vec![f32::NAN; tokens * w.rows()];
    linear(&kernels, &threads, &mut scratch, &mut out, x, tokens, w);
    out.into_iter().map(f32::to_bits).collect()
}

fn weight(matrices: &[Matrix], numerics: Numerics) -> Weight {
    let parts: Vec<Part<'_>> = matrices.iter().map(Matrix::part).collect();
    Weight::new(&parts, numerics, &Threads::new(2).unwrap()).unwrap()
}

/// Activations of uneven magnitude, with a group of zeros among them.
fn activations(tokens: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    let mut x: Vec<f32> = (0..tokens * cols).map(|_| random.float()).collect();
    for (i, x) in x.chunks_mut(8).enumerate() {
        let scale = [1.0, 0.01, 30.0, 0.0][i / 4 % 4];
        x.iter_mut().for_each(|x| *x *= scale);
    }
    x
}

fn check(matrices: &[Matrix], tokens: usize, threads: usize, numerics: Numerics, random: &mut Random) {
    let w = weight(matrices, numerics);
    let x = activations(tokens, w.cols(), random);
    let expected = expected(matrices, &x, numerics);
    for tier in Tier::available() {
        let formats: Vec<_> = matrices.iter().map(|m| m.format.name()).collect();
        assert!(run(tier, threads, &w, &x) == expected, "{tier}, {formats:?}, {tokens} tokens, {threads} threads");
    }
}

#[test]
fn every_format_and_tile_width_by_every_tier() {
    let mut random = Random(1);
    for format in Format::ALL {
        let matrices = [Matrix::new(format, 33, 512, true, &mut random)];
        for tokens in (1..=13).chain([24, 30]) {
            check(&matrices, tokens, 1, Numerics::Default, &mut random);
        }
        check(&matrices, 3, 2, Numerics::Precise, &mut random);
    }
}

/// More tokens and more columns than any tier takes at a time, and no multiple of what it takes.
#[test]
fn passes_and_runs_end_anywhere() {
    let mut random = Random(10);
    for format in Format::ALL {
        check(&[Matrix::new(format, 20, 1280, false, &mut random)], 101, 1, Numerics::Default, &mut random);
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
            // One token and five, which some tiers give different kernels.
            for x in [vec![1.0; 256], vec![-1.0; 256], vec![1.0; 5 * 256], vec![-1.0; 5 * 256]] {
                let expected = expected(&matrices, &x, Numerics::Default);
                for tier in Tier::available() {
                    assert!(run(tier, 1, &w, &x) == expected, "{tier}, {}, {fill:#x}", format.name());
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
        let expected = expected(&matrices, &x, Numerics::Default);
        assert!(expected.iter().all(|&bits| f32::from_bits(bits).is_finite() && f32::from_bits(bits) != 0.0));
        for tier in Tier::available() {
            assert!(run(tier, 1, &w, &x) == expected, "{tier}, exponents {exponents:?}");
        }
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_in_a_batch() {
    let mut random = Random(3);
    for format in Format::ALL {
        let w = weight(&[Matrix::new(format, 50, 256, true, &mut random)], Numerics::Default);
        let x = activations(21, 256, &mut random);
        let batch = run(Tier::best(), 2, &w, &x);
        for (x, batch) in x.chunks_exact(256).zip(batch.chunks_exact(50)) {
            assert_eq!(run(Tier::best(), 1, &w, x), batch, "{}", format.name());
        }
    }
}

#[test]
fn rows_decode_to_the_bits_of_their_format() {
    let mut random = Random(4);
    for (format, numerics) in Format::ALL.into_iter().flat_map(|f| [(f, Numerics::Default), (f, Numerics::Precise)]) {
        let matrices =
            [Matrix::new(format, 37, 512, true, &mut random), Matrix::new(Format::Q8_0, 5, 512, false, &mut random)];
        let w = weight(&matrices, numerics);
        let wanted = matrices.iter().flat_map(|m| (0..m.rows).map(|r| (m.view(), r)));
        for (row, (view, r)) in wanted.enumerate() {
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
    let mut out = vec![0.0; 4 * 256];
    embed(&Threads::new(2).unwrap(), &mut out, &w, &tokens);
    for (out, token) in out.chunks_exact(256).zip(tokens) {
        let mut row = vec![0.0; 256];
        w.decode_row(token as usize, &mut row);
        assert_eq!(out, row);
    }
}

#[test]
fn bytes_are_known_before_loading() {
    let mut random = Random(5);
    for numerics in [Numerics::Default, Numerics::Precise] {
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
            matches!(&error, Error::Tensor { name, problem } if name == "matrix" && problem.starts_with("row 29 ")),
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
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn stacked_parts_of_any_shape(
        parts in prop::collection::vec((any_format(), 1usize..70, any::<bool>()), 1..4),
        blocks in 1usize..4,
        tokens in 1usize..21,
        threads in 1usize..4,
        precise in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let block = parts.iter().map(|(format, ..)| format.block_len()).max().unwrap_or(1);
        let cols = blocks * block;
        let matrices: Vec<Matrix> =
            parts.iter().map(|&(format, rows, bias)| Matrix::new(format, rows, cols, bias, &mut random)).collect();
        let numerics = if precise { Numerics::Precise } else { Numerics::Default };
        check(&matrices, tokens, threads, numerics, &mut random);
    }
}
