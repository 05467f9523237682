//! Each shipped kernel against f64, at sizes that no tile divides. A case works on any module, so that the planted bugs
//! can be run through it as well.
//!
//! Outputs are allocated exactly and start out unwritten: a byte too few or too many is a finding.

use ptx_sim::{Arg, Counters, Coverage, Launch, Memory, Module, launch};

use super::{Rng, all_bf16, all_f32, attention, bf16, from_bf16, gemv, judge, to_bf16};

/// What a case saw: coverage of the kernels it ran, by name.
pub type Covered = Vec<(&'static str, Coverage)>;

/// Runs a kernel file's kernels and judges what they computed.
pub type Case = fn(&Module) -> Result<Covered, String>;

/// The shipped files and their cases.
pub const CASES: [(&str, Case); 10] = [
    ("attention_decode", attention::decode_case),
    ("norm", norm),
    ("swiglu", swiglu),
    ("embed", embed),
    ("rope_kv", rope_kv),
    ("gemv_bf16", gemv::bf16_case),
    ("gemv_q8_0", gemv::q8_0_case),
    ("gemv_f16", gemv::f16_case),
    ("gemv_q4_0", gemv::q4_0_case),
    ("gemv_q4_1", gemv::q4_1_case),
];

/// Launches, collects coverage and returns the counters; findings become text.
pub fn go(
    covered: &mut Covered,
    module: &Module,
    kernel: &'static str,
    memory: &mut Memory,
    shape: Launch,
    args: &[Arg],
) -> Result<Counters, String> {
    let report = launch(module, kernel, memory, shape, args).map_err(|finding| finding.to_string())?;
    match covered.iter_mut().find(|(name, _)| *name == kernel) {
        Some((_, coverage)) => coverage.merge(&report.coverage),
        None => covered.push((kernel, report.coverage)),
    }
    Ok(report.counters)
}

fn fault(error: ptx_sim::Fault) -> String {
    error.to_string()
}

fn norm(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    // 160 threads: the sum over five warps leaves a remainder in the unrolled loop.
    // The quiet row has a mean square near eps.
    for (rows, features, threads, loudness) in [(3, 2044, 256, 1.0), (1, 8, 256, 0.003), (2, 1100, 160, 20.0)] {
        for fused in [false, true] {
            norm_case(&mut covered, module, (rows, features, threads), loudness, fused)?;
        }
    }
    Ok(covered)
}

fn norm_case(
    covered: &mut Covered,
    module: &Module,
    (rows, features, threads): (usize, usize, u32),
    loudness: f32,
    fused: bool,
) -> Result<(), String> {
    let (mut rng, mut memory, eps) = (Rng(1), Memory::new(), 1e-5f32);
    let mut loud = |n| rng.units(n).into_iter().map(|v| v * loudness).collect::<Vec<f32>>();
    let residual = loud(rows * features);
    let x = if fused { loud(rows * features) } else { vec![0.0; rows * features] };
    let (x, gain): (Vec<u16>, _) = (x.iter().map(|&v| to_bf16(f64::from(v))).collect(), rng.units(features));
    let stream = memory.upload(&residual);
    let out = memory.alloc(rows * features * 2);
    let mut args = vec![Arg::Buffer(out), Arg::Buffer(stream)];
    if fused {
        args.push(Arg::Buffer(memory.upload(&x)));
    }
    args.extend([Arg::Buffer(memory.upload(&gain)), Arg::U32(features as u32), Arg::F32(eps)]);
    let kernel = if fused { "add_rms_norm_bf16" } else { "rms_norm_bf16" };
    go(covered, module, kernel, &mut memory, Launch::new(rows as u32, threads), &args)?;

    let sums: Vec<f64> = residual.iter().zip(&x).map(|(r, x)| f64::from(*r) + from_bf16(*x)).collect();
    let kept = memory.read::<f32>(stream).map_err(fault)?;
    let wrong = kept.iter().zip(&sums).any(|(kept, sum)| *kept != *sum as f32);
    if wrong {
        return Err("the residual is not the f32 sum".to_owned());
    }
    let (mut truth, mut plain) = (Vec::new(), Vec::new());
    for row in sums.chunks(features) {
        let factor = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / features as f64 + f64::from(eps)).sqrt();
        for (v, g) in row.iter().zip(&gain) {
            truth.push(v * factor * f64::from(*g));
            plain.push(bf16(bf16(v * factor) * bf16(f64::from(*g))));
        }
    }
    judge(kernel, &all_bf16(&memory.read(out).map_err(fault)?), &plain, &truth)
}

