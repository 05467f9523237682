//! The elementwise kernels: norm, swiglu, add, conversions, row gathers and block copies.

use ptx_sim::{Buffer, Launch, Memory, Module, Scalar};

use super::bugs::{Bug, bug};
use super::cases::{Covered, go};
use super::element::{Element, Fields};
use super::{Rng, all_f32, bf16, judge};

/// The kernel of a family for these activations.
fn of(element: Element, [bf16, f32]: [&'static str; 2]) -> &'static str {
    if element == Element::F32 { f32 } else { bf16 }
}

/// One step of the plain computation that an error is measured by.
fn round(element: Element, x: f64) -> f64 {
    match element {
        Element::F32 => f64::from(x as f32),
        _ => bf16(x),
    }
}

fn upload(memory: &mut Memory, element: Element, values: &[f64]) -> Buffer {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    memory.upload(&element.encode_all(&values))
}

fn decoded(memory: &Memory, element: Element, at: Buffer) -> Result<Vec<f64>, String> {
    Ok(element.decode_all(&read(memory, at)?))
}

fn read<T: Scalar>(memory: &Memory, at: Buffer) -> Result<Vec<T>, String> {
    memory.read(at).map_err(|fault| fault.to_string())
}

/// Random values that the element type holds exactly.
fn values(rng: &mut Rng, n: usize, loudness: f32, element: Element) -> Vec<f64> {
    rng.units(n).into_iter().map(|v| round(element, f64::from(v * loudness))).collect()
}

pub fn norm(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    // The quiet row has a mean square near eps; 15 and 1030 are not multiples of four.
    for (rows, features, loudness) in [(3, 2044, 1.0), (1, 8, 0.003), (2, 1030, 20.0), (2, 15, 1.0)] {
        for element in [Element::Bf16, Element::F32] {
            for fused in [false, true] {
                norm_case(&mut covered, module, (rows, features), loudness, (element, fused))?;
            }
        }
    }
    Ok(covered)
}

fn norm_case(
    covered: &mut Covered,
    module: &Module,
    (rows, features): (usize, usize),
    loudness: f32,
    (element, fused): (Element, bool),
) -> Result<(), String> {
    let (mut rng, mut memory, eps) = (Rng(1), Memory::new(), 1e-5f32);
    let residual = values(&mut rng, rows * features, loudness, Element::F32);
    let x = if fused { values(&mut rng, rows * features, loudness, element) } else { vec![0.0; rows * features] };
    let gain = rng.units(features);
    let (stream, out) = (upload(&mut memory, Element::F32, &residual), memory.alloc(rows * features * element.bytes()));
    let gain_at = memory.upload(&gain);
    let fields = Fields::default().buffers(&[out, stream]);
    let fields = if fused { fields.buffers(&[upload(&mut memory, element, &x)]) } else { fields.null() };
    let fields = fields.buffers(&[gain_at]).words(&[rows, features]).float(eps).words(&[0]);
    let kernel = of(element, ["norm_bf16", "norm_f32"]);
    go(covered, module, kernel, &mut memory, Launch::new(rows as u32, 256), &[fields.arg()])?;

    let sums: Vec<f64> = residual.iter().zip(&x).map(|(r, x)| r + x).collect();
    let kept = all_f32(&read(&memory, stream)?);
    if kept.iter().zip(&sums).any(|(kept, sum)| *kept != f64::from(*sum as f32)) {
        return Err("the residual is not the f32 sum".to_owned());
    }
    let (mut truth, mut plain) = (Vec::new(), Vec::new());
    for row in kept.chunks(features) {
        normed(element, row, &gain, eps, (&mut truth, &mut plain));
    }
    judge(kernel, &decoded(&memory, element, out)?, &plain, &truth)
}

/// Appends what the norm of a row is, and what it is in plain steps.
fn normed(element: Element, row: &[f64], gain: &[f32], eps: f32, (truth, plain): (&mut Vec<f64>, &mut Vec<f64>)) {
    let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    // In f32 the sum is part of the error; its plain order is one chain.
    let chain = row.iter().fold(0f32, |sum, &v| (v as f32).mul_add(v as f32, sum));
    let rough = f64::from(1.0 / (chain / row.len() as f32 + eps).sqrt());
    let rough = if element == Element::F32 { rough } else { factor };
    for (v, g) in row.iter().zip(gain) {
        truth.push(v * factor * f64::from(*g));
        plain.push(round(element, round(element, v * rough) * round(element, f64::from(*g))));
    }
}

pub fn head_norm(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(11));
    // Blocks with warps to spare, and a quiet case whose mean square is near eps.
    for (sizes, loudness) in [([2, 6, 3, 72], 1.0), ([1, 4, 4, 20], 0.003), ([3, 2, 1, 128], 20.0)] {
        for element in [Element::Bf16, Element::F32] {
            head_norm_case(&mut covered, module, &mut rng, sizes, (loudness, element))?;
        }
    }
    Ok(covered)
}

fn head_norm_case(
    covered: &mut Covered,
    module: &Module,
    rng: &mut Rng,
    [tokens, heads, kv_heads, head_dim]: [usize; 4],
    (loudness, element): (f32, Element),
) -> Result<(), String> {
    let (mut memory, eps) = (Memory::new(), 1e-5f32);
    let all = heads + 2 * kv_heads;
    let qkv = values(rng, tokens * all * head_dim, loudness, element);
    let gains = [rng.units(head_dim), rng.units(head_dim)];
    let at = upload(&mut memory, element, &qkv);
    let [q_gain, k_gain] = gains.each_ref().map(|gain| memory.upload(gain));
    let fields = Fields::default().buffers(&[at, q_gain, k_gain]).words(&[heads, kv_heads, head_dim]).float(eps);
    let kernel = of(element, ["head_norm_bf16", "head_norm_f32"]);
    let shape = Launch { grid: [tokens as u32, (heads + kv_heads).div_ceil(8) as u32, 1], ..Launch::new(1, 256) };
    go(covered, module, kernel, &mut memory, shape, &[fields.arg()])?;

    let got = decoded(&memory, element, at)?;
    let (mut truth, mut plain, mut of_heads) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (head, got)) in qkv.chunks(head_dim).zip(got.chunks(head_dim)).enumerate() {
        match i % all {
            head_of_v if head_of_v >= heads + kv_heads && head != got => {
                return Err(format!("{kernel}: head {i} is one of values, and was changed"));
            }
            head_of_v if head_of_v >= heads + kv_heads => {}
            at => {
                normed(element, head, &gains[usize::from(at >= heads)], eps, (&mut truth, &mut plain));
                of_heads.extend_from_slice(got);
            }
        }
    }
    judge(kernel, &of_heads, &plain, &truth)
}

