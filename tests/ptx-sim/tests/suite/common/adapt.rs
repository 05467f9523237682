//! The kernels of adapters: what one computes of a row, beside others, in both widths.

use ptx_sim::{Buffer, Launch, Memory, Module};

use super::bugs::{Bug, bug};
use super::cases::{Covered, go};
use super::element::{Element, Fields};
use super::{Rng, bf16, judge};

/// A part: its first row of the weight, its rows, its rank.
type Part = (usize, usize, usize);
/// A tile: its adapter, its first row, its rows.
type Tile = (u32, usize, usize);

const NOBODY: u32 = u32::MAX;
/// Adapters that a launch knows.
const ADAPTERS: usize = 16;

/// One adapter: `a [ranks, inputs]`, and of each part `b [rows, rank]`.
struct Adapter {
    parts: Vec<Part>,
    a: Vec<f32>,
    b: Vec<Vec<f32>>,
}

/// Shapes of a launch.
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    adapters: Vec<Vec<Part>>,
    /// Number of the first adapter.
    first: u32,
    tiles: Vec<Tile>,
}

impl Adapter {
    fn new(rng: &mut Rng, parts: &[Part], inputs: usize) -> Self {
        let ranks: usize = parts.iter().map(|part| part.2).sum();
        let b = parts.iter().map(|&(_, rows, rank)| rng.units(rows * rank)).collect();
        Adapter { parts: parts.to_vec(), a: rng.units(ranks * inputs), b }
    }

    fn adds_to(&self, output: usize) -> bool {
        self.parts.iter().any(|&(first, rows, _)| (first..first + rows).contains(&output))
    }

    fn ranks(&self) -> usize {
        self.parts.iter().map(|part| part.2).sum()
    }

    /// Its head, with the addresses of its matrices.
    fn upload(&self, memory: &mut Memory) -> Buffer {
        let mut head = Fields::default().buffers(&[memory.upload(&self.a)]).words(&[self.ranks(), self.parts.len()]);
        let mut low = 0;
        for (&(first, rows, rank), b) in self.parts.iter().zip(&self.b) {
            let turned: Vec<f32> = (0..rank * rows).map(|i| b[i % rows * rank + i / rows]).collect();
            head = head.buffers(&[memory.upload(&turned)]).words(&[first, rows, rank, low]);
            low += rank;
        }
        memory.upload(&head.0)
    }

    /// `b (a x)`, added up as `dot` does, at the weight's rows.
    fn product(&self, x: &[f64], outputs: usize, dot: fn(&[f32], &[f64]) -> f64) -> Vec<f64> {
        let low: Vec<f64> = self.a.chunks(x.len()).map(|a| dot(a, x)).collect();
        let (mut product, mut at) = (vec![0.0; outputs], 0);
        for (&(first, _, rank), b) in self.parts.iter().zip(&self.b) {
            for (out, b) in product[first..].iter_mut().zip(b.chunks(rank)) {
                *out = dot(b, &low[at..at + rank]);
            }
            at += rank;
        }
        product
    }
}

fn exact(a: &[f32], x: &[f64]) -> f64 {
    a.iter().zip(x).map(|(&a, x)| f64::from(a) * x).sum()
}

/// One chain in f32.
fn plain(a: &[f32], x: &[f64]) -> f64 {
    f64::from(a.iter().zip(x).fold(0f32, |sum, (&a, &x)| a.mul_add(x as f32, sum)))
}

fn round(element: Element, x: f64) -> f64 {
    if element == Element::F32 { f64::from(x as f32) } else { bf16(x) }
}

