//! The linear's kernels in plain Rust.
//!
//! Fused multiply-adds are `f32::mul_add`, correct on every CPU. (The vectors of `wide` fuse only where the build has
//! FMA at compile time, so here they could serve nothing but the integer dots, which the compiler vectorises as they are.)

use half::{bf16, f16};

use crate::arch::floats::{Add, Coded, Floating};
use crate::arch::linear::{Acts, Kernel, LinearKernels, MAX_COLUMNS, Tile};
use crate::quant::QuantTile;
use crate::weight::coded::{self, Column, Pair};
use crate::weight::pack::{PACKS, Pack};
use crate::weight::unpack::{Unpacked, unpack};

/// The table of this tier.
pub(in crate::arch) fn kernels() -> LinearKernels {
    let quantised: Kernel = quantised;
    let kernels = [[quantised; MAX_COLUMNS]; PACKS];
    LinearKernels { columns: MAX_COLUMNS, kernels, many: None, zero_pairs: false, quantise, floats: floats() }
}

fn floats() -> Floating {
    let row = |add: Add| [add; MAX_COLUMNS];
    let plain = [row(add_f32), row(add_f16), row(add_bf16)];
    Floating { plain, coded: Coded { few: [None; 2], expand, add: plain[2] } }
}

fn quantise(x: &[f32], mut out: QuantTile<'_>) {
    out.fill(x);
}

fn quantised(pack: Pack, panel: &[u8], acts: Acts<'_>, tile: &mut Tile) {
    let columns = acts.columns;
    *tile = Tile::default();
    for (b, raw) in panel.chunks_exact(pack.block_bytes()).enumerate() {
        for i in 0..pack.groups() {
            let group = unpack(pack, raw, i);
            for (c, acc) in tile.iter_mut().take(columns).enumerate() {
                add_group(pack, &group, &acts, b * pack.groups() + i, c, acc.first_chunk_mut().expect("16 of 32"));
            }
        }
    }
}

/// Adds what group `g` contributes to column `c`.
fn add_group(pack: Pack, group: &Unpacked, acts: &Acts<'_>, g: usize, c: usize, acc: &mut [f32; 16]) {
    let quants = &acts.quants[g * acts.columns + c];
    let scale = acts.scales[g * acts.columns + c];
    let vectors = 8 / pack.subs();
    for s in 0..pack.subs() {
        let at = (g * pack.subs() + s) * acts.columns + c;
        let mut dots = [acts.zeros.get(at).copied().unwrap_or(0); 16];
        let own = s * vectors..(s + 1) * vectors;
        for (codes, quants) in group.codes[own.clone()].iter().zip(&quants[own]) {
            add_dots(codes, *quants, &mut dots);
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            *acc = (group.scale[s][r] * scale).mul_add(dots[r] as f32, *acc);
            if pack.has_min() {
                *acc = group.min[s][r].mul_add(acts.sums[at], *acc);
            }
        }
    }
}

/// Four columns of sixteen rows: what VPDPBUSD does.
fn add_dots(codes: &[u8; 64], quants: i32, dots: &mut [i32; 16]) {
    let quants = quants.to_le_bytes().map(|q| i32::from(q as i8));
    for (dot, codes) in dots.iter_mut().zip(codes.as_chunks::<4>().0) {
        for (code, q) in codes.iter().zip(quants) {
            *dot += i32::from(*code) * q;
        }
    }
}

/// Adds columns of floats that `decode` reads.
fn add<const N: usize>(columns: &[u8], x: &[f32], tile: &mut Tile, decode: impl Fn([u8; N]) -> f32) {
    let columns = columns.as_chunks::<N>().0.as_chunks::<32>().0;
    let width = x.len() / columns.len().max(1);
    for (column, x) in columns.iter().zip(x.chunks_exact(width.max(1))) {
        let weights = column.map(&decode);
        for (acc, x) in tile.iter_mut().zip(x) {
            acc.iter_mut().zip(weights).for_each(|(acc, w)| *acc = w.mul_add(*x, *acc));
        }
    }
}

fn add_f32(columns: &[u8], x: &[f32], tile: &mut Tile) {
    add(columns, x, tile, f32::from_le_bytes);
}

fn add_f16(columns: &[u8], x: &[f32], tile: &mut Tile) {
    add(columns, x, tile, |weight| f16::from_le_bytes(weight).to_f32());
}

fn add_bf16(columns: &[u8], x: &[f32], tile: &mut Tile) {
    add(columns, x, tile, |weight| bf16::from_le_bytes(weight).to_f32());
}

fn expand(pairs: &[Pair], exponents: &[u8; 16], out: &mut [Column]) {
    for (pair, out) in pairs.iter().zip(out.as_chunks_mut::<2>().0) {
        for (k, column) in out.iter_mut().enumerate() {
            for (row, bytes) in column.as_chunks_mut().0.iter_mut().enumerate() {
                *bytes = coded::weight(pair, exponents, k, row);
            }
        }
    }
}
