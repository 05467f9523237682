//! Weight formats against PyPI's `gguf`, bit for bit (data and the script that made it: `data/formats/`), against ggml's
//! quantisers by their error, and against themselves on random blocks.

use std::path::{Path, PathBuf};

use llama_core::Error;
use llama_core::format::{ENCODE_MAX, Format};
use proptest::prelude::*;

fn data(file: &str) -> Vec<u8> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(file: &str) -> Vec<f32> {
    data(file).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn quantised() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| format.is_quantised())
}

fn decoded(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    format.decode(bytes, &mut out);
    out
}

fn encoded(format: Format, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
    format.encode(x, &mut out).expect("encodable");
    out
}

#[test]
fn decoding_gives_the_bits_that_gguf_gives() {
    for format in Format::ALL.into_iter().filter(|&format| format != Format::F32) {
        let got = decoded(format, &data(&format!("{}.bytes", format.name())));
        let want = floats(&format!("{}.f32", format.name()));
        assert_eq!(got.len(), want.len(), "{}", format.name());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{} weight {i}: {got} not {want}", format.name());
        }
    }
}

#[test]
fn encoding_gives_the_bytes_that_gguf_gives() {
    use Format::{BF16, F16, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0};
    for format in [F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4, TQ1_0, TQ2_0] {
        let x = floats(match format {
            F16 | BF16 => "floats.f32",
            MXFP4 | TQ1_0 | TQ2_0 => "later_numbers.f32",
            _ => "numbers.f32",
        });
        let got = encoded(format, &x);
        let want = data(&format!("{}.encoded", format.name()));
        assert_eq!(got.len(), want.len(), "{}", format.name());
        let (len, bytes) = (format.block_len(), format.block_bytes());
        for (i, (got, want)) in got.chunks(bytes).zip(want.chunks(bytes)).enumerate() {
            assert_eq!(got, want, "{} block {i}: {:?}", format.name(), &x[i * len..(i + 1) * len]);
        }
    }
}

/// Root of the mean squared error that ggml's reference quantisers leave on a standard Gaussian (262,144 numbers), and
/// the largest ratio to it that ours may have. Those of IQ1 to IQ3 were given equal importance for all weights.
const GGML_ERROR: [(Format, f64, f64); 22] = [
    (Format::Q8_0, 0.005365, 1.01),
    (Format::Q4_0, 0.08614, 1.01),
    (Format::Q4_1, 0.07831, 1.01),
    (Format::Q5_0, 0.04282, 1.01),
    (Format::Q5_1, 0.03786, 1.01),
    (Format::Q2_K, 0.2970, 1.0),
    (Format::Q3_K, 0.1511, 1.0),
    (Format::Q4_K, 0.07152, 1.0),
    (Format::Q5_K, 0.03616, 1.0),
    (Format::Q6_K, 0.01777, 1.0),
    (Format::IQ4_NL, 0.07623, 1.0),
    (Format::IQ4_XS, 0.07681, 1.0),
    (Format::MXFP4, 0.11495, 1.01),
    (Format::IQ1_S, 0.4854, 1.0),
    (Format::IQ1_M, 0.4424, 1.0),
    (Format::IQ2_XXS, 0.3437, 1.0),
    (Format::IQ2_XS, 0.2974, 1.0),
    (Format::IQ2_S, 0.2487, 1.0),
    (Format::IQ3_XXS, 0.1814, 1.0),
    (Format::IQ3_S, 0.1367, 1.0),
    (Format::TQ1_0, 0.8057, 1.01),
    (Format::TQ2_0, 0.8057, 1.01),
];

#[test]
fn encoders_leave_no_more_error_than_ggml() {
    let x = gaussian(1 << 16);
    for (format, ggml, ratio) in GGML_ERROR {
        let error = rms_error(&x, &decoded(format, &encoded(format, &x)));
        println!("{:7} {error:.5}, {:.3} of ggml's {ggml}", format.name(), error / ggml);
        assert!(error <= ratio * ggml, "{}: {error} against ggml's {ggml}", format.name());
    }
    assert_eq!(GGML_ERROR.len(), quantised().count());
}

