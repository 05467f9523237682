//! The gemm kernels: against f64, and bit for bit against gemv, at sizes that no tile divides.

use ptx_sim::{Counters, Launch, Memory, Module};

use super::cases::{Covered, go};
use super::element::{Element, Fields};
use super::weights::{Kind, Weights};
use super::{Rng, bf16, from_bf16, judge, parse, ptx};

/// Whether a format has minima.
pub fn has_min(kind: Kind) -> bool {
    matches!(kind, Kind::Q4_1 | Kind::Q4K | Kind::Q5K | Kind::Grouped)
}

/// Rows and columns of a block.
#[derive(Clone, Copy, PartialEq)]
pub enum Shape {
    Wide,
    Narrow,
}

impl Shape {
    fn side(self) -> usize {
        if self == Shape::Wide { 128 } else { 64 }
    }

    /// Dynamic shared memory: `Shape::SHARED` in gemm.cuh.
    pub fn shared(self, kind: Kind) -> usize {
        let (side, most) = (self.side(), if self == Shape::Wide { 4 } else { 6 });
        let (weights, inputs) = (side / 16 * kind.tile_bytes(), side * 128);
        let sums = if has_min(kind) { 2 * (64 / kind.group()) * side * 4 } else { 0 };
        let room = 99 * 1024 - sums - side * 8;
        let large = kind.is_k();
        let fit = if large { (room - most / 2 * weights) / inputs } else { room / (weights + inputs) };
        let stages = fit.min(most);
        let ring = stages * inputs + if large { most / 2 } else { stages } * weights + sums + side * 8;
        ring.max(side * (side + 4) * 4)
    }
}

/// What one product is like.
#[derive(Clone, Copy)]
pub struct Setting {
    pub shape: Shape,
    pub rows: usize,
    pub inputs: usize,
    pub columns: usize,
    pub sink: Sink,
    pub bias: bool,
    pub gather: bool,
}

/// `Sink` of params.cuh.
#[derive(Clone, Copy, PartialEq)]
pub enum Sink {
    Bf16 = 0,
    F32 = 1,
    Add = 2,
}

impl Sink {
    fn element(self) -> Element {
        if self == Sink::Bf16 { Element::Bf16 } else { Element::F32 }
    }
}

/// Outputs of other segments of the same fused weight.
const OTHER_ROWS: usize = 3;

/// One product: the buffers of a Linear.
pub struct Product {
    pub setting: Setting,
    weights: Weights,
    pub x: Vec<u16>,
    bias: Vec<f32>,
    pub gather: Vec<u32>,
    residual: Vec<f32>,
}

impl Product {
    pub fn random(rng: &mut Rng, kind: Kind, setting: Setting) -> Self {
        let Setting { rows, inputs, columns, .. } = setting;
        Product {
            setting,
            weights: Weights::random(rng, kind, rows, inputs),
            x: rng.bf16s((columns + 1) * inputs),
            bias: rng.units(rows),
            gather: (0..columns as u32).map(|c| columns as u32 - c).collect(),
            residual: rng.units((rows + OTHER_ROWS) * columns),
        }
    }

    /// Runs a kernel; the bytes of `out`, where they were written.
    pub fn run(
        &self,
        covered: &mut Covered,
        module: &Module,
        kernel: &'static str,
        launch: Launch,
    ) -> Result<Vec<Option<u8>>, String> {
        let x: Vec<u8> = self.x.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        self.run_with(covered, module, kernel, launch, &x)
    }

    /// The same with other bytes for the input.
    pub fn run_with(
        &self,
        covered: &mut Covered,
        module: &Module,
        kernel: &'static str,
        launch: Launch,
        x: &[u8],
    ) -> Result<Vec<Option<u8>>, String> {
        Ok(self.counted(covered, module, kernel, launch, x)?.1)
    }