pub fn swiglu(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(2));
    for (rows, ffn) in [(3, 1028), (1, 8), (2, 1001)] {
        for element in [Element::Bf16, Element::F32] {
            swiglu_case(&mut covered, module, &mut rng, (rows, ffn), element)?;
        }
    }
    Ok(covered)
}

fn swiglu_case(
    covered: &mut Covered,
    module: &Module,
    rng: &mut Rng,
    (rows, ffn): (usize, usize),
    element: Element,
) -> Result<(), String> {
    let mut memory = Memory::new();
    // Gates from -24 to 24, and one row's first few past where e^x ends in f32.
    let mut gate_up = values(rng, rows * 2 * ffn, 24.0, element);
    gate_up[..4].copy_from_slice(&[-89.0, 120.0, -0.0, -87.5]);
    let (at, out) = (upload(&mut memory, element, &gate_up), memory.alloc(rows * ffn * element.bytes()));
    let fields = Fields::default().buffers(&[out, at]).words(&[rows, ffn]);
    let kernel = of(element, ["swiglu_bf16", "swiglu_f32"]);
    let shape = Launch::new((rows * ffn.div_ceil(1024)) as u32, 256);
    go(covered, module, kernel, &mut memory, shape, &[fields.arg()])?;
    let got = decoded(&memory, element, out)?;
    let (mut truth, mut plain) = (Vec::new(), Vec::new());
    for row in gate_up.chunks(2 * ffn) {
        for (&gate, &up) in row[..ffn].iter().zip(&row[ffn..]) {
            let silu = gate / (1.0 + (-gate).exp());
            truth.push(silu * up);
            plain.push(round(element, round(element, silu) * up));
        }
    }
    judge(kernel, &got, &plain, &truth)?;
    if element == Element::F32 { relative(kernel, &got, &truth) } else { Ok(()) }
}