/// Relative to the root mean square of `x`.
fn rms_error(x: &[f32], y: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = x.iter().zip(y).map(|(x, y)| square(x - y)).sum();
    (error / x.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// Standard Gaussian numbers: splitmix64 (Steele et al. 2014), then Box and Muller.
fn gaussian(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut normal = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..n).map(|_| normal() as f32).collect()
}

/// Root of the mean squared error that ggml's quantisers leave on a standard Gaussian when the error of every column
/// counts as often as an importance matrix says, uniformly random in 0..1; relative to the numbers, weighed likewise
/// (ik-llama-cpp-python 0.1.5, 131,072 numbers).
const GGML_WEIGHED_ERROR: [(Format, f64); 18] = [
    (Format::Q4_0, 0.08035),
    (Format::Q4_1, 0.06793),
    (Format::Q5_0, 0.03961),
    (Format::Q5_1, 0.03280),
    (Format::Q2_K, 0.25695),
    (Format::Q3_K, 0.14030),
    (Format::Q4_K, 0.06929),
    (Format::Q5_K, 0.03592),
    (Format::Q6_K, 0.01653),
    (Format::IQ4_NL, 0.07222),
    (Format::IQ4_XS, 0.07299),
    (Format::IQ1_S, 0.46536),
    (Format::IQ1_M, 0.41527),
    (Format::IQ2_XXS, 0.31884),
    (Format::IQ2_XS, 0.27237),
    (Format::IQ2_S, 0.23720),
    (Format::IQ3_XXS, 0.16631),
    (Format::IQ3_S, 0.12858),
];

#[test]
fn weighing_encoders_leave_no_more_weighed_error_than_ggml_or_than_encode() {
    let x = gaussian(1 << 15);
    let importance: Vec<f32> = (0..x.len()).map(|i| (i * 7919 % 2048) as f32 / 2048.0).collect();
    for (format, ggml) in GGML_WEIGHED_ERROR {
        let error = |bytes: &[u8]| weighed_error(&x, &decoded(format, bytes), &importance);
        let (weighed, plain) = (error(&weighed(format, &x, &importance)), error(&encoded(format, &x)));
        println!(
            "{:7} {weighed:.5}, {:.3} of ggml's {ggml}, {:.3} of encode's",
            format.name(),
            weighed / ggml,
            weighed / plain
        );
        assert!(weighed <= 1.005 * ggml, "{}: {weighed} against ggml's {ggml}", format.name());
        assert!(weighed <= 0.975 * plain, "{}: {weighed} against encode's {plain}", format.name());
    }
}

fn weighed(format: Format, x: &[f32], importance: &[f32]) -> Vec<u8> {
    let mut out = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
    format.encode_weighing(x, importance, &mut out).expect("encodable");
    out
}

/// As [`rms_error`], each number counting as often as it is important.
fn weighed_error(x: &[f32], y: &[f32], importance: &[f32]) -> f64 {
    let square = |v: f32, w: f32| f64::from(v) * f64::from(v) * f64::from(w);
    let error: f64 = x.iter().zip(y).zip(importance).map(|((x, y), &w)| square(x - y, w)).sum();
    (error / x.iter().zip(importance).map(|(&x, &w)| square(x, w)).sum::<f64>()).sqrt()
}

/// The squared error of a block as its encoder counts it: by the most important, and at least a millionth.
fn counted_error(x: &[f32], y: &[f32], importance: &[f32]) -> f64 {
    let most = importance.iter().fold(0.0f32, |most, &w| most.max(w));
    let count = |w: f32| if most > 0.0 { f64::from(w / most).max(1e-6) } else { 1.0 };
    x.iter().zip(y).zip(importance).map(|((x, y), &w)| count(w) * f64::from(x - y).powi(2)).sum()
}

/// Formats whose encoder is a search even where all weights count the same, or has nothing to search for.
fn encodes_as_it_weighs(format: Format) -> bool {
    !matches!(format, Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1)
}

#[test]
fn equal_importance_whatever_it_is_changes_nothing() {
    let x = gaussian(512);
    for format in quantised() {
        let ones = weighed(format, &x, &[1.0; 512]);
        for equal in [0.0, 1e-45, 0.3, f32::MAX] {
            assert_eq!(weighed(format, &x, &[equal; 512]), ones, "{} {equal}", format.name());
        }
        let error = |bytes: &[u8]| rms_error(&x, &decoded(format, bytes));
        assert!(error(&ones) <= error(&encoded(format, &x)) * 1.000001, "{}", format.name());
        assert!(!encodes_as_it_weighs(format) || ones == encoded(format, &x), "{}", format.name());
    }
    for format in [Format::F32, Format::F16, Format::BF16] {
        assert_eq!(weighed(format, &x, &x.iter().map(|v| v.abs()).collect::<Vec<_>>()), encoded(format, &x));
    }
}

#[test]
fn importance_that_is_none_is_refused_by_name() {
    for format in Format::ALL {
        for bad in [f32::NAN, f32::INFINITY, -1e-30] {
            let (x, mut importance) = ([0.5; 256], [1.0; 256]);
            importance[(format.block_len() - 1).min(17)] = bad;
            let mut out = vec![7; format.row_bytes(256).expect("whole blocks")];
            let error = format.encode_weighing(&x, &importance, &mut out).expect_err(format.name());
            assert!(matches!(error, Error::Parameter { name: "importance", .. }), "{error}");
            assert!(out.iter().all(|&b| b == 7));
        }
        for len in [0, 255, 257] {
            let mut out = vec![7; format.row_bytes(256).expect("whole blocks")];
            let error = format.encode_weighing(&[0.5; 256], &vec![1.0; len], &mut out).expect_err(format.name());
            assert!(matches!(error, Error::Parameter { name: "importance", .. }), "{error}");
            assert!(error.to_string().contains("256") && out.iter().all(|&b| b == 7), "{error}");
        }
    }
}

/// A least-squares line needs two different numbers, and here those that count are alike but for rounding.
#[test]
fn few_that_count_among_numbers_nearly_alike_are_met() {
    let x: Vec<f32> = gaussian(1 << 14).iter().map(|v| 1.0 + 1e-3 * v).collect();
    let counts = |i: usize| i * 7919 % 1009 < 60;
    let importance: Vec<f32> = (0..x.len()).map(|i| if counts(i) { 1.0 } else { 0.0 }).collect();
    for format in [Format::Q2_K, Format::Q3_K, Format::Q4_K, Format::Q5_K, Format::Q6_K] {
        let y = decoded(format, &weighed(format, &x, &importance));
        let furthest = (0..x.len()).filter(|&i| counts(i)).fold(0.0f32, |most, i| most.max((x[i] - y[i]).abs()));
        assert!(furthest < 0.008, "{}: {furthest}", format.name());
    }
}

#[test]
fn a_column_that_does_not_count_costs_the_others_nothing() {
    let spoilt = |x: &[f32]| x.iter().enumerate().map(|(i, &v)| if i % 16 == 5 { 3.0 } else { v }).collect::<Vec<_>>();
    let x = spoilt(&gaussian(4096).iter().map(|v| 0.3 * v).collect::<Vec<_>>());
    let importance: Vec<f32> = (0..x.len()).map(|i| if i % 16 == 5 { 0.0 } else { 1.0 }).collect();
    for (format, _) in GGML_WEIGHED_ERROR {
        let error = |bytes: &[u8]| weighed_error(&x, &decoded(format, bytes), &importance);
        let (plain, weighed) = (error(&encoded(format, &x)), error(&weighed(format, &x, &importance)));
        assert!(weighed < 0.5 * plain, "{}: {weighed} against {plain}", format.name());
    }
}

#[test]
fn zeros_stay_zeros_and_constants_stay_near() {
    for format in quantised() {
        let zeros = decoded(format, &encoded(format, &vec![0.0; format.block_len()]));
        assert!(zeros.iter().all(|&w| w == 0.0), "{}: {zeros:?}", format.name());
        // The widest gap between levels of MXFP4 is from 8 to 12, and above 12 there is nothing until 16.
        let near = if format == Format::MXFP4 { 0.25 } else { 0.01 };
        for value in [1.0f32, -1.0, 0.02, ENCODE_MAX, -ENCODE_MAX] {
            for w in decoded(format, &encoded(format, &vec![value; format.block_len()])) {
                assert!((w - value).abs() <= near * value.abs(), "{}: {value} became {w}", format.name());
            }
        }
    }
}

#[test]
fn what_can_not_be_quantised_is_refused_by_name() {
    for format in quantised() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65505.0, f32::MAX] {
            let mut x = vec![0.5; format.block_len()];
            x[17] = bad;
            let mut out = vec![7; format.block_bytes()];
            let error = format.encode(&x, &mut out).expect_err(format.name());
            assert!(matches!(error, Error::Parameter { name: "x", .. }) && error.to_string().contains("weight 17"));
            assert!(out.iter().all(|&b| b == 7));
        }
    }
}

