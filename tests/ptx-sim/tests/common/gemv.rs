//! The gemv kernels: repacking as their headers describe it, and the cases.

use ptx_sim::{Arg, Counters, Launch, Memory, Module};

use super::cases::{Covered, go};
use super::{Rng, all_bf16, all_f32, bf16, from_bf16, from_f16, judge, to_f16};

/// A matrix in some format: its values, exactly, and its bytes in fragment order.
struct Matrix {
    kernel: &'static str,
    values: Vec<f64>,
    /// The buffers between `out` and `x` in the kernel's parameters.
    packed: Vec<Vec<u8>>,
}

/// rows, inputs, columns.
pub type Shape = (usize, usize, usize);

pub fn bf16_case(module: &Module) -> Result<Covered, String> {
    run(module, &[(40, 616, 1), (16, 32, 8), (17, 2080, 3)], bf16_matrix)
}

pub fn q8_0_case(module: &Module) -> Result<Covered, String> {
    run(module, &[(40, 608, 1), (16, 32, 8), (17, 2080, 3)], q8_0_matrix)
}

pub fn q4_0_case(module: &Module) -> Result<Covered, String> {
    run(module, &[(40, 608, 1), (16, 64, 8), (17, 4192, 3)], q4_0_matrix)
}

pub fn q4_1_case(module: &Module) -> Result<Covered, String> {
    run(module, &[(40, 608, 1), (16, 64, 8), (17, 4192, 3)], q4_1_matrix)
}

pub fn f16_case(module: &Module) -> Result<Covered, String> {
    run(module, &[(40, 616, 1), (16, 32, 8), (17, 2080, 3)], f16_matrix)
}

fn run(module: &Module, shapes: &[Shape], make: fn(&mut Rng, usize, usize) -> Matrix) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for (i, &(rows, inputs, columns)) in shapes.iter().enumerate() {
        let mut rng = Rng(10 + i as u64);
        let matrix = make(&mut rng, rows, inputs);
        let x = rng.bf16s(columns * inputs);
        let (_, logits) = multiply(&mut covered, module, &matrix, &x, (rows, inputs, columns), true)?;
        let (_, out) = multiply(&mut covered, module, &matrix, &x, (rows, inputs, columns), false)?;
        judge_product(&matrix, &x, (rows, inputs, columns), &logits, &out)?;
        // A column's bits do not depend on its company.
        let (_, alone) = multiply(&mut covered, module, &matrix, &x[..inputs], (rows, inputs, 1), true)?;
        if alone[..] != logits[..rows] {
            return Err(format!("{}: a column changes with its neighbours", matrix.kernel));
        }
    }
    Ok(covered)
}

/// The counters of one product in a format, and the bytes of its weights.
pub fn measure(module: &Module, format: &str, shape: Shape) -> Result<(Counters, u64), String> {
    let (mut rng, (rows, inputs, columns)) = (Rng(30), shape);
    let matrix = match format {
        "q8_0" => q8_0_matrix(&mut rng, rows, inputs),
        "q4_0" => q4_0_matrix(&mut rng, rows, inputs),
        "q4_1" => q4_1_matrix(&mut rng, rows, inputs),
        "f16" => f16_matrix(&mut rng, rows, inputs),
        _ => bf16_matrix(&mut rng, rows, inputs),
    };
    let x = rng.bf16s(columns * inputs);
    let (counters, _) = multiply(&mut Vec::new(), module, &matrix, &x, shape, false)?;
    Ok((counters, matrix.packed.iter().map(|bytes| bytes.len() as u64).sum()))
}

fn multiply(
    covered: &mut Covered,
    module: &Module,
    matrix: &Matrix,
    x: &[u16],
    (rows, inputs, columns): Shape,
    f32_out: bool,
) -> Result<(Counters, Vec<f64>), String> {
    let mut memory = Memory::new();
    let out = memory.alloc(rows * columns * if f32_out { 4 } else { 2 });
    let mut args = vec![Arg::Buffer(out)];
    args.extend(matrix.packed.iter().map(|bytes| Arg::Buffer(memory.upload(bytes))));
    args.push(Arg::Buffer(memory.upload(x)));
    args.extend([rows, inputs, columns, usize::from(f32_out)].map(|n| Arg::U32(n as u32)));
    let shape = Launch::new((rows as u32).div_ceil(16), 256);
    let counters = go(covered, module, matrix.kernel, &mut memory, shape, &args)?;
    let fault = |fault: ptx_sim::Fault| fault.to_string();
    let values = match f32_out {
        true => all_f32(&memory.read(out).map_err(fault)?),
        false => all_bf16(&memory.read(out).map_err(fault)?),
    };
    Ok((counters, values))
}

