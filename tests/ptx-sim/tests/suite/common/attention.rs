//! Attention against f64: decode, which turns and stores what is new by itself, whatever the split of the context.

use ptx_sim::{Arg, Launch, Memory, Module};

use super::cases::{Covered, go};
use super::element::Element;
use super::paged::{Chunk, Shape, Step};
use super::{all_bf16, judge};

pub const PLAIN: Shape =
    Shape { heads: 2, kv_heads: 2, head_dim: 64, half: 32, interleaved: true, window: 0, loud: 1.0, tempered: false };

/// A step of decode: contexts after it, and the units a block takes in each of two runs that must agree.
struct Decode {
    shape: Shape,
    contexts: &'static [usize],
    runs: [usize; 2],
}

#[rustfmt::skip]
const DECODES: [Decode; 14] = [
    Decode { shape: Shape { heads: 6, head_dim: 20, half: 7, interleaved: false, ..PLAIN }, contexts: &[1, 64, 65, 127, 300], runs: [2, 8] },
    Decode { shape: Shape { window: 70, ..PLAIN }, contexts: &[300, 30, 71], runs: [1, 2] },
    Decode { shape: Shape { heads: 17, kv_heads: 1, head_dim: 8, half: 4, ..PLAIN }, contexts: &[63, 129], runs: [2, 4] },
    Decode { shape: Shape { heads: 1, kv_heads: 1, head_dim: 16, half: 8, ..PLAIN }, contexts: &[2100], runs: [9, 32] },
    Decode { shape: Shape { loud: 8.0, ..PLAIN }, contexts: &[130, 90], runs: [1, 4] },
    Decode { shape: Shape { loud: 0.0, ..PLAIN }, contexts: &[130], runs: [1, 4] },
    Decode { shape: Shape { heads: 8, head_dim: 128, half: 64, ..PLAIN }, contexts: &[520, 2], runs: [1, 4] },
    Decode { shape: Shape { heads: 10, kv_heads: 1, head_dim: 80, half: 20, ..PLAIN }, contexts: &[200], runs: [3, 4] },
    Decode { shape: Shape { heads: 2, kv_heads: 1, head_dim: 100, half: 50, window: 65, ..PLAIN }, contexts: &[150, 193], runs: [1, 2] },
    Decode { shape: Shape { heads: 3, kv_heads: 1, head_dim: 256, half: 128, interleaved: false, ..PLAIN }, contexts: &[520], runs: [2, 16] },
    Decode { shape: Shape { heads: 9, kv_heads: 1, head_dim: 130, half: 20, ..PLAIN }, contexts: &[140], runs: [1, 4] },
    Decode { shape: Shape { heads: 6, head_dim: 20, half: 7, tempered: true, ..PLAIN }, contexts: &[1, 64, 65, 127], runs: [2, 8] },
    Decode { shape: Shape { heads: 3, kv_heads: 1, head_dim: 80, half: 20, interleaved: false, tempered: true, ..PLAIN }, contexts: &[72, 9], runs: [1, 2] },
    Decode { shape: Shape { heads: 3, kv_heads: 1, head_dim: 256, half: 128, tempered: true, ..PLAIN }, contexts: &[70], runs: [1, 2] },
];

pub const DECODE_KERNELS: [(&str, Element, usize); 6] = [
    ("attention_decode_bf16_bf16_64", Element::Bf16, 64),
    ("attention_decode_bf16_bf16_128", Element::Bf16, 128),
    ("attention_decode_bf16_bf16_256", Element::Bf16, 256),
    ("attention_decode_bf16_e4m3_64", Element::E4m3, 64),
    ("attention_decode_bf16_e4m3_128", Element::E4m3, 128),
    ("attention_decode_bf16_e4m3_256", Element::E4m3, 256),
];

pub fn decode_case(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for (kernel, kv, padded) in DECODE_KERNELS {
        for Decode { shape, contexts, runs } in DECODES.iter().filter(|case| case.shape.padded() == padded) {
            let chunks: Vec<Chunk> = contexts.iter().map(|context| (context - 1, 1)).collect();
            let step = Step::new(*shape, Element::Bf16, kv, &chunks);
            let out = decode(&mut covered, module, kernel, &step, runs[0])?;
            if out != decode(&mut covered, module, kernel, &step, runs[1])? {
                return Err(format!("{kernel}: {shape:?} {contexts:?}: the split of the context changes bits"));
            }
            let (truth, plain) = step.truth();
            judge(&format!("{kernel}: {shape:?} {contexts:?}"), &all_bf16(&out), &plain, &truth)?;
        }
    }
    Ok(covered)
}

/// Runs a decode kernel and checks what it leaves behind: the cache, and counters at rest.
pub fn decode(
    covered: &mut Covered,
    module: &Module,
    kernel: &'static str,
    step: &Step,
    run: usize,
) -> Result<Vec<u16>, String> {
    let (mut memory, shape, rows) = (Memory::new(), &step.shape, step.positions.len());
    let device = step.upload(&mut memory, false, &[], true);
    let (out, k, v, arrivals) = (device.out, device.k, device.v, device.arrivals);
    let longest = (0..rows).map(|row| step.units(row)).max().unwrap_or(0);
    let runs = longest.div_ceil(run).next_power_of_two();
    let grid = [runs, shape.kv_heads * shape.group().div_ceil(16), rows].map(|n| n as u32);
    let launch = Launch { grid, ..Launch::new(1, 256).shared(384 * shape.padded() + 2576) };
    let args: [Arg; 1] = [device.arg(run)];
    go(covered, module, kernel, &mut memory, launch, &args)?;
    if [k, v].map(|cache| memory.read_partly::<u8>(cache)) != step.after {
        return Err(format!("{kernel}: {shape:?}: the cache is not as it should be"));
    }
    let arrivals =
        arrivals.map(|arrivals| memory.read::<u32>(arrivals)).transpose().map_err(|fault| fault.to_string())?;
    if arrivals.is_some_and(|counts| counts.iter().any(|&count| count != 0)) {
        return Err(format!("{kernel}: arrivals do not return to zero"));
    }
    memory.read(out).map_err(|fault| format!("{kernel}: {fault}"))
}