/// In f32 every value, the smallest too, is right to a few units in its last place.
fn relative(kernel: &str, got: &[f64], truth: &[f64]) -> Result<(), String> {
    let far = |g: f64, t: f64| (g - t).abs() > 4.0 * t.abs() * f64::from(f32::EPSILON) || g.is_nan();
    let bad = got.iter().zip(truth).find(|(g, t)| far(**g, **t));
    bad.map_or(Ok(()), |(g, t)| Err(format!("{kernel}: {g:e} where {t:e} is right")))
}

pub fn add(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(3));
    for count in [2057, 4, 3] {
        for element in [Element::Bf16, Element::F32] {
            add_case(&mut covered, module, &mut rng, count, element)?;
        }
        convert_case(&mut covered, module, &mut rng, count, [Element::F32, Element::Bf16])?;
        convert_case(&mut covered, module, &mut rng, count, [Element::Bf16, Element::F32])?;
    }
    Ok(covered)
}

fn flat(count: usize) -> Launch {
    Launch::new(count.div_ceil(1024) as u32, 256)
}

fn add_case(covered: &mut Covered, module: &Module, rng: &mut Rng, count: usize, kind: Element) -> Result<(), String> {
    let mut memory = Memory::new();
    let (acc, x) = (values(rng, count, 1.0, Element::F32), values(rng, count, 3.0, kind));
    let (acc_at, x_at) = (upload(&mut memory, Element::F32, &acc), upload(&mut memory, kind, &x));
    let fields = Fields::default().buffers(&[acc_at, x_at]).words(&[count, 0]);
    let kernel = of(kind, ["add_bf16", "add_f32"]);
    go(covered, module, kernel, &mut memory, flat(count), &[fields.arg()])?;
    let sums: Vec<f64> = acc.iter().zip(&x).map(|(a, x)| f64::from((a + x) as f32)).collect();
    if all_f32(&read(&memory, acc_at)?) == sums { Ok(()) } else { Err(format!("{kernel}: not the f32 sum")) }
}

fn convert_case(
    covered: &mut Covered,
    module: &Module,
    rng: &mut Rng,
    count: usize,
    [to, from]: [Element; 2],
) -> Result<(), String> {
    let mut memory = Memory::new();
    let x = values(rng, count, 3.0, from);
    let (x_at, out) = (upload(&mut memory, from, &x), memory.alloc(count * to.bytes()));
    let fields = Fields::default().buffers(&[out, x_at]).words(&[count, 0]);
    let kernel = of(to, ["narrow_f32", "widen_bf16"]);
    go(covered, module, kernel, &mut memory, flat(count), &[fields.arg()])?;
    let rounded: Vec<f64> = x.iter().map(|&v| round(to, v)).collect();
    if decoded(&memory, to, out)? == rounded { Ok(()) } else { Err(format!("{kernel}: not the values")) }
}

pub fn take_rows(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(4));
    for (features, index) in [(1028, vec![4u32, 0, 4]), (5, vec![1]), (1027, vec![2, 3])] {
        for element in [Element::Bf16, Element::F32] {
            let mut memory = Memory::new();
            let x = values(&mut rng, 5 * features, 1.0, element);
            let out = memory.alloc(index.len() * features * element.bytes());
            let (x_at, index_at) = (upload(&mut memory, element, &x), memory.upload(&index));
            let fields = Fields::default().buffers(&[out, x_at, index_at]).words(&[index.len(), features]);
            let kernel = of(element, ["take_rows_bf16", "take_rows_f32"]);
            let shape = Launch::new((index.len() * features.div_ceil(1024)) as u32, 256);
            go(&mut covered, module, kernel, &mut memory, shape, &[fields.arg()])?;
            let rows: Vec<f64> = index.iter().flat_map(|&i| &x[i as usize * features..][..features]).copied().collect();
            if decoded(&memory, element, out)? != rows {
                return Err(format!("{kernel}: not the rows asked for"));
            }
        }
    }
    Ok(covered)
}

