//! Prefill attention against f64, and against decode: a row's bits are the same in a ragged batch, in a chunk of its own and
//! in a step of decode.

use ptx_sim::{Launch, Memory, Module};

use super::attention::{DECODE_KERNELS, PLAIN, decode};
use super::cases::{Covered, go};
use super::element::Element;
use super::paged::{Chunk, Shape, Step};
use super::{all_bf16, judge, parse, ptx};

const KERNELS: [&str; 6] = [
    "attention_prefill_bf16_bf16_64",
    "attention_prefill_bf16_bf16_128",
    "attention_prefill_bf16_bf16_256",
    "attention_prefill_bf16_e4m3_64",
    "attention_prefill_bf16_e4m3_128",
    "attention_prefill_bf16_e4m3_256",
];

#[rustfmt::skip]
const CASES: [(Shape, &[Chunk]); 9] = [
    (Shape { heads: 6, head_dim: 20, half: 7, interleaved: false, ..PLAIN }, &[(0, 70), (190, 1), (62, 3)]),
    (Shape { window: 70, ..PLAIN }, &[(100, 40)]),
    (Shape { heads: 71, kv_heads: 1, head_dim: 8, half: 4, ..PLAIN }, &[(63, 2)]),
    (Shape { heads: 1, kv_heads: 1, head_dim: 48, half: 24, loud: 8.0, ..PLAIN }, &[(0, 1), (10, 20)]),
    (Shape { loud: 0.0, ..PLAIN }, &[(60, 5)]),
    (Shape { heads: 8, head_dim: 128, half: 64, ..PLAIN }, &[(60, 10), (190, 1)]),
    (Shape { heads: 7, kv_heads: 1, head_dim: 100, half: 50, window: 30, ..PLAIN }, &[(65, 20)]),
    (Shape { heads: 3, kv_heads: 1, head_dim: 256, half: 128, interleaved: false, ..PLAIN }, &[(50, 24), (120, 1)]),
    (Shape { heads: 2, kv_heads: 1, head_dim: 130, half: 20, window: 20, ..PLAIN }, &[(70, 3)]),
];

pub fn case(module: &Module) -> Result<Covered, String> {
    let (mut covered, decoder) = (Vec::new(), parse(&ptx("attention_decode"))?);
    for (kernel, (decode_kernel, kv, padded)) in KERNELS.into_iter().zip(DECODE_KERNELS) {
        for (shape, chunks) in CASES.iter().filter(|(shape, _)| shape.padded() == padded) {
            let step = Step::new(*shape, Element::Bf16, kv, chunks);
            let out = prefill(&mut covered, module, kernel, &step)?;
            let (truth, plain) = step.truth();
            judge(&format!("{kernel}: {shape:?} {chunks:?}"), &all_bf16(&out), &plain, &truth)?;
            // The last row of the first sequence, by itself: whatever was before it is in the cache.
            let (before, rows) = chunks[0];
            let alone = Step::new(*shape, Element::Bf16, kv, &[(before + rows - 1, 1)]);
            let width = shape.heads * shape.head_dim;
            let row = &out[(rows - 1) * width..rows * width];
            if prefill(&mut covered, module, kernel, &alone)? != row {
                return Err(format!("{kernel}: {shape:?} {chunks:?}: a row changes with its chunk"));
            }
            if decode(&mut Vec::new(), &decoder, decode_kernel, &alone, 2)? != row {
                return Err(format!("{kernel}: {shape:?} {chunks:?}: decode has other bits"));
            }
        }
    }
    Ok(covered)
}

fn prefill(covered: &mut Covered, module: &Module, kernel: &'static str, step: &Step) -> Result<Vec<u16>, String> {
    let (mut memory, shape) = (Memory::new(), &step.shape);
    let rows_a_tile = if shape.padded() == 256 { 64 } else { 128 };
    let mut tiles = Vec::new();
    for (sequence, rows) in step.q_indptr.windows(2).enumerate() {
        let rows = (rows[1] - rows[0]) as usize * shape.group();
        tiles.extend((0..rows).step_by(rows_a_tile).map(|first| [sequence as u32, first as u32]));
    }
    // A recorded launch may have more tiles than there are.
    tiles.push([u32::MAX, 0]);
    let device = step.upload(&mut memory, true, &tiles, false);
    let out = device.out;
    let launch = Launch::new(1, 256).grid(tiles.len() as u32, shape.kv_heads as u32).shared(384 * shape.padded());
    go(covered, module, kernel, &mut memory, launch, &[device.arg(0)])?;
    memory.read(out).map_err(|fault| format!("{kernel}: {fault}"))
}
