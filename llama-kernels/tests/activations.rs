//! Activations of every tier against their definition, and how tokens and terms lie in tiles.

use std::sync::Mutex;

use llama_core::Error;
use llama_core::backend::{Numerics, Part};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_core::numerics::{GROUP, Scaling, quantize_group, remainder};
use llama_kernels::quant::{Activations, Input, LinearScratch, Tiles};
use llama_kernels::threads::Threads;
use llama_kernels::weight::Weight;
use llama_kernels::weight::pack::{Pack, ZEROS};
use llama_kernels::{LinearKernels, Tier};

const COLS: usize = 256;

/// 3 x 256 activations: ordinary ones, ties, and in later groups what is not a number or nearly nothing.
fn activations() -> Vec<f32> {
    let mut x: Vec<f32> = (0..3 * COLS).map(|i| (i * 37 % 255) as f32 / 2.0 - 63.5).collect();
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

/// A row of weights, whose panels read activations as all of their format do.
fn weight(format: Format, numerics: Numerics) -> Weight {
    let data = vec![1; format.row_bytes(COLS).unwrap()];
    let weight = TensorView::new("w", format, 1, COLS, &data).unwrap();
    Weight::new(&[Part { weight, bias: None }], numerics, &Threads::new(1).unwrap()).unwrap()
}

/// What `told` tells of rows `x` that were made ready for `w`.
fn ready<T: Send>(tier: Tier, numerics: Numerics, w: &Weight, x: &[f32], told: impl Fn(&Activations) -> T + Sync) -> T {
    let (threads, kernels) = (Threads::new(1).unwrap(), LinearKernels::new(tier).unwrap());
    let mut scratch = LinearScratch::new(x.len() / COLS, COLS, 1, numerics).unwrap();
    let answer = Mutex::new(None);
    scratch.run(&kernels, &threads, (Input::plain(x), &mut []), w, 1, &|_, acts| {
        *answer.lock().unwrap() = Some(told(acts));
    });
    answer.into_inner().unwrap().expect("the task ran")
}

/// Everything that a panel of `w` reads of rows `x`, in bits.
fn prepared(tier: Tier, numerics: Numerics, w: &Weight, x: &[f32]) -> Vec<u32> {
    let (pack, pairs) = (w.segments()[0].pack(), LinearKernels::new(tier).unwrap().zero_pairs());
    // Larger points wrap in pairs of 16 bits, where no kernel reads them.
    let read = pack.zero().is_some_and(|zero| ZEROS[zero].0 * 2 / ZEROS[zero].1 as i32 <= 32);
    let whole = |zero: i32| if pairs { i32::from(zero as i16) + (zero >> 16) } else { zero };
    ready(tier, numerics, w, x, |acts| {
        let acts = acts.acts(0, pack);
        let quants = acts.quants.iter().flatten().map(|q| *q as u32);
        let zeros = acts.zeros.iter().filter(|_| read).map(|zero| whole(*zero) as u32);
        let floats = acts.scales.iter().chain(acts.sums);
        // Which NaN it is depends on the order of a product's operands, which a compiler may choose.
        let bits = floats.map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() });
        quants.chain(zeros).chain(bits).collect()
    })
}

#[test]
fn every_tier_quantises_to_the_same_bits() {
    let activations = activations();
    for format in Format::ALL.into_iter().filter(|format| format.is_quantised()) {
        let w = weight(format, Numerics::Default);
        for numerics in [Numerics::Default, Numerics::Fast, Numerics::Precise] {
            // Fewer than four columns at a time: more may lie in an order of their own on some tiers.
            for x in activations.chunks(3 / numerics.terms() * COLS) {
                let want = prepared(Tier::Portable, numerics, &w, x);
                for tier in Tier::available() {
                    assert_eq!(prepared(tier, numerics, &w, x), want, "{tier}, {}, {numerics:?}", format.name());
                }
            }
        }
    }
}

/// Terms lie side by side, `[group][token][term]`, each as by the definition.
#[test]
fn terms_are_neighbouring_columns() {
    let w = weight(Format::Q8_0, Numerics::Precise);
    let x: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.7).sin()).collect();
    ready(Tier::best(), Numerics::Precise, &w, &x, |acts| {
        let acts = acts.acts(0, Pack::Q8_0);
        assert_eq!((acts.columns, acts.scales.len(), acts.quants.len()), (2, 16, 16));
        for (i, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let (first, quants) = quantize_group(x, Scaling::Full);
            let (second, _) = quantize_group(&remainder(x, first, &quants), Scaling::Full);
            assert_eq!(acts.scales[2 * i..][..2], [first, second], "group {i}");
        }
    });
}

/// Only where every scale is: not of a tile with a group of zeros, or of numbers near the least that is quantised.
#[test]
fn tiles_tell_whether_their_scales_are_powers_of_two() {
    let w = weight(Format::Q8_0, Numerics::Fast);
    let powers = |tier, numerics, x: [f32; COLS]| ready(tier, numerics, &w, &x, |acts| acts.acts(0, Pack::Q8_0).powers);
    let with = |extreme: f32| {
        let mut x = [1.0; COLS];
        x[32..64].fill(extreme);
        x
    };
    for tier in Tier::available() {
        assert!(powers(tier, Numerics::Fast, with(-3.0)) && !powers(tier, Numerics::Default, with(127.0)));
        for extreme in [0.0, 1e-29, 1e-33, 1e35, f32::INFINITY, f32::NAN] {
            assert!(!powers(tier, Numerics::Fast, with(extreme)), "{tier}, {extreme}");
        }
        assert!(powers(tier, Numerics::Fast, with(1e-28)) && powers(tier, Numerics::Fast, with(1e31)));
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
    let scratch = LinearScratch::new(usize::MAX / 64, 4096, 1, Numerics::Precise);
    assert!(matches!(scratch, Err(Error::Memory { .. })));
}
