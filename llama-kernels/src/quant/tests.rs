//! Activations of every tier against their definition, and how tokens and terms lie in tiles.

use llama_core::backend::Part;
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_core::numerics::{quantize_group, remainder};

use super::*;
use crate::isa::Tier;

/// 3 x 256 activations: ordinary ones, ties, and in later groups what is not a number or nearly nothing.
fn activations() -> Vec<f32> {
    let mut x: Vec<f32> = (0..3 * 256).map(|i| (i * 37 % 255) as f32 / 2.0 - 63.5).collect();
    x[40] = f32::NAN;
    x[80] = -f32::NAN;
    x[100] = f32::INFINITY;
    x[130] = f32::NEG_INFINITY;
    x[160..192].fill(-0.0);
    x[192..224].fill(1e-38);
    x[224..256].fill(1e-30);
    x[300] = f32::MAX;
    x[330] = 1e9;
    x
}

/// Everything that [`Activations::take`] wrote, in bits.
fn prepared(tier: Tier, w: &Weight, numerics: Numerics) -> Vec<u32> {
    let (threads, kernels) = (Threads::new(1).unwrap(), LinearKernels::new(tier).unwrap());
    let mut scratch = Activations::new(3, 256, numerics).unwrap();
    // Tiles of fewer than four columns on every tier: more may lie in an order of their own.
    let terms = numerics.terms();
    let tiles = Tiles { tokens: 3, terms, count: if terms == 1 { 1 } else { 3 } };
    scratch.take(&kernels, &threads, (Input::plain(&activations()), &mut []), tiles, w);
    let quants = scratch.quants.iter().flatten().map(|q| *q as u32);
    let floats = scratch.scales.iter().chain(scratch.sums.iter().flat_map(|sums| sums.iter()));
    let whole = |zero: i32| if kernels.zero_pairs() { i32::from(zero as i16) + (zero >> 16) } else { zero };
    let zeros = scratch.zeros.iter().zip(ZEROS).flat_map(|(zeros, (point, subs))| {
        // Larger points wrap in pairs of 16 bits, where no kernel reads them.
        zeros.iter().filter(move |_| point * 2 / subs as i32 <= 32).map(|zero| whole(*zero) as u32)
    });
    // Which NaN it is depends on the order of a product's operands, which a compiler may choose.
    let bits = floats.map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() });
    quants.chain(zeros).chain(bits).collect()
}

#[test]
fn every_tier_quantises_to_the_same_bits() {
    let threads = Threads::new(1).unwrap();
    for format in Format::ALL.into_iter().filter(|format| format.is_quantised()) {
        let data = vec![1; format.row_bytes(256).unwrap()];
        let weight = TensorView::new("w", format, 1, 256, &data).unwrap();
        let w = Weight::new(&[Part { weight, bias: None }], Numerics::Default, &threads).unwrap();
        for numerics in [Numerics::Default, Numerics::Fast, Numerics::Precise] {
            let want = prepared(Tier::Portable, &w, numerics);
            for tier in Tier::available() {
                assert_eq!(prepared(tier, &w, numerics), want, "{tier}, {}, {numerics:?}", format.name());
            }
        }
    }
}

/// Terms lie side by side, `[group][token][term]`, each as by the definition.
#[test]
fn terms_are_neighbouring_columns() {
    let (threads, kernels) = (Threads::new(1).unwrap(), LinearKernels::new(Tier::best()).unwrap());
    let data = vec![1; Format::Q8_0.row_bytes(256).unwrap()];
    let weight = TensorView::new("w", Format::Q8_0, 1, 256, &data).unwrap();
    let w = Weight::new(&[Part { weight, bias: None }], Numerics::Precise, &threads).unwrap();
    let x: Vec<f32> = (0..512).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut scratch = Activations::new(2, 256, Numerics::Precise).unwrap();
    let tiles = Tiles { tokens: 2, terms: 2, count: 1 };
    scratch.take(&kernels, &threads, (Input::plain(&x), &mut []), tiles, &w);
    let acts = scratch.acts(0, Pack::Q8_0);
    assert_eq!((acts.columns, acts.scales.len(), acts.quants.len()), (4, 32, 32));
    for (i, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
        let (first, quants) = quantize_group(x, Scaling::Full);
        let (second, _) = quantize_group(&remainder(x, first, &quants), Scaling::Full);
        let at = i % 8 * 4 + i / 8 * 2;
        assert_eq!(acts.scales[at..at + 2], [first, second], "group {i}");
    }
}

/// Only where every scale is: not of a tile with a group of zeros, or of numbers near the least that is quantised.
#[test]
fn tiles_tell_whether_their_scales_are_powers_of_two() {
    let threads = Threads::new(1).unwrap();
    let data = vec![1; Format::Q8_0.row_bytes(256).unwrap()];
    let weight = TensorView::new("w", Format::Q8_0, 1, 256, &data).unwrap();
    let w = Weight::new(&[Part { weight, bias: None }], Numerics::Fast, &threads).unwrap();
    let powers = |tier, numerics, x: &[f32]| {
        let kernels = LinearKernels::new(tier).unwrap();
        let mut scratch = Activations::new(1, 256, numerics).unwrap();
        scratch.take(&kernels, &threads, (Input::plain(x), &mut []), Tiles::of(1, 1, &kernels), &w);
        scratch.acts(0, Pack::Q8_0).powers
    };
    let with = |extreme: f32| {
        let mut x = [1.0; 256];
        x[32..64].fill(extreme);
        x
    };
    for tier in Tier::available() {
        assert!(powers(tier, Numerics::Fast, &with(-3.0)) && !powers(tier, Numerics::Default, &with(127.0)));
        for extreme in [0.0, 1e-29, 1e-33, 1e35, f32::INFINITY, f32::NAN] {
            assert!(!powers(tier, Numerics::Fast, &with(extreme)), "{tier}, {extreme}");
        }
        assert!(powers(tier, Numerics::Fast, &with(1e-28)) && powers(tier, Numerics::Fast, &with(1e31)));
    }
}

#[test]
fn tiles_are_as_wide_as_their_terms_allow() {
    for tier in Tier::available() {
        let kernels = LinearKernels::new(tier).unwrap();
        for (terms, tokens) in [1, 2].into_iter().flat_map(|terms| (1..100).map(move |tokens| (terms, tokens))) {
            let tiles = Tiles::of(tokens, terms, &kernels);
            let widths = (0..tiles.count()).map(|i| terms * tiles.tokens(i).len());
            assert!(widths.clone().all(|width| width > 0 && width <= kernels.columns()), "{tier}, {tokens}");
            assert_eq!(widths.sum::<usize>(), tiles.columns());
        }
    }
}

#[test]
fn too_much_is_an_error() {
    assert!(matches!(
        LinearScratch::new(usize::MAX / 64, 4096, 1, Numerics::Precise),
        Err(llama_core::Error::Memory { .. })
    ));
}