fn swiglu(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(2));
    for (rows, ffn) in [(3, 2056), (1, 8), (2, 1000)] {
        let mut memory = Memory::new();
        // Gates from -24 to 24: both tails of the sigmoid.
        let gate_up: Vec<u16> = (0..rows * 2 * ffn).map(|_| to_bf16(f64::from(rng.unit() * 24.0))).collect();
        let out = memory.alloc(rows * ffn * 2);
        let args = [Arg::Buffer(out), Arg::Buffer(memory.upload(&gate_up)), Arg::U32(ffn as u32)];
        let shape = Launch::new(1, 256).grid((ffn as u32).div_ceil(2048), rows as u32);
        go(&mut covered, module, "swiglu_bf16", &mut memory, shape, &args)?;
        let (mut truth, mut plain) = (Vec::new(), Vec::new());
        for row in gate_up.chunks(2 * ffn) {
            for (gate, up) in row[..ffn].iter().zip(&row[ffn..]) {
                let (gate, up) = (from_bf16(*gate), from_bf16(*up));
                let silu = gate / (1.0 + (-gate).exp());
                truth.push(silu * up);
                plain.push(bf16(bf16(silu) * up));
            }
        }
        judge("swiglu", &all_bf16(&memory.read(out).map_err(fault)?), &plain, &truth)?;
    }
    Ok(covered)
}

fn embed(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(3));
    for (hidden, ids) in [(2056usize, vec![4u32, 0, 4]), (8, vec![1]), (568, vec![2, 3])] {
        let mut memory = Memory::new();
        let table = rng.bf16s(5 * hidden);
        let out = memory.alloc(ids.len() * hidden * 4);
        let (table_at, ids_at) = (memory.upload(&table), memory.upload(&ids));
        let args = [Arg::Buffer(out), Arg::Buffer(table_at), Arg::Buffer(ids_at), Arg::U32(hidden as u32)];
        let shape = Launch::new(1, 256).grid((hidden as u32).div_ceil(2048), ids.len() as u32);
        go(&mut covered, module, "embed_bf16", &mut memory, shape, &args)?;
        let rows = ids.iter().flat_map(|&id| &table[id as usize * hidden..][..hidden]);
        let truth: Vec<f64> = rows.map(|&bits| from_bf16(bits)).collect();
        if all_f32(&memory.read(out).map_err(fault)?) != truth {
            return Err("embed: not the table's rows".to_owned());
        }
    }
    Ok(covered)
}

/// Sizes of a RoPE case.
struct Rope {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block_len: usize,
    interleaved: bool,
    positions: Vec<u32>,
    slots: Vec<u32>,
}

fn rope_kv(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for interleaved in [false, true] {
        for (heads, kv_heads, head_dim) in [(4, 2, 128), (3, 1, 64), (2, 2, 20)] {
            let (positions, slots) = (vec![0, 131_071, 7, 1025, 2, 3], vec![9, 0, 4, 3, 17, 5]);
            let case = Rope { heads, kv_heads, head_dim, block_len: 3, interleaved, positions, slots };
            rope_case(&mut covered, module, &case)?;
        }
    }
    Ok(covered)
}

const CACHE_BLOCKS: usize = 6;