    fn counted(
        &self,
        covered: &mut Covered,
        module: &Module,
        kernel: &'static str,
        launch: Launch,
        x: &[u8],
    ) -> Result<(Counters, Vec<Option<u8>>), String> {
        let Setting { rows, inputs, columns, sink, bias, gather, .. } = self.setting;
        let mut memory = Memory::new();
        let stride = rows + OTHER_ROWS;
        // The last column ends with the segment's rows.
        let elements = columns * stride - OTHER_ROWS;
        let out = match sink {
            Sink::Add => memory.upload(&self.residual[..elements]),
            Sink::F32 => memory.alloc(elements * 4),
            Sink::Bf16 => memory.alloc(elements * 2),
        };
        let fields = Fields::default().buffers(&[memory.upload(&self.weights.tiles()), memory.upload(x)]);
        let fields = if gather { fields.buffers(&[memory.upload(&self.gather)]) } else { fields.null() };
        let fields = fields.null();
        let fields = if bias { fields.buffers(&[memory.upload(&self.bias)]) } else { fields.null() };
        let fields = fields.buffers(&[out]).words(&[rows, inputs, columns, stride, 0, sink as usize]);
        let args = [fields.float(0.0).words(&[0]).arg()];
        let counters = go(covered, module, kernel, &mut memory, launch, &args)?;
        Ok((counters, memory.read_partly(out)))
    }

    fn gemm_launch(&self) -> Launch {
        let Setting { rows, columns, shape, .. } = self.setting;
        let blocks = rows.div_ceil(shape.side()) * columns.div_ceil(shape.side());
        Launch::new(blocks as u32, 256).shared(shape.shared(self.weights.kind))
    }

    pub fn gemv_launch(&self) -> Launch {
        let Setting { rows, inputs, columns, .. } = self.setting;
        let staged = columns.min(8) * (inputs.next_multiple_of(64) + self.weights.kind.group()) * 2;
        Launch::new(1, 256).grid(rows.div_ceil(16) as u32, columns.div_ceil(8) as u32).shared(staged)
    }

    pub fn kind(&self) -> Kind {
        self.weights.kind
    }

    /// Whether the two kernels give the same bits everywhere.
    pub fn compare(&self, got: &[Option<u8>], expected: &[Option<u8>]) -> Result<(), String> {
        let bytes = self.setting.sink.element().bytes();
        let stride = self.setting.rows + OTHER_ROWS;
        let differs = got.chunks(bytes).zip(expected.chunks(bytes)).position(|(a, b)| a != b);
        let Some(at) = differs else { return Ok(()) };
        let (row, column) = (at % stride, at / stride);
        Err(format!("{}: row {row} of column {column} has other bits than gemv's", self.weights.kind.name()))
    }

    /// Against f64, and against the weights rounded to bf16 with sums in f32.
    pub fn judge(&self, out: &[Option<u8>]) -> Result<(), String> {
        let Setting { rows, inputs, columns, sink, .. } = self.setting;
        let (element, stride) = (sink.element(), rows + OTHER_ROWS);
        let (mut got, mut plain, mut truth) = (Vec::new(), Vec::new(), Vec::new());
        let both = |&w: &f32| (f64::from(w), bf16(f64::from(w)) as f32);
        let values: Vec<(f64, f32)> = self.weights.values.iter().map(both).collect();
        for column in 0..columns {
            let x: Vec<f64> = (0..inputs).map(|i| self.input(column, i)).collect();
            for (row, weights) in values.chunks(inputs).enumerate() {
                let at = column * stride + row;
                let bytes: Option<Vec<u8>> = out[at * element.bytes()..][..element.bytes()].iter().copied().collect();
                let missing = || format!("{}: row {row} of column {column} was not written", self.weights.kind.name());
                got.push(element.decode(&bytes.ok_or_else(missing)?));
                let before = if sink == Sink::Add { f64::from(self.residual[at]) } else { 0.0 };
                let before = before + if self.setting.bias { f64::from(self.bias[row]) } else { 0.0 };
                truth.push(before + weights.iter().zip(&x).map(|((w, _), x)| w * x).sum::<f64>());
                let chain = |sum: f32, ((_, w), x): (&(f64, f32), &f64)| w.mul_add(*x as f32, sum);
                let sum = before + f64::from(weights.iter().zip(&x).fold(0f32, chain));
                plain.push(f64::from(element.round(sum as f32)));
            }
        }
        judge(self.weights.kind.name(), &got, &plain, &truth)
    }

