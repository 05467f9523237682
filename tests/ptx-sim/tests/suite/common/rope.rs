//! RoPE and the paged write of k and v, exactly: the angles against f64, then every turned and stored element against the
//! same f32 operations done here, rounded once to its format. Nothing else may be written.

use ptx_sim::{Buffer, Launch, Memory, Module};

use super::Rng;
use super::cases::{Covered, go};
use super::element::{Element, Fields};

struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    padded: usize,
    half: usize,
    interleaved: bool,
    scale: f32,
}

const BLOCK: usize = 16;
const BLOCKS: usize = 3;
const POSITIONS: [u32; 4] = [0, 131_071, 7, 1025];
const SLOTS: [u32; 4] = [40, 0, 15, 16];
/// What q is multiplied by where attention has a temperature, and where it has none.
const FACTORS: [f32; 4] = [1.0, 1.375, 0.7, -0.002];
const ONES: [f32; 4] = [1.0; 4];

#[rustfmt::skip]
const SHAPES: [Shape; 4] = [
    Shape { heads: 3, kv_heads: 1, head_dim: 20, padded: 64, half: 7, interleaved: false, scale: 1.0 },
    Shape { heads: 2, kv_heads: 2, head_dim: 64, padded: 64, half: 32, interleaved: true, scale: 1.0 },
    Shape { heads: 4, kv_heads: 2, head_dim: 80, padded: 128, half: 20, interleaved: true, scale: 1.19 },
    Shape { heads: 1, kv_heads: 1, head_dim: 130, padded: 256, half: 65, interleaved: false, scale: 0.5 },
];

#[rustfmt::skip]
const KERNELS: [(&str, Element, Element); 6] = [
    ("rope_kv_bf16_bf16", Element::Bf16, Element::Bf16),
    ("rope_kv_bf16_e4m3", Element::Bf16, Element::E4m3),
    ("rope_kv_bf16_f32", Element::Bf16, Element::F32),
    ("rope_kv_f32_bf16", Element::F32, Element::Bf16),
    ("rope_kv_f32_e4m3", Element::F32, Element::E4m3),
    ("rope_kv_f32_f32", Element::F32, Element::F32),
];

/// Where e4m3 changes its mind: ties, the largest number and what exceeds it, the smallest, zeros.
const HARD: [f32; 14] = [
    448.0,
    464.0,
    1e30,
    -500.0,
    0.015_625,
    0.015_2,
    0.000_976_562_5,
    0.000_976_6,
    0.002_929_687_5,
    17.0,
    19.0,
    0.0,
    -0.0,
    f32::NAN,
];

pub fn case(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for shape in &SHAPES {
        for (kernel, act, kv) in KERNELS {
            for factors in [&ONES, &FACTORS] {
                run(&mut covered, module, shape, (kernel, act, kv), factors)?;
            }
        }
    }
    Ok(covered)
}

impl Shape {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Values of widely different sizes, and the hard ones among v's. NaN where it has but one form.
    fn qkv(&self, rng: &mut Rng, act: Element, kv: Element) -> Vec<f32> {
        let mut sized = || rng.unit() * 4f32.powi(rng.below(8) as i32 - 5);
        let mut qkv: Vec<f32> = (0..POSITIONS.len() * self.width()).map(|_| sized()).collect();
        let v = (self.heads + self.kv_heads) * self.head_dim;
        qkv[v..v + HARD.len()].copy_from_slice(&HARD);
        qkv[v - 1] = f32::NAN;
        let plain = |value: f32| if value.is_nan() && kv != Element::E4m3 { 3.0 } else { value };
        qkv.iter().map(|&value| act.round(plain(value))).collect()
    }

    /// A head after the turn, in f32.
    fn turned(&self, head: &[f32], angles: &[f32]) -> Vec<f32> {
        let mut out = head.to_vec();
        for i in 0..self.half {
            let (x, y) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.half) };
            let (a, b, cos, sin) = (head[x], head[y], angles[2 * i], angles[2 * i + 1]);
            out[x] = a.mul_add(cos, -(b * sin));
            out[y] = b.mul_add(cos, a * sin);
        }
        out
    }
}

