//! Each shipped kernel against f64, at sizes that no tile divides. A case works on any module, so that the planted bugs
//! can be run through it as well.
//!
//! Outputs are allocated exactly and start out unwritten: a byte too few or too many is a finding.

use ptx_sim::{Arg, Counters, Coverage, Launch, Memory, Module, launch};

use super::weights::Kind;
use super::{
    adapt, attention, attention_f32, elementwise, gemm, gemv, persistent, prefill, rope, sample, tables, wgmma,
};

/// What a case saw: coverage of the kernels it ran, by name.
pub type Covered = Vec<(&'static str, Coverage)>;

/// Runs a kernel file's kernels and judges what they computed.
pub type Case = fn(&Module) -> Result<Covered, String>;

/// The shipped files and their cases.
pub const CASES: &[(&str, Case)] = &[
    ("adapt", adapt::case),
    ("attention_decode", attention::decode_case),
    ("attention_f32", attention_f32::case),
    ("attention_prefill", prefill::case),
    ("norm", elementwise::norm),
    ("head_norm", elementwise::head_norm),
    ("swiglu", elementwise::swiglu),
    ("add", elementwise::add),
    ("take_rows", elementwise::take_rows),
    ("copy_blocks", elementwise::copy_blocks),
    ("embed", tables::embed),
    ("repack", tables::repack),
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
    ("persistent", persistent::case),
    ("persistent_wide", persistent::wide_case),
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