fn rope_case(covered: &mut Covered, module: &Module, case: &Rope) -> Result<(), String> {
    let (mut rng, mut memory) = (Rng(4), Memory::new());
    let (tokens, half, dim) = (case.positions.len(), case.head_dim / 2, case.head_dim);
    let inv_freq: Vec<f32> = (0..half).map(|i| 500_000f32.powf(-(i as f32) / half as f32)).collect();
    let qkv = rng.bf16s(tokens * (case.heads + 2 * case.kv_heads) * dim);
    let angles = memory.alloc(tokens * half * 8);
    let args =
        [Arg::Buffer(angles), Arg::Buffer(memory.upload(&case.positions)), Arg::Buffer(memory.upload(&inv_freq))];
    go(covered, module, "rope_angles", &mut memory, Launch::new(tokens as u32, half as u32), &args)?;
    check_angles(&memory.read(angles).map_err(fault)?, &case.positions, &inv_freq)?;

    let qkv_at = memory.upload(&qkv);
    let cache = CACHE_BLOCKS * case.kv_heads * case.block_len * dim * 2;
    let (k_at, v_at) = (memory.alloc(cache), memory.alloc(cache));
    let slots = memory.upload(&case.slots);
    let mut args: Vec<Arg> = [qkv_at, k_at, v_at, angles, slots].map(Arg::Buffer).to_vec();
    let sizes = [case.heads, case.kv_heads, case.block_len, usize::from(case.interleaved)];
    args.extend(sizes.map(|n| Arg::U32(n as u32)));
    let shape = Launch::new(1, half as u32).grid(tokens as u32, (case.heads + case.kv_heads) as u32);
    go(covered, module, "rope_kv_bf16", &mut memory, shape, &args)?;

    let turned = memory.read::<u16>(qkv_at).map_err(fault)?;
    let caches = [memory.read_partly::<u16>(k_at), memory.read_partly::<u16>(v_at)];
    check_rope(case, &inv_freq, &qkv, &turned, &caches)
}

fn check_angles(got: &[f32], positions: &[u32], inv_freq: &[f32]) -> Result<(), String> {
    let angles = positions.iter().flat_map(|&p| inv_freq.iter().map(move |&f| f64::from(p as f32 * f)));
    for (pair, angle) in got.chunks(2).zip(angles) {
        let (cos, sin) = (f64::from(pair[0]), f64::from(pair[1]));
        let error = (cos - angle.cos()).abs().max((sin - angle.sin()).abs());
        if error.is_nan() || error > 6.1e-8 {
            return Err(format!("angle {angle}: error {error:.1e}"));
        }
    }
    Ok(())
}

fn check_rope(
    case: &Rope,
    inv_freq: &[f32],
    qkv: &[u16],
    turned: &[u16],
    caches: &[Vec<Option<u16>>; 2],
) -> Result<(), String> {
    let (dim, half, row) = (case.head_dim, case.head_dim / 2, (case.heads + 2 * case.kv_heads) * case.head_dim);
    let (mut got, mut plain, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    let mut written = 0;
    for (token, (&position, &slot)) in case.positions.iter().zip(&case.slots).enumerate() {
        for head in 0..case.heads + case.kv_heads {
            let at = token * row + head * dim;
            let kv_head = head.wrapping_sub(case.heads);
            let (block, offset) = (slot as usize / case.block_len, slot as usize % case.block_len);
            let cached = ((block * case.kv_heads + kv_head.min(case.kv_heads)) * case.block_len + offset) * dim;
            for (i, freq) in inv_freq.iter().enumerate() {
                let pair = if case.interleaved { [2 * i, 2 * i + 1] } else { [i, i + half] };
                let (a, b) = (from_bf16(qkv[at + pair[0]]), from_bf16(qkv[at + pair[1]]));
                let angle = f64::from(position as f32 * freq);
                let (c, s) = (angle.cos(), angle.sin());
                truth.extend([a * c - b * s, b * c + a * s]);
                let (pc, ps) = (bf16(c), bf16(s));
                plain.extend([bf16(bf16(a * pc) - bf16(b * ps)), bf16(bf16(b * pc) + bf16(a * ps))]);
                for place in pair {
                    if head < case.heads {
                        got.push(from_bf16(turned[at + place]));
                        continue;
                    }
                    let missing = "rope: a slot of the cache was not written";
                    got.push(from_bf16(caches[0][cached + place].ok_or(missing)?));
                    if caches[1][cached + place] != Some(qkv[at + case.kv_heads * dim + place]) {
                        return Err("rope: v was not copied".to_owned());
                    }
                    written += 1;
                }
            }
        }
    }
    let filled = caches.each_ref().map(|cache| cache.iter().flatten().count());
    if filled != [written; 2] {
        return Err("rope: wrote to slots that are not its tokens'".to_owned());
    }
    judge("rope", &got, &plain, &truth)
}