fn run(
    covered: &mut Covered,
    module: &Module,
    shape: &Shape,
    (kernel, act, kv): (&'static str, Element, Element),
    factors: &[f32; 4],
) -> Result<(), String> {
    let (mut rng, mut memory) = (Rng(4), Memory::new());
    let angles = angles(covered, module, shape, &mut memory)?;
    let qkv = shape.qkv(&mut rng, act, kv);
    let qkv_at = memory.upload(&act.encode_all(&qkv));
    let bytes = BLOCKS * shape.kv_heads * BLOCK * shape.padded * kv.bytes();
    let words: Vec<u32> = SLOTS.into_iter().chain(factors.map(f32::to_bits)).collect();
    let words = if factors == &ONES { &words[..SLOTS.len()] } else { &words };
    let (k, v, slots) = (memory.alloc(bytes), memory.alloc(bytes), memory.upload(words));
    let fields = Fields::default().buffers(&[qkv_at, k, v, angles, slots]);
    let fields = fields.words(&[shape.heads, shape.kv_heads, shape.head_dim, shape.padded, shape.half]);
    let factors_at = words.len() - SLOTS.len();
    let fields = fields.words(&[usize::from(shape.interleaved), POSITIONS.len(), factors_at]);
    go(covered, module, kernel, &mut memory, Launch::new(POSITIONS.len() as u32, 256), &[fields.arg()])?;

    let angles = memory.read::<f32>(angles).map_err(|fault| fault.to_string())?;
    let turned: Vec<f32> =
        act.decode_all(&memory.read(qkv_at).map_err(|fault| fault.to_string())?).iter().map(|&x| x as f32).collect();
    let (want, want_k, want_v) = expected(shape, (act, kv), &qkv, &angles, factors);
    if bits(&turned) != bits(&want) {
        return Err(format!("{kernel}: q is not turned as it should be"));
    }
    for (cache, want, name) in [(k, want_k, "k"), (v, want_v, "v")] {
        if memory.read_partly::<u8>(cache) != want {
            return Err(format!("{kernel}: {name} is not in the cache as it should be"));
        }
    }
    Ok(())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

fn angles(covered: &mut Covered, module: &Module, shape: &Shape, memory: &mut Memory) -> Result<Buffer, String> {
    let inv_freq: Vec<f32> = (0..shape.half).map(|i| 500_000f32.powf(-(i as f32) / shape.half as f32)).collect();
    let items = POSITIONS.len() * shape.half;
    let angles = memory.alloc(items * 8);
    let fields = Fields::default().buffers(&[angles, memory.upload(&POSITIONS), memory.upload(&inv_freq)]);
    let fields = fields.words(&[POSITIONS.len(), shape.half]).float(shape.scale).words(&[0]);
    go(covered, module, "rope_angles", memory, Launch::new(items.div_ceil(256) as u32, 256), &[fields.arg()])?;
    let got = memory.read::<f32>(angles).map_err(|fault| fault.to_string())?;
    let truth = POSITIONS.iter().flat_map(|&p| inv_freq.iter().map(move |&f| f64::from(p as f32 * f)));
    for (pair, angle) in got.chunks(2).zip(truth) {
        let exact = [angle.cos(), angle.sin()].map(|x| x as f32 * shape.scale);
        let error = pair.iter().zip(exact).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        if error.is_nan() || error > 1.2e-7 {
            return Err(format!("angle {angle}: error {error:.1e}"));
        }
    }
    Ok(angles)
}

type Bytes = Vec<Option<u8>>;

/// qkv with q turned and multiplied, and the caches.
fn expected(
    shape: &Shape,
    (act, kv): (Element, Element),
    qkv: &[f32],
    angles: &[f32],
    factors: &[f32; 4],
) -> (Vec<f32>, Bytes, Bytes) {
    let (dim, row_bytes) = (shape.head_dim, shape.padded * kv.bytes());
    let mut turned = qkv.to_vec();
    let mut caches = [(); 2].map(|()| vec![None; BLOCKS * shape.kv_heads * BLOCK * row_bytes]);
    for (token, row) in turned.chunks_mut(shape.width()).enumerate() {
        let angles = &angles[2 * token * shape.half..][..2 * shape.half];
        let (q, rest) = row.split_at_mut(shape.heads * dim);
        for head in q.chunks_mut(dim) {
            let after = shape.turned(head, angles);
            head.iter_mut().zip(after).for_each(|(x, y)| *x = act.round(y * factors[token]));
        }
        let (block, offset) = (SLOTS[token] as usize / BLOCK, SLOTS[token] as usize % BLOCK);
        for kv_head in 0..shape.kv_heads {
            let at = ((block * shape.kv_heads + kv_head) * BLOCK + offset) * row_bytes;
            let k = shape.turned(&rest[kv_head * dim..][..dim], angles);
            let v = rest[(shape.kv_heads + kv_head) * dim..][..dim].to_vec();
            for (cache, mut values) in caches.iter_mut().zip([k, v]) {
                values.resize(shape.padded, 0.0);
                let bytes = kv.encode_all(&values).into_iter().map(Some);
                cache[at..at + row_bytes].iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
            }
        }
    }
    let [k, v] = caches;
    (turned, k, v)
}
