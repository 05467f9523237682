//! The gemv kernels of every format: all sources, sinks and column counts at sizes that no tile divides.

use ptx_sim::{Arg, Buffer, Counters, Launch, Memory, Module};

use super::cases::{Covered, go};
use super::element::Fields;
use super::weights::{Kind, Weights};
use super::{Rng, bf16, from_bf16, judge, to_bf16};

/// Where the inputs come from (params.cuh).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Bf16,
    Norm,
    SwiGlu,
    /// f32 columns, of the precise kernels.
    F32,
}

/// What becomes of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    Bf16,
    F32,
    Add,
}

/// One product.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub inputs: usize,
    pub columns: usize,
    pub source: Source,
    pub sink: Sink,
    /// With a bias, gathered columns, and a gap between the columns of the output.
    pub extras: bool,
    /// Blocks along x; 0: one for each group of 16 rows.
    pub blocks: usize,
}

const EPS: f32 = 1e-5;
const GAP: usize = 5;

const fn shape(rows: usize, inputs: usize, columns: usize, source: Source, sink: Sink) -> Shape {
    Shape { rows, inputs, columns, source, sink, extras: false, blocks: 0 }
}

/// Inputs of 96 and 352 leave part of the last tile empty; those of 8 x 64 x 9 fill every slot of the ring.
const BLOCKS_OF_32: [Shape; 6] = [
    shape(40, 96, 1, Source::Bf16, Sink::Bf16),
    Shape { extras: true, ..shape(17, 352, 9, Source::Bf16, Sink::F32) },
    Shape { blocks: 2, ..shape(40, 96, 3, Source::Norm, Sink::Add) },
    Shape { extras: true, ..shape(9, 1056, 8, Source::SwiGlu, Sink::Bf16) },
    Shape { extras: true, ..shape(16, 640, 3, Source::Norm, Sink::F32) },
    Shape { extras: true, blocks: 1, ..shape(17, 4608, 2, Source::Bf16, Sink::Add) },
];

/// Of numbers that are not in blocks there may be any number: 203 and 77 are odd, 200 is whole fours.
const PLAIN: [Shape; 4] = [
    shape(17, 203, 3, Source::Bf16, Sink::Bf16),
    Shape { extras: true, ..shape(9, 77, 2, Source::Norm, Sink::Bf16) },
    shape(3, 77, 1, Source::SwiGlu, Sink::F32),
    shape(16, 200, 9, Source::Bf16, Sink::F32),
];

const BLOCKS_OF_256: [Shape; 6] = [
    shape(40, 256, 1, Source::Bf16, Sink::Bf16),
    Shape { extras: true, ..shape(17, 768, 9, Source::Bf16, Sink::F32) },
    Shape { blocks: 2, ..shape(40, 256, 3, Source::Norm, Sink::Add) },
    Shape { extras: true, ..shape(9, 1280, 8, Source::SwiGlu, Sink::Bf16) },
    Shape { extras: true, ..shape(3, 512, 2, Source::Norm, Sink::F32) },
    Shape { extras: true, blocks: 1, ..shape(17, 4352, 1, Source::Bf16, Sink::Add) },
];

/// The precise kernels' own: 96 and 352 cut the last tile.
const PRECISE: [Shape; 3] = [
    shape(40, 96, 1, Source::F32, Sink::F32),
    Shape { extras: true, ..shape(17, 352, 9, Source::F32, Sink::Add) },
    Shape { extras: true, ..shape(3, 1088, 2, Source::F32, Sink::Bf16) },
];

const PRECISE_256: [Shape; 3] = [
    shape(40, 256, 1, Source::F32, Sink::F32),
    Shape { extras: true, ..shape(17, 768, 9, Source::F32, Sink::Add) },
    Shape { extras: true, ..shape(3, 2304, 2, Source::F32, Sink::Bf16) },
];

const PRECISE_PLAIN: [Shape; 2] = [shape(17, 77, 3, Source::F32, Sink::F32), shape(16, 203, 8, Source::F32, Sink::F32)];