    /// Input `i` of a column.
    pub fn input(&self, column: usize, i: usize) -> f64 {
        let row = if self.setting.gather { self.gather[column] as usize } else { column };
        from_bf16(self.x[row * self.setting.inputs + i])
    }
}

/// Products that between them reach every line: several segments, odd tiles, rows and columns past every edge, unaligned
/// inputs, more column tiles than a band.
fn settings(kind: Kind) -> Vec<Setting> {
    let tile = kind.tile_inputs();
    // Formats with scales have whole groups, and Llama's K-quants whole tiles.
    let odd = if tile > 64 {
        0
    } else if !kind.is_float() {
        32
    } else {
        24
    };
    let of = |shape, (rows, inputs, columns), sink| Setting {
        shape,
        rows,
        inputs,
        columns,
        sink,
        bias: false,
        gather: false,
    };
    let mut settings = vec![
        Setting { bias: true, ..of(Shape::Narrow, (37, 9 * tile - odd, 27), Sink::Bf16) },
        Setting { gather: true, ..of(Shape::Narrow, (69, 3 * tile - odd, 70), Sink::Add) },
        of(Shape::Narrow, (37, tile - odd, 33), Sink::F32),
        Setting { bias: true, ..of(Shape::Wide, (133, 3 * tile - odd, 130), Sink::F32) },
        Setting { gather: true, ..of(Shape::Wide, (101, 9 * tile - odd, 27), Sink::Add) },
        of(Shape::Wide, (101, tile - odd, 33), Sink::Bf16),
    ];
    if kind.is_float() {
        settings.push(of(Shape::Narrow, (21, 6 * tile - 3, 9), Sink::F32));
        settings.push(of(Shape::Wide, (21, 6 * tile - 3, 9), Sink::F32));
    }
    if kind == Kind::Bf16 {
        settings.push(of(Shape::Narrow, (69, tile, 16 * 64 + 9), Sink::F32));
    }
    settings
}

/// A kernel's name for every kind.
#[macro_export]
macro_rules! kernels {
    ($before:literal, $after:literal) => {
        [
            concat!($before, "bf16", $after),
            concat!($before, "f16", $after),
            concat!($before, "f32", $after),
            concat!($before, "q8_0", $after),
            concat!($before, "q4_0", $after),
            concat!($before, "q4_1", $after),
            concat!($before, "q4_k", $after),
            concat!($before, "q5_k", $after),
            concat!($before, "q6_k", $after),
            concat!($before, "grouped", $after),
        ]
    };
}

const WIDE: [&str; 10] = kernels!("gemm_", "_bf16");
const NARROW: [&str; 10] = kernels!("gemm_", "_bf16_narrow");
/// The kernels whose bits are the measure.
pub const GEMV: [&str; 10] = kernels!("gemv_", "_bf16");

/// The counters of one block of the wide shape, without edges.
pub fn measure(module: &Module, kind: Kind, inputs: usize) -> Result<Counters, String> {
    let (shape, sink) = (Shape::Wide, Sink::F32);
    let setting = Setting { shape, rows: 128, inputs, columns: 128, sink, bias: false, gather: false };
    let product = Product::random(&mut Rng(80), kind, setting);
    let x: Vec<u8> = product.x.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let counted = product.counted(&mut Vec::new(), module, WIDE[kind as usize], product.gemm_launch(), &x)?;
    Ok(counted.0)
}

pub fn case(module: &Module, kind: Kind) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(50));
    let gemv = parse(&ptx(&format!("gemv_{}", kind.name())))?;
    for setting in settings(kind) {
        let product = Product::random(&mut rng, kind, setting);
        let names = if setting.shape == Shape::Wide { WIDE } else { NARROW };
        let got = product.run(&mut covered, module, names[kind as usize], product.gemm_launch())?;
        let expected = product.run(&mut Vec::new(), &gemv, GEMV[kind as usize], product.gemv_launch())?;
        product.compare(&got, &expected)?;
        product.judge(&got)?;
    }
    Ok(covered)
}