/// Shrink and expand for an `x` and an `out` of these elements.
fn kernels(wide: bool, x: Element, out: Element) -> (&'static str, &'static str) {
    let of = |element, [bf16, f32]: [&'static str; 2]| if element == Element::F32 { f32 } else { bf16 };
    match wide {
        false => (of(x, ["adapt_shrink_bf16", "adapt_shrink_f32"]), of(out, ["adapt_expand_bf16", "adapt_expand_f32"])),
        true => (
            of(x, ["adapt_shrink_wide_bf16", "adapt_shrink_wide_f32"]),
            of(out, ["adapt_expand_wide_bf16", "adapt_expand_wide_f32"]),
        ),
    }
}

pub fn case(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    // A first weight in small: parts with a gap between them, and rows that nothing is added to; inputs of more than a thread
    // has on its way at once, of whole groups and not.
    let parts = || vec![vec![(0, 130, 3), (140, 29, 6)], vec![], vec![(3, 1, 1)]];
    for inputs in [4108, 50] {
        let case = Case {
            rows: 12,
            inputs,
            outputs: 170,
            adapters: parts(),
            first: 32,
            // The second has nothing here, the last two are of other launches.
            tiles: vec![(32, 3, 8), (34, 11, 1), (NOBODY, 0, 0), (33, 0, 1), (48, 1, 1), (31, 2, 1)],
        };
        for [x, out] in [[Element::Bf16; 2], [Element::Bf16, Element::F32], [Element::F32; 2]] {
            case.play(&mut covered, module, [x, out])?;
        }
    }
    Ok(covered)
}

impl Case {
    /// Both widths: right, and the same.
    fn play(&self, covered: &mut Covered, module: &Module, elements: [Element; 2]) -> Result<(), String> {
        let wide = self.run(covered, module, elements, true)?;
        let lone = self.run(covered, module, elements, false)?;
        if wide == lone { Ok(()) } else { Err("adapt: rows in wide tiles have other bits".to_owned()) }
    }

    /// Tiles of one row each, or as they are.
    fn tiles(&self, wide: bool) -> Vec<Tile> {
        let cut = |&(adapter, first, rows): &Tile| {
            let lone = (first..first + rows.max(1)).map(move |row| (adapter, row, rows.min(1)));
            if wide { vec![(adapter, first, rows)] } else { lone.collect() }
        };
        self.tiles.iter().flat_map(cut).collect()
    }

    fn run(
        &self,
        covered: &mut Covered,
        module: &Module,
        [x_is, out_is]: [Element; 2],
        wide: bool,
    ) -> Result<Vec<f64>, String> {
        let (mut rng, mut memory) = (Rng(6), Memory::new());
        let adapters: Vec<_> = self.adapters.iter().map(|parts| Adapter::new(&mut rng, parts, self.inputs)).collect();
        let mut units =
            |n, element| -> Vec<f64> { rng.units(n).into_iter().map(|v| round(element, f64::from(v))).collect() };
        let (x, before) = (units(self.rows * self.inputs, x_is), units(self.rows * self.outputs, out_is));
        let mut put = |element: Element, values: &[f64]| {
            memory.upload(&element.encode_all(&values.iter().map(|&v| v as f32).collect::<Vec<_>>()))
        };
        let (x_at, out) = (put(x_is, &x), put(out_is, &before));
        let ranks = adapters.iter().map(Adapter::ranks).max().unwrap_or(0);
        let (room, tiles) = (ranks + 2, self.tiles(wide));
        let low = memory.alloc(self.rows * room * 4);
        let words: Vec<u32> = tiles.iter().flat_map(|&(who, first, rows)| [who, first as u32, rows as u32]).collect();
        let mut fields = Fields::default().buffers(&[out, x_at, low, memory.upload(&words)]);
        for i in 0..ADAPTERS {
            let head = adapters.get(i).filter(|adapter| !adapter.parts.is_empty());
            fields = match head.map(|adapter| adapter.upload(&mut memory)) {
                Some(head) => fields.buffers(&[head]),
                None => fields.null(),
            };
        }
        let fields = fields.words(&[self.first as usize, self.outputs, self.inputs, room]);
        let (shrink, expand) = kernels(wide, x_is, out_is);
        let ranks = ranks.div_ceil(if wide { 4 } else { 1 });
        for (kernel, blocks) in [(shrink, ranks), (expand, self.outputs.div_ceil(128))] {
            let shape = Launch::new(1, 128).grid(blocks as u32, tiles.len() as u32);
            go(covered, module, kernel, &mut memory, shape, &[Fields(fields.0.clone()).arg()])?;
        }
        let got = out_is.decode_all(&memory.read::<u8>(out).map_err(|fault| fault.to_string())?);
        self.judge(expand, &adapters, [&x, &before], &got, out_is)?;
        Ok(got)
    }

    /// Rows with an adapter are near f64, and the others, and what is between the parts, as they were.
    fn judge(
        &self,
        kernel: &str,
        adapters: &[Adapter],
        [x, before]: [&[f64]; 2],
        got: &[f64],
        out: Element,
    ) -> Result<(), String> {
        let mut whose = vec![None; self.rows];
        for &(who, first, rows) in &self.tiles {
            whose[first..first + rows].fill(adapters.get(who.wrapping_sub(self.first) as usize));
        }
        let (mut truth, mut plainly) = (Vec::new(), Vec::new());
        for (row, adapter) in whose.iter().enumerate() {
            let x = &x[row * self.inputs..][..self.inputs];
            let before = &before[row * self.outputs..][..self.outputs];
            let sums = |dot| adapter.map_or(vec![0.0; self.outputs], |adapter| adapter.product(x, self.outputs, dot));
            truth.extend(before.iter().zip(sums(exact)).map(|(out, sum)| out + sum));
            plainly.extend(before.iter().zip(sums(plain)).map(|(was, sum)| round(out, was + sum)));
            let got = &got[row * self.outputs..][..self.outputs];
            let kept = |output: usize| !adapter.is_some_and(|adapter| adapter.adds_to(output));
            if (0..self.outputs).any(|i| kept(i) && got[i] != before[i]) {
                return Err(format!("{kernel}: row {row} is changed where nothing is added"));
            }
        }
        judge(kernel, got, &plainly, &truth)
    }
}

/// Ways to break these kernels: see `planted.rs`.
#[rustfmt::skip]
pub const BUGS: &[Bug] = &[
    bug("barrier dropped before the sum over warps", "adapt", ("bar.sync", 0), "", ""),
    bug("barrier dropped before the sum over warps, wide tiles", "adapt", ("bar.sync", 2), "", ""),
    bug("an adapter past those of the launch", "adapt", ("setp.gt.u32 \t%p4, %r2, 15", 0), "15", "16"),
    bug("a rank too many", "adapt", ("setp.le.u32 \t%p5", 0), "setp.le", "setp.lt"),
    bug("groups past the end of a row", "adapt", ("setp.lt.u32 \t%p11, %r65", 0), "setp.lt", "setp.ne"),
    bug("a part one output too long", "adapt", ("setp.lt.u32 \t%p6, %r44", 0), "setp.lt", "setp.le"),
    bug("all parts from the first rank", "adapt", ("cvt.u64.u32 \t%rd38, %r64", 0), "cvt.u64.u32 \t%rd38, %r64", "mov.u64 %rd38, 0"),
    bug("what was there is written over", "adapt", ("add.rn.f32 \t%f25, %f30, %f24", 0), "%f24", "0f00000000"),
    bug("last row of a wide tile left out", "adapt", ("setp.lt.u32 \t%p33, %r1, 8", 0), "8;", "9;"),
    bug("a row too many of a wide tile", "adapt", ("setp.lt.u32 \t%p33, %r1, 8", 1), "8;", "1;"),
];
