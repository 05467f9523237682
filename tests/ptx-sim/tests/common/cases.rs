//! Each shipped kernel against f64, at sizes that no tile divides. A case works on any module, so that the planted bugs
//! can be run through it as well.
//!
//! Outputs are allocated exactly and start out unwritten: a byte too few or too many is a finding.

use ptx_sim::{Arg, Counters, Coverage, Launch, Memory, Module, launch};

use super::weights::Kind;
use super::{Rng, all_f32, attention, attention_f32, elementwise, from_bf16, gemm, gemv, prefill, rope, sample, wgmma};

/// What a case saw: coverage of the kernels it ran, by name.
pub type Covered = Vec<(&'static str, Coverage)>;

/// Runs a kernel file's kernels and judges what they computed.
pub type Case = fn(&Module) -> Result<Covered, String>;

/// The shipped files and their cases.
pub const CASES: &[(&str, Case)] = &[
    ("attention_decode", attention::decode_case),
    ("attention_f32", attention_f32::case),
    ("attention_prefill", prefill::case),
    ("norm", elementwise::norm),
    ("swiglu", elementwise::swiglu),
    ("add", elementwise::add),
    ("take_rows", elementwise::take_rows),
    ("copy_blocks", elementwise::copy_blocks),
    ("embed", embed),
    ("rope_kv", rope::case),
    ("sample", sample::case),
    ("gemv_bf16", |module| gemv::case(module, Kind::Bf16)),
    ("gemv_f16", |module| gemv::case(module, Kind::F16)),
    ("gemv_f32", |module| gemv::case(module, Kind::F32)),
    ("gemv_q8_0", |module| gemv::case(module, Kind::Q8_0)),
    ("gemv_q4_0", |module| gemv::case(module, Kind::Q4_0)),
    ("gemv_q4_1", |module| gemv::case(module, Kind::Q4_1)),
    ("gemv_q4_k", |module| gemv::case(module, Kind::Q4K)),
    ("gemv_q5_k", |module| gemv::case(module, Kind::Q5K)),
    ("gemv_q6_k", |module| gemv::case(module, Kind::Q6K)),
    ("gemv_grouped", |module| gemv::case(module, Kind::Grouped)),
    ("gemm_bf16", |module| gemm::case(module, Kind::Bf16)),
    ("gemm_f16", |module| gemm::case(module, Kind::F16)),
    ("gemm_f32", |module| gemm::case(module, Kind::F32)),
    ("gemm_q8_0", |module| gemm::case(module, Kind::Q8_0)),
    ("gemm_q4_0", |module| gemm::case(module, Kind::Q4_0)),
    ("gemm_q4_1", |module| gemm::case(module, Kind::Q4_1)),
    ("gemm_q4_k", |module| gemm::case(module, Kind::Q4K)),
    ("gemm_q5_k", |module| gemm::case(module, Kind::Q5K)),
    ("gemm_q6_k", |module| gemm::case(module, Kind::Q6K)),
    ("gemm_grouped", |module| gemm::case(module, Kind::Grouped)),
];

/// The files that only the set for Hopper has.
pub const HOPPER_CASES: &[(&str, Case)] = &[
    ("pack_sm90", wgmma::pack_case),
    ("wgmma_bf16_sm90", |module| wgmma::case(module, Kind::Bf16)),
    ("wgmma_f16_sm90", |module| wgmma::case(module, Kind::F16)),
    ("wgmma_f32_sm90", |module| wgmma::case(module, Kind::F32)),
    ("wgmma_q8_0_sm90", |module| wgmma::case(module, Kind::Q8_0)),
    ("wgmma_q4_0_sm90", |module| wgmma::case(module, Kind::Q4_0)),
    ("wgmma_q4_1_sm90", |module| wgmma::case(module, Kind::Q4_1)),
    ("wgmma_q4_k_sm90", |module| wgmma::case(module, Kind::Q4K)),
    ("wgmma_q5_k_sm90", |module| wgmma::case(module, Kind::Q5K)),
    ("wgmma_q6_k_sm90", |module| wgmma::case(module, Kind::Q6K)),
    ("wgmma_grouped_sm90", |module| wgmma::case(module, Kind::Grouped)),
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