#[test]
fn float_formats_round_trip() {
    let x = floats("floats.f32");
    assert_eq!(decoded(Format::F32, &encoded(Format::F32, &x)), x);
    for format in [Format::F16, Format::BF16] {
        let bytes = data(&format!("{}.bytes", format.name()));
        assert_eq!(encoded(format, &decoded(format, &bytes)), bytes, "{}", format.name());
        assert!(decoded(format, &encoded(format, &[f32::NAN]))[0].is_nan());
    }
}

/// Least and greatest code of [`Group::codes`](llama_core::format::Group).
fn code_range(format: Format) -> (i8, i8) {
    match format {
        Format::Q8_0 => (-128, 127),
        Format::Q4_0 => (-8, 7),
        Format::Q4_1 | Format::Q4_K => (0, 15),
        Format::Q5_0 => (-16, 15),
        Format::Q5_1 | Format::Q5_K => (0, 31),
        Format::Q2_K => (0, 3),
        Format::Q3_K => (-4, 3),
        Format::Q6_K => (-32, 31),
        Format::IQ4_NL | Format::IQ4_XS => (-127, 113),
        Format::MXFP4 => (-12, 12),
        Format::IQ1_S | Format::IQ1_M => (-9, 9),
        Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S => (-43, 43),
        Format::IQ3_XXS => (-62, 62),
        Format::IQ3_S => (-15, 15),
        Format::TQ1_0 => (-1, 1),
        Format::TQ2_0 => (-1, 2),
        _ => panic!("{} has no codes", format.name()),
    }
}