fn judge_product(matrix: &Matrix, x: &[u16], shape: Shape, logits: &[f64], out: &[f64]) -> Result<(), String> {
    let (rows, inputs, columns) = shape;
    let (mut truth, mut plain_f32, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for column in 0..columns {
        for row in 0..rows {
            let terms = || (0..inputs).map(|i| (matrix.values[row * inputs + i], from_bf16(x[column * inputs + i])));
            truth.push(terms().map(|(w, x)| w * x).sum::<f64>());
            let chain = terms().fold(0f32, |sum, (w, x)| (w as f32).mul_add(x as f32, sum));
            plain_f32.push(f64::from(chain));
            // Plainly in bf16: the weight dequantised to bf16, the sum in f32.
            plain.push(bf16(f64::from(terms().fold(0f32, |sum, (w, x)| (bf16(w) as f32).mul_add(x as f32, sum)))));
        }
    }
    judge(matrix.kernel, logits, &plain_f32, &truth)?;
    judge(matrix.kernel, out, &plain, &truth)
}

/// Inputs (within a tile of 32) of mma step `step`, pair `pair`, lane quarter `q`: two consecutive ones.
fn inputs_of(q: usize, step: usize, pair: usize) -> usize {
    8 * q + 4 * step + 2 * (pair / 2)
}

/// Row (within a tile of 16) of pair `pair` in lanes of group `g`.
fn row_of(g: usize, pair: usize) -> usize {
    g + 8 * (pair % 2)
}

fn bf16_matrix(rng: &mut Rng, rows: usize, inputs: usize) -> Matrix {
    let bits = rng.bf16s(rows * inputs);
    let values = bits.iter().map(|&b| from_bf16(b)).collect();
    Matrix { kernel: "gemv_bf16_bf16", values, packed: vec![pack_16_bits(&bits, rows, inputs)] }
}

fn f16_matrix(rng: &mut Rng, rows: usize, inputs: usize) -> Matrix {
    let bits: Vec<u16> = (0..rows * inputs).map(|_| to_f16(f64::from(rng.unit()))).collect();
    let values = bits.iter().map(|&b| from_f16(b)).collect();
    Matrix { kernel: "gemv_f16_bf16", values, packed: vec![pack_16_bits(&bits, rows, inputs)] }
}

fn pack_16_bits(bits: &[u16], rows: usize, inputs: usize) -> Vec<u8> {
    let at = |row: usize, input: usize| if row < rows && input < inputs { bits[row * inputs + input] } else { 0 };
    let mut packed = Vec::new();
    for (tile_row, tile) in tiles(rows, inputs, 32) {
        for step in 0..2 {
            for lane in 0..32 {
                for pair in 0..4 {
                    let (row, input) = (tile_row + row_of(lane / 4, pair), tile + inputs_of(lane % 4, step, pair));
                    packed.extend(at(row, input).to_le_bytes());
                    packed.extend(at(row, input + 1).to_le_bytes());
                }
            }
        }
    }
    packed
}

/// First row and first input of every tile of 16 x `width`.
fn tiles(rows: usize, inputs: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows.div_ceil(16)).flat_map(move |r| (0..inputs.div_ceil(width)).map(move |t| (16 * r, width * t)))
}

/// Random quants and one f16 scale per 32 inputs.
#[derive(Clone)]
struct Quantised {
    rows: usize,
    inputs: usize,
    quants: Vec<i32>,
    scales: Vec<u16>,
}

impl Quantised {
    fn random(rng: &mut Rng, rows: usize, inputs: usize, lowest: i32, count: usize) -> Self {
        let quants = (0..rows * inputs).map(|_| lowest + rng.below(count) as i32).collect();
        let scales = (0..rows * inputs / 32).map(|_| to_f16(f64::from(rng.unit()) * 0.1)).collect();
        Quantised { rows, inputs, quants, scales }
    }