pub fn copy_blocks(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(5));
    for (bytes, pairs) in [(4112, vec![[3u32, 0], [3, 4]]), (1024, vec![[1, 2]])] {
        let mut memory = Memory::new();
        let mut cache = |seed: u64| -> Vec<u8> { (0..5 * bytes).map(|_| (rng.bits() ^ seed) as u8).collect() };
        let caches = [cache(0), cache(1)];
        let [k, v] = caches.each_ref().map(|cache| memory.upload(cache));
        let pairs_at = memory.upload(pairs.as_flattened());
        let fields = Fields::default().buffers(&[k, v, pairs_at]).words(&[pairs.len(), bytes]);
        let shape = Launch::new((pairs.len() * 2 * bytes.div_ceil(4096)) as u32, 256);
        go(&mut covered, module, "copy_blocks", &mut memory, shape, &[fields.arg()])?;
        for (at, mut expected) in [k, v].into_iter().zip(caches) {
            for [from, to] in &pairs {
                let from = *from as usize * bytes;
                expected.copy_within(from..from + bytes, *to as usize * bytes);
            }
            if read::<u8>(&memory, at)? != expected {
                return Err("copy_blocks: a block is not what it should be".to_owned());
            }
        }
    }
    Ok(covered)
}

/// Ways to break these kernels: see `planted.rs`.
#[rustfmt::skip]
pub const BUGS: &[Bug] = &[
    bug("barrier dropped before the sum over warps", "norm", ("bar.sync", 0), "", ""),
    bug("barrier dropped before the sum over warps, f32", "norm", ("bar.sync", 1), "", ""),
    bug("barrier only some threads reach", "norm", ("bar.sync", 0), "bar.sync", "@%p35 bar.sync"),
    bug("shuffle over half of the warp", "norm", ("mov.u32 \t%r78, -1", 0), "-1", "65535"),
    bug("butterfly adds a lane twice", "norm", ("mov.u32 \t%r90, 1;", 0), "1;", "2;"),
    bug("a warp's sum left out", "norm", ("add.rn.f32 \t%f213", 0), "%f212", "0f00000000"),
    bug("eps forgotten", "norm", ("add.rn.f32 \t%f107", 0), "%f105", "0f00000000"),
    bug("row one group too long", "norm", ("setp.lt.u32", 1), "setp.lt", "setp.le"),
    bug("rows taken to be aligned", "norm", ("setp.eq.s32 \t%p2", 0), "setp.eq", "setp.ne"),
    bug("gains exchanged", "head_norm", ("setp.lt.u32 \t%p2", 0), "setp.lt", "setp.ge"),
    bug("one head of values normed, too", "head_norm", ("setp.ge.u32 \t%p1,", 0), "setp.ge", "setp.gt"),
    bug("a row without its values", "head_norm", ("shl.b32 \t%r20, %r17, 1", 0), "1;", "0;"),
    bug("head one feature too long", "head_norm", ("setp.lt.u32 \t%p11", 0), "setp.lt", "setp.le"),
    bug("butterfly adds a lane twice", "head_norm", ("mov.u32 \t%r42, 1;", 0), "1;", "2;"),
    bug("eps forgotten", "head_norm", ("add.rn.f32 \t%f4,", 0), "%f21", "0f00000000"),
    bug("row one group too long", "swiglu", ("setp.ge.u32 \t%p1,", 0), "setp.ge", "setp.gt"),
    bug("row one element too long", "swiglu", ("setp.ge.u32 \t%p13,", 0), "setp.ge", "setp.gt"),
    bug("sign of the sigmoid's exponent", "swiglu", ("0fBFB8AA3B", 3), "0fBFB8AA3B", "0f3FB8AA3B"),
    bug("ln 2 in one part only", "swiglu", ("fma.rn.f32 \t%f66, ", 0), "%f65", "0f00000000"),
    bug("sum written to the next element", "add", ("st.global.v4.f32", 0), "[%rd4]", "[%rd4+16]"),
    bug("short group taken for a full one", "add", ("setp.lt.u32 \t%p2", 0), "4;", "3;"),
    bug("row of the place, not of the index", "take_rows", ("ld.global.u32 \t%rd17", 0), "ld.global.u32 \t%rd17, [%rd16]", "mov.u64 %rd17, %rd3"),
    bug("row one group too long", "take_rows", ("setp.ge.u32 \t%p1,", 0), "setp.ge", "setp.gt"),
    bug("from and to exchanged", "copy_blocks", ("ld.global.u32 \t%r13", 0), "[%rd14]", "[%rd14+4]"),
    bug("block one piece too long", "copy_blocks", ("setp.ge.u32", 0), "setp.ge", "setp.gt"),
    bug("v left alone", "copy_blocks", ("add.s64 \t%rd22, %rd22, 8", 0), "8;", "0;"),
];