/// What a product was computed from.
struct Inputs {
    weights: Weights,
    /// As the kernel gets them: bf16 columns, the residual, or gate and up.
    given: Vec<f64>,
    gain: Vec<f32>,
    /// The columns, in f64 and in plain bf16.
    exact: Vec<f64>,
    plain: Vec<f64>,
    gather: Vec<u32>,
    bias: Vec<f32>,
    /// What the output holds before.
    before: Vec<f32>,
}

pub fn case(module: &Module, kind: Kind) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for (i, shape) in shapes(kind).iter().enumerate() {
        let inputs = inputs(&mut Rng(10 + i as u64), kind, shape);
        let got = multiply(&mut covered, module, shape, &inputs)?.1;
        judge_product(shape, &inputs, &got)?;
        // The last column alone: its bits do not depend on its company.
        let alone = inputs.column(shape, shape.columns - 1);
        let last = multiply(&mut covered, module, &Shape { columns: 1, ..*shape }, &alone)?.1;
        if last[..] != got[got.len() - shape.rows..] {
            return Err(format!("{}, {shape:?}: a column changes with its neighbours", kind.name()));
        }
    }
    Ok(covered)
}

fn shapes(kind: Kind) -> Vec<Shape> {
    match kind {
        _ if kind.is_k() => [&BLOCKS_OF_256[..], &PRECISE_256].concat(),
        _ if kind.is_float() => [&BLOCKS_OF_32[..], &PLAIN, &PRECISE, &PRECISE_PLAIN].concat(),
        _ => [&BLOCKS_OF_32[..], &PRECISE].concat(),
    }
}

/// The counters of one product in a format, and the bytes of its weights.
pub fn measure(
    module: &Module,
    kind: Kind,
    (rows, inputs, columns): (usize, usize, usize),
) -> Result<(Counters, u64), String> {
    let shape = shape(rows, inputs, columns, Source::Bf16, Sink::Bf16);
    let inputs = self::inputs(&mut Rng(30), kind, &shape);
    let (counters, _) = multiply(&mut Vec::new(), module, &shape, &inputs)?;
    Ok((counters, inputs.weights.tiles().len() as u64))
}

/// The kernel of a format for bf16 or f32 inputs.
pub fn kernel(kind: Kind, source: Source) -> &'static str {
    let names = match kind {
        Kind::Bf16 => ["gemv_bf16_bf16", "gemv_bf16_f32"],
        Kind::F16 => ["gemv_f16_bf16", "gemv_f16_f32"],
        Kind::F32 => ["gemv_f32_bf16", "gemv_f32_f32"],
        Kind::Q8_0 => ["gemv_q8_0_bf16", "gemv_q8_0_f32"],
        Kind::Q4_0 => ["gemv_q4_0_bf16", "gemv_q4_0_f32"],
        Kind::Q4_1 => ["gemv_q4_1_bf16", "gemv_q4_1_f32"],
        Kind::Q4K => ["gemv_q4_k_bf16", "gemv_q4_k_f32"],
        Kind::Q5K => ["gemv_q5_k_bf16", "gemv_q5_k_f32"],
        Kind::Q6K => ["gemv_q6_k_bf16", "gemv_q6_k_f32"],
        Kind::Grouped => ["gemv_grouped_bf16", "gemv_grouped_f32"],
    };
    names[usize::from(source == Source::F32)]
}

fn inputs(rng: &mut Rng, kind: Kind, shape: &Shape) -> Inputs {
    let weights = Weights::random(rng, kind, shape.rows, shape.inputs);
    // One row of the input more than there are columns: gathered ones leave it out.
    let rows = shape.columns + usize::from(shape.extras);
    let width = if shape.source == Source::SwiGlu { 2 } else { 1 } * shape.inputs;
    let given: Vec<f64> = (0..rows * width).map(|_| given(rng, shape.source)).collect();
    let gain = rng.units(shape.inputs);
    let gather: Vec<u32> = (0..shape.columns as u32).map(|c| (c + 1) * u32::from(shape.extras)).rev().collect();
    let at = |column: usize| if shape.extras { gather[column] as usize } else { column };
    let columns: Vec<_> =
        (0..shape.columns).map(|c| column(shape.source, &given[at(c) * width..][..width], &gain)).collect();
    Inputs {
        weights,
        exact: columns.iter().flat_map(|(exact, _)| exact.clone()).collect(),
        plain: columns.iter().flat_map(|(_, plain)| plain.clone()).collect(),
        bias: rng.units(shape.rows),
        before: rng.units(shape.columns * stride(shape)),
        given,
        gain,
        gather,
    }
}

