//! How fast numbers become weights in every format, on one thread, and what error is left.
//!
//! ```text
//! cargo run --release -p llama-benches --bin encode           a table, of nearly normal numbers
//! encode NUMBERS COLUMNS [IMPORTANCE]                         of a file's, f32 in rows
//! ```
//! With a file a line for each format: its name, million weights a second, the squared error by the squares of the
//! numbers. With an importance for each column (a file again) it is `Format::encode_weighing` that is timed, and both
//! squares count so often. `benches/peers/encode.py` puts ggml's beside them.

use std::error::Error;
use std::time::Instant;
use std::{env, fs};

use llama_core::format::Format;

const COLUMNS: usize = 2048;

/// Runs of which the best counts.
const RUNS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let importance = arguments.get(2).map(numbers).transpose()?;
    match &arguments[..] {
        [] => table()?,
        [file, columns, ..] => {
            let rows = Rows { x: numbers(file)?, columns: columns.parse()?, importance };
            for format in Format::ALL {
                let (rate, error) = rows.measured(format)?;
                println!("{} {rate} {error}", format.name());
            }
        }
        _ => return Err("NUMBERS COLUMNS [IMPORTANCE] were expected".into()),
    }
    Ok(())
}

fn numbers(file: &String) -> Result<Vec<f32>, Box<dyn Error>> {
    Ok(fs::read(file)?.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

fn table() -> llama_core::Result<()> {
    println!("| format | encode, M weights/s | error | weighing, M weights/s | error |\n|---|---:|---:|---:|---:|");
    let importance = normal(COLUMNS, 2).into_iter().map(f32::abs).collect();
    let mut rows = Rows { x: normal(16 * COLUMNS, 1), columns: COLUMNS, importance: None };
    let plain = Format::ALL.into_iter().map(|format| rows.measured(format)).collect::<llama_core::Result<Vec<_>>>()?;
    rows.importance = Some(importance);
    for (format, (rate, error)) in Format::ALL.into_iter().zip(plain) {
        let (weighing, weighed) = rows.measured(format)?;
        println!("| {} | {rate:.2} | {error:.6} | {weighing:.2} | {weighed:.6} |", format.name());
    }
    Ok(())
}

struct Rows {
    x: Vec<f32>,
    columns: usize,
    importance: Option<Vec<f32>>,
}

impl Rows {
    /// Million weights a second, and the relative squared error.
    fn measured(&self, format: Format) -> llama_core::Result<(f64, f64)> {
        let whole =
            format.row_bytes(self.columns).filter(|_| self.columns > 0 && self.x.len().is_multiple_of(self.columns));
        let row_bytes = whole.ok_or_else(|| {
            let problem =
                format!("{} numbers in whole rows of whole blocks of {} were expected", self.x.len(), format.name());
            llama_core::Error::parameter("columns", self.columns, problem)
        })?;
        let mut out = vec![0; self.x.len() / self.columns * row_bytes];
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let start = Instant::now();
            for (x, out) in self.x.chunks_exact(self.columns).zip(out.chunks_exact_mut(row_bytes)) {
                match &self.importance {
                    None => format.encode(x, out)?,
                    Some(importance) => format.encode_weighing(x, importance, out)?,
                }
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok((self.x.len() as f64 / best / 1e6, self.error(format, &out)))
    }

    fn error(&self, format: Format, encoded: &[u8]) -> f64 {
        let mut decoded = vec![0.0; self.x.len()];
        format.decode(encoded, &mut decoded);
        let weight =
            |i: usize| self.importance.as_ref().map_or(1.0, |importance| f64::from(importance[i % self.columns]));
        let square = |v: f32, i: usize| weight(i) * f64::from(v) * f64::from(v);
        let (mut error, mut all) = (0.0, 0.0);
        for (i, (&x, &y)) in self.x.iter().zip(&decoded).enumerate() {
            error += square(x - y, i);
            all += square(x, i);
        }
        error / all
    }
}

/// Nearly normal numbers: sums of twelve uniform ones (splitmix64, Steele et al. 2014), less their mean.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 40) as f32 / (1u32 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}
