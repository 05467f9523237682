//! Attention in plain f32 against f64: decode and prefill in one batch, every activation and cache.

use ptx_sim::{Launch, Memory, Module};

use super::attention::PLAIN;
use super::cases::{Covered, go};
use super::element::Element;
use super::judge;
use super::paged::{Chunk, Shape, Step};

const KERNELS: [(&str, Element, Element); 6] = [
    ("attention_f32_bf16_bf16", Element::Bf16, Element::Bf16),
    ("attention_f32_bf16_e4m3", Element::Bf16, Element::E4m3),
    ("attention_f32_bf16_f32", Element::Bf16, Element::F32),
    ("attention_f32_f32_bf16", Element::F32, Element::Bf16),
    ("attention_f32_f32_e4m3", Element::F32, Element::E4m3),
    ("attention_f32_f32_f32", Element::F32, Element::F32),
];

#[rustfmt::skip]
const CASES: [(Shape, &[Chunk]); 4] = [
    (Shape { heads: 9, kv_heads: 3, head_dim: 20, half: 7, interleaved: false, ..PLAIN }, &[(126, 1), (62, 3)]),
    (Shape { heads: 2, head_dim: 100, half: 50, window: 70, ..PLAIN }, &[(150, 2)]),
    (Shape { heads: 2, kv_heads: 1, head_dim: 256, half: 128, ..PLAIN }, &[(65, 1)]),
    (Shape { loud: 30.0, ..PLAIN }, &[(70, 1), (0, 1)]),
];

pub fn case(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for (kernel, act, kv) in KERNELS {
        for (shape, chunks) in CASES {
            let step = Step::new(shape, act, kv, chunks);
            let out = attend(&mut covered, module, kernel, &step)?;
            let truth = step.attend(|x| x);
            let plain = if act == Element::Bf16 { step.truth().1 } else { step.attend_f32() };
            judge(&format!("{kernel}: {shape:?} {chunks:?}"), &act.decode_all(&out), &plain, &truth)?;
            // The first row by itself, after what was before it.
            let alone = Step::new(shape, act, kv, &[(chunks[0].0, 1)]);
            let alone = attend(&mut covered, module, kernel, &alone)?;
            if alone[..] != out[..alone.len()] {
                return Err(format!("{kernel}: {shape:?} {chunks:?}: a row changes with its batch"));
            }
        }
    }
    Ok(covered)
}

fn attend(covered: &mut Covered, module: &Module, kernel: &'static str, step: &Step) -> Result<Vec<u8>, String> {
    let mut memory = Memory::new();
    let device = step.upload(&mut memory, true, &[], false);
    let out = device.out;
    let launch = Launch::new(1, 256).grid(step.positions.len() as u32, step.shape.heads.div_ceil(8) as u32);
    go(covered, module, kernel, &mut memory, launch, &[device.arg(0)])?;
    memory.read(out).map_err(|fault| format!("{kernel}: {fault}"))
}