fn stride(shape: &Shape) -> usize {
    shape.rows + if shape.extras { GAP } else { 0 }
}

fn given(rng: &mut Rng, source: Source) -> f64 {
    let value = f64::from(rng.unit());
    match source {
        Source::Bf16 => bf16(value),
        Source::F32 => value,
        // A mean square near eps.
        Source::Norm => f64::from(rng.unit() * 0.01),
        Source::SwiGlu => bf16(4.0 * value),
    }
}

/// A column of the product from a row of the input: in f64, and computed plainly in bf16.
fn column(source: Source, row: &[f64], gain: &[f32]) -> (Vec<f64>, Vec<f64>) {
    match source {
        Source::Bf16 | Source::F32 => (row.to_vec(), row.to_vec()),
        Source::Norm => {
            let factor = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + f64::from(EPS)).sqrt();
            let scaled = row
                .iter()
                .zip(gain)
                .map(|(v, &g)| (v * factor * f64::from(g), bf16(bf16(v * factor) * bf16(f64::from(g)))));
            scaled.unzip()
        }
        Source::SwiGlu => {
            let (gates, ups) = row.split_at(row.len() / 2);
            let silu = |g: f64| g / (1.0 + (-g).exp());
            gates.iter().zip(ups).map(|(&g, u)| (silu(g) * u, bf16(bf16(silu(g)) * u))).unzip()
        }
    }
}

impl Inputs {
    /// The same with one column only.
    fn column(&self, shape: &Shape, column: usize) -> Inputs {
        let width = self.given.len() / (shape.columns + usize::from(shape.extras));
        let row = |values: &[f64], n: usize, width: usize| values[n * width..][..width].to_vec();
        let weights = Weights { raw: self.weights.raw.clone(), values: self.weights.values.clone(), ..self.weights };
        Inputs {
            weights,
            given: if shape.extras { self.given.clone() } else { row(&self.given, column, width) },
            gain: self.gain.clone(),
            exact: row(&self.exact, column, shape.inputs),
            plain: row(&self.plain, column, shape.inputs),
            gather: vec![self.gather[column]],
            bias: self.bias.clone(),
            before: self.before[column * stride(shape)..][..stride(shape)].to_vec(),
        }
    }
}

/// The outputs, [columns, rows].
fn multiply(
    covered: &mut Covered,
    module: &Module,
    shape: &Shape,
    inputs: &Inputs,
) -> Result<(Counters, Vec<f64>), String> {
    let mut memory = Memory::new();
    let (arg, out) = linear(&mut memory, shape, inputs);
    let (x, y) = (shape.rows.div_ceil(16), shape.columns.div_ceil(8));
    let x = if shape.blocks == 0 { x } else { shape.blocks };
    let staged = match shape.source {
        Source::Bf16 => !shape.inputs.is_multiple_of(64),
        Source::Norm | Source::SwiGlu => true,
        Source::F32 => false,
    };
    let gap = inputs.weights.kind.group();
    let shared = if staged { shape.columns.min(8) * (shape.inputs.next_multiple_of(64) + gap) * 2 } else { 0 };
    let launch = Launch::new(1, 256).grid(x as u32, y as u32).shared(shared);
    let counters = go(covered, module, kernel(inputs.weights.kind, shape.source), &mut memory, launch, &[arg])?;
    Ok((counters, outputs(&memory, shape, inputs, out)?))
}