fn any_quantised() -> impl Strategy<Value = Format> {
    prop::sample::select(quantised().collect::<Vec<_>>())
}

/// One to three random blocks, every bit of them.
fn any_blocks() -> impl Strategy<Value = (Format, Vec<u8>)> {
    (any_quantised(), 1usize..=3).prop_flat_map(|(format, blocks)| {
        (Just(format), prop::collection::vec(any::<u8>(), blocks * format.block_bytes()))
    })
}

/// One to three blocks of numbers of any size, mixed in a block; or all tiny, or subnormal, or as large as can be.
fn any_numbers() -> impl Strategy<Value = (Format, Vec<f32>)> {
    let mixed = prop_oneof![8 => -2.0f32..2.0, 1 => -ENCODE_MAX..=ENCODE_MAX, 1 => Just(0.0), 1 => -1e-30f32..1e-30];
    let largest = prop_oneof![Just(ENCODE_MAX), Just(-ENCODE_MAX), Just(1e-42f32), -2.0f32..2.0];
    let tiny = |size: f32| (-size..size).boxed();
    let number = prop::sample::select(vec![mixed.boxed(), largest.boxed(), tiny(1e-6), tiny(1e-11), tiny(1e-40)]);
    (any_quantised(), 1usize..=3, number).prop_flat_map(|(format, blocks, number)| {
        (Just(format), prop::collection::vec(number, blocks * format.block_len()))
    })
}

/// Numbers, and how often each counts: mostly ordinary, sometimes not at all, or next to nothing, or hugely.
fn any_weighed() -> impl Strategy<Value = (Format, Vec<f32>, Vec<f32>)> {
    let counts = prop_oneof![6 => 0.0f32..2.0, 2 => Just(0.0), 1 => 0.0f32..1e-30, 1 => 1e30f32..=f32::MAX];
    any_numbers().prop_flat_map(move |(format, x)| {
        let len = x.len();
        (Just(format), Just(x), prop::collection::vec(counts.clone(), len))
    })
}

