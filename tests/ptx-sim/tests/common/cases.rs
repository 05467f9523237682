//! Each shipped kernel against f64, at sizes that no tile divides. A case works on any module, so that the planted bugs
//! can be run through it as well.
//!
//! Outputs are allocated exactly and start out unwritten: a byte too few or too many is a finding.

use ptx_sim::{Arg, Counters, Coverage, Launch, Memory, Module, launch};

use super::{Rng, all_bf16, all_f32, attention, bf16, from_bf16, gemv, judge, rope, to_bf16};

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
    ("rope_kv", rope::case),
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