    fn quant(&self, row: usize, input: usize) -> i32 {
        let inside = row < self.rows && input < self.inputs;
        if inside { self.quants[row * self.inputs + input] } else { 0 }
    }

    fn scale(&self, row: usize, input: usize) -> u16 {
        let inside = row < self.rows && input < self.inputs;
        if inside { self.scales[(row * self.inputs + input) / 32] } else { 0 }
    }

    fn values(&self) -> Vec<f64> {
        let scaled = |(i, quant): (usize, &i32)| f64::from(*quant) * from_f16(self.scales[i / 32]);
        self.quants.iter().enumerate().map(scaled).collect()
    }
}

fn q8_0_matrix(rng: &mut Rng, rows: usize, inputs: usize) -> Matrix {
    let matrix = Quantised::random(rng, rows, inputs, -128, 256);
    let (mut quants, mut scales) = (Vec::new(), Vec::new());
    for (tile_row, tile) in tiles(rows, inputs, 32) {
        for lane in 0..32 {
            for (step, pair) in (0..8).map(|i| (i / 4, i % 4)) {
                let (row, input) = (tile_row + row_of(lane / 4, pair), tile + inputs_of(lane % 4, step, pair));
                quants.extend([matrix.quant(row, input) as u8, matrix.quant(row, input + 1) as u8]);
            }
        }
        for g in 0..8 {
            scales.extend(matrix.scale(tile_row + g, tile).to_le_bytes());
            scales.extend(matrix.scale(tile_row + g + 8, tile).to_le_bytes());
        }
    }
    Matrix { kernel: "gemv_q8_0_bf16", values: matrix.values(), packed: vec![quants, scales] }
}

/// Four-bit quants, stored `bias` higher than their value; nothing where the matrix ends.
fn pack_nibbles(matrix: &Quantised, bias: i32) -> Vec<u8> {
    let mut packed = Vec::new();
    for (tile_row, tile) in tiles(matrix.rows, matrix.inputs, 64) {
        for lane in 0..32 {
            for (block, step) in (0..4).map(|i| (i / 2, i % 2)) {
                let mut word = 0u32;
                for pair in 0..4 {
                    let row = tile_row + row_of(lane / 4, pair);
                    let input = tile + 32 * block + inputs_of(lane % 4, step, pair);
                    let nibble = |input| (matrix.quant(row, input) + bias) as u32;
                    word |= nibble(input) << (4 * pair) | nibble(input + 1) << (4 * pair + 16);
                }
                packed.extend(word.to_le_bytes());
            }
        }
    }
    packed
}

/// Row and first input of every scale of a matrix of four-bit quants, in the order the kernels read them.
fn nibble_scales(matrix: &Quantised) -> impl Iterator<Item = (usize, usize)> {
    tiles(matrix.rows, matrix.inputs, 64)
        .flat_map(|(tile_row, tile)| (0..32).map(move |i| (tile_row + i / 4 + i % 2 * 8, tile + 32 * (i / 2 % 2))))
}

fn q4_0_matrix(rng: &mut Rng, rows: usize, inputs: usize) -> Matrix {
    let matrix = Quantised::random(rng, rows, inputs, -8, 16);
    let scales = nibble_scales(&matrix).flat_map(|(row, input)| matrix.scale(row, input).to_le_bytes()).collect();
    Matrix { kernel: "gemv_q4_0_bf16", values: matrix.values(), packed: vec![pack_nibbles(&matrix, 8), scales] }
}

fn q4_1_matrix(rng: &mut Rng, rows: usize, inputs: usize) -> Matrix {
    let matrix = Quantised::random(rng, rows, inputs, 0, 16);
    let minima = Quantised { scales: Quantised::random(rng, rows, inputs, 0, 1).scales, ..matrix.clone() };
    let pair = |(row, input)| [matrix.scale(row, input), minima.scale(row, input)];
    let scales = nibble_scales(&matrix).flat_map(pair).flat_map(u16::to_le_bytes).collect();
    let scaled = matrix.values().into_iter().enumerate();
    let values = scaled.map(|(i, value)| value + from_f16(minima.scales[i / 32])).collect();
    Matrix { kernel: "gemv_q4_1_bf16", values, packed: vec![pack_nibbles(&matrix, 0), scales] }
}