fn has_codebook(format: Format) -> bool {
    ["IQ1", "IQ2", "IQ3"].iter().any(|family| format.name().starts_with(family))
}

/// Equal bits, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_is_the_formula_over_the_integer_form((format, row) in any_blocks()) {
        let (low, high) = code_range(format);
        for (index, w) in decoded(format, &row).chunks(32).enumerate() {
            let group = format.group(&row, index);
            prop_assert!(format.sub_block() == 16 || same(group.scale[0], group.scale[1]));
            for (i, &w) in w.iter().enumerate() {
                prop_assert!((low..=high).contains(&group.codes[i]));
                let product = group.scale[i / 16] * f32::from(group.codes[i]);
                let want = if format.has_min() { product + group.min[i / 16] } else { product };
                prop_assert!(same(w, want), "{} group {index} weight {i}: {w} not {want}", format.name());
                prop_assert!(format.has_min() || group.min == [0.0; 2]);
            }
        }
    }

    #[test]
    fn alignment_does_not_matter((format, row) in any_blocks(), shift in 1usize..8) {
        let mut moved = vec![0; shift];
        moved.extend_from_slice(&row);
        let (there, here) = (decoded(format, &moved[shift..]), decoded(format, &row));
        prop_assert!(there.iter().zip(&here).all(|(&a, &b)| same(a, b)));
    }

    #[test]
    fn any_importance_leaves_finite_numbers_of_a_sensible_size((format, x, importance) in any_weighed()) {
        let row = weighed(format, &x, &importance);
        let y = decoded(format, &row);
        for (x, y) in x.chunks(format.block_len()).zip(y.chunks(format.block_len())) {
            let largest = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            // What hardly counts may get the highest level where what counts gets the lowest.
            let bound = if has_codebook(format) { 16.0 } else { 2.0 } * largest + 1e-5;
            prop_assert!(y.iter().all(|y| y.abs() <= bound), "{} {y:?}, largest {largest}", format.name());
        }
        let halved: Vec<f32> = importance.iter().map(|v| v / 2.0).collect();
        let exact = importance.iter().all(|&v| v == 0.0 || v > 1e-30);
        prop_assert!(!exact || weighed(format, &x, &halved) == row, "{}: only proportions matter", format.name());
    }

    #[test]
    fn what_is_searched_for_is_no_worse_than_the_reference(
        (_, x, importance) in any_weighed(),
        format in prop::sample::select(vec![Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1]),
    ) {
        for (x, importance) in x.chunks(32).zip(importance.chunks(32)) {
            let error = |bytes: &[u8]| counted_error(x, &decoded(format, bytes), importance);
            let (searched, reference) = (error(&weighed(format, x, importance)), error(&encoded(format, x)));
            prop_assert!(searched <= 1.0001 * reference + 1e-36, "{} {searched}, {reference}", format.name());
        }
    }

    #[test]
    fn any_number_is_encoded_within_its_block_s_range((format, x) in any_numbers()) {
        let y = decoded(format, &encoded(format, &x));
        for (x, y) in x.chunks(format.block_len()).zip(y.chunks(format.block_len())) {
            let largest = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            // TQ rounds at half of the largest, and that to f16. A codebook's level may exceed the largest by a quarter; where
            // the number of negative signs must be even, one of eight has the wrong sign, and is its own size further off.
            let share = match format {
                Format::IQ2_XXS | Format::IQ2_XS | Format::IQ3_XXS => 2.25,
                _ if has_codebook(format) => 1.25,
                _ => 0.501,
            };
            for (x, y) in x.iter().zip(y) {
                prop_assert!((x - y).abs() <= share * largest + 1e-5, "{} {x} became {y}, largest {largest}", format.name());
            }
        }
    }
}

#[test]
#[should_panic(expected = "Q4_K row of 256 weights")]
fn a_short_row_is_a_bug() {
    Format::Q4_K.decode(&[0; 143], &mut [0.0; 256]);
}

#[test]
#[should_panic(expected = "F16 has no integer form")]
fn floats_have_no_groups() {
    Format::F16.group(&[0; 64], 0);
}