/// The kernel's struct, and where its output is.
fn linear(memory: &mut Memory, shape: &Shape, inputs: &Inputs) -> (Arg, Buffer) {
    let weights = memory.upload(&inputs.weights.tiles());
    let input = match shape.source {
        Source::Norm | Source::F32 => memory.upload(&inputs.given.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        _ => memory.upload(&inputs.given.iter().map(|&v| to_bf16(v)).collect::<Vec<_>>()),
    };
    let gain = memory.upload(&inputs.gain);
    let out = match shape.sink {
        Sink::Add => memory.upload(&inputs.before),
        Sink::F32 => memory.alloc(shape.columns * stride(shape) * 4),
        Sink::Bf16 => memory.alloc(shape.columns * stride(shape) * 2),
    };
    let fields = Fields::default().buffers(&[weights, input]);
    let fields = if shape.extras { fields.buffers(&[memory.upload(&inputs.gather)]) } else { fields.null() };
    let fields = if shape.source == Source::Norm { fields.buffers(&[gain]) } else { fields.null() };
    let fields = if shape.extras { fields.buffers(&[memory.upload(&inputs.bias)]) } else { fields.null() };
    let fields = fields.buffers(&[out]).words(&[shape.rows, shape.inputs, shape.columns, stride(shape)]);
    let fields = fields.words(&[shape.source as usize, shape.sink as usize]).float(EPS).words(&[0]);
    (fields.arg(), out)
}

/// Reads [columns, rows] from an output whose gaps must be as they were.
fn outputs(memory: &Memory, shape: &Shape, inputs: &Inputs, out: Buffer) -> Result<Vec<f64>, String> {
    let untouched = |i: usize, value: Option<f32>| match shape.sink {
        Sink::Add => value == Some(inputs.before[i]),
        _ => value.is_none(),
    };
    let values: Vec<Option<f32>> = match shape.sink {
        Sink::Bf16 => memory.read_partly::<u16>(out).iter().map(|v| v.map(|v| from_bf16(v) as f32)).collect(),
        _ => memory.read_partly(out),
    };
    let mut got = Vec::new();
    for (i, value) in values.into_iter().enumerate() {
        match value {
            _ if i % stride(shape) >= shape.rows => {
                if !untouched(i, value) {
                    return Err(format!("{shape:?}: wrote between columns"));
                }
            }
            Some(value) => got.push(f64::from(value)),
            None => return Err(format!("{shape:?}: output {i} was not written")),
        }
    }
    Ok(got)
}

fn judge_product(shape: &Shape, inputs: &Inputs, got: &[f64]) -> Result<(), String> {
    let (mut truth, mut plain) = (Vec::new(), Vec::new());
    // Weights and inputs taken as they are: then only the sum is inexact.
    let exact = match shape.source {
        Source::Bf16 => inputs.weights.kind != Kind::F32,
        source => source == Source::F32,
    };
    let narrow = |w: f32| if exact && shape.sink != Sink::Bf16 { w } else { bf16(f64::from(w)) as f32 };
    for column in 0..shape.columns {
        for row in 0..shape.rows {
            let weights = &inputs.weights.values[row * shape.inputs..][..shape.inputs];
            let columns = [&inputs.exact, &inputs.plain].map(|x| &x[column * shape.inputs..][..shape.inputs]);
            let bias = if shape.extras { inputs.bias[row] } else { 0.0 };
            let before = if shape.sink == Sink::Add { inputs.before[column * stride(shape) + row] } else { 0.0 };
            let sum: f64 = weights.iter().zip(columns[0]).map(|(&w, x)| f64::from(w) * x).sum();
            truth.push(sum + f64::from(bias) + f64::from(before));
            let chain = weights.iter().zip(columns[1]).fold(0f32, |sum, (&w, &x)| narrow(w).mul_add(x as f32, sum));
            let value = f64::from(before + (chain + bias));
            plain.push(if shape.sink == Sink::Bf16 { bf16(value) } else { value });
        }
    }
    judge(&format!("{}, {shape:?}", inputs.weights.kind.name()), got, &plain, &truth)
}
