//! How fast weights are encoded: million weights a second in every format, on one thread.
//!
//! ```text
//! cargo run --release -p llama-benches --bin encode [FORMAT ...]
//! ```
//! Rows of 2,048 nearly normal numbers, the best of several runs: of `Format::encode`, and of `Format::encode_weighing`
//! with random importance. The error that is left is held to ggml's by tests (`tests/tests/checkpoint/formats.rs`).

use std::time::Instant;

use llama_core::format::Format;

const COLUMNS: usize = 2048;

/// Runs of which the best counts.
const RUNS: usize = 5;

fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    println!("| format | encode, M weights/s | weighing, M weights/s |\n|---|---:|---:|");
    for format in Format::ALL {
        if named.is_empty() || named.iter().any(|name| name == format.name()) {
            println!("| {} | {:.2} | {:.2} |", format.name(), speed(format, false), speed(format, true));
        }
    }
}

/// Million weights a second.
fn speed(format: Format, weighing: bool) -> f64 {
    let rows = if format.name().starts_with("IQ1") { 4 } else { 32 };
    let (x, importance) = (noise(rows * COLUMNS, 1), noise(COLUMNS, 2).map(f32::abs).collect::<Vec<_>>());
    let x: Vec<f32> = x.collect();
    let mut out = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
    let row_bytes = out.len() / rows;
    let run = |out: &mut Vec<u8>| {
        let start = Instant::now();
        for (x, out) in x.chunks(COLUMNS).zip(out.chunks_mut(row_bytes)) {
            let done = if weighing { format.encode_weighing(x, &importance, out) } else { format.encode(x, out) };
            done.expect("finite numbers");
        }
        start.elapsed().as_secs_f64()
    };
    let best = (0..RUNS).map(|_| run(&mut out)).fold(f64::INFINITY, f64::min);
    x.len() as f64 / best / 1e6
}

/// Nearly normal numbers: sums of twelve uniform ones (splitmix64, Steele et al. 2014), less their mean.
fn noise(count: usize, seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 40) as f32 / (1u32 << 24) as f32
    };
    (0..count).map(move |_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
}
