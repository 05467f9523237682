//! Embedding and repacking, in every format.

use ptx_sim::{Launch, Memory, Module};

use super::Rng;
use super::cases::{Covered, go};
use super::element::Fields;
use super::weights::{Kind, Weights};

const EMBED: [&str; 10] = [
    "embed_bf16",
    "embed_f16",
    "embed_f32",
    "embed_q8_0",
    "embed_q4_0",
    "embed_q4_1",
    "embed_q4_k",
    "embed_q5_k",
    "embed_q6_k",
    "embed_grouped",
];

const REPACK: [&str; 10] = [
    "repack_bf16",
    "repack_f16",
    "repack_f32",
    "repack_q8_0",
    "repack_q4_0",
    "repack_q4_1",
    "repack_q4_k",
    "repack_q5_k",
    "repack_q6_k",
    "repack_grouped",
];

/// Sizes that leave rows and inputs of the last tiles empty; more than 64 tiles give a thread of `embed` a second round.
fn sizes(kind: Kind) -> &'static [(usize, usize)] {
    match kind {
        _ if kind.is_k() => &[(21, 256), (33, 768), (2, 65 * 256)],
        _ if kind.is_float() => &[(21, 72), (33, 77), (2, 65 * 64)],
        _ => &[(21, 96), (33, 192), (2, 65 * 64)],
    }
}

/// What multiplies an embedding.
const SCALE: f32 = 54.545456;

pub fn embed(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for kind in Kind::ALL {
        for (i, &(rows, hidden)) in sizes(kind).iter().enumerate() {
            embed_case(&mut covered, module, &Weights::random(&mut Rng(40 + i as u64), kind, rows, hidden))?;
        }
    }
    Ok(covered)
}

fn embed_case(covered: &mut Covered, module: &Module, table: &Weights) -> Result<(), String> {
    let (mut memory, name, hidden) = (Memory::new(), EMBED[table.kind as usize], table.inputs);
    // The first, the last, one twice, and one in each half of a tile.
    let tokens: Vec<u32> = [0, table.rows - 1, 9, 0, 3].map(|t| t.min(table.rows - 1) as u32).to_vec();
    let out = memory.alloc(tokens.len() * hidden * 4);
    let (tiles, tokens_at) = (memory.upload(&table.tiles()), memory.upload(&tokens));
    let fields =
        Fields::default().buffers(&[tiles, tokens_at, out]).words(&[hidden, tokens.len()]).float(SCALE).words(&[0]);
    go(covered, module, name, &mut memory, Launch::new(tokens.len() as u32, 256), &[fields.arg()])?;
    let got = memory.read::<u32>(out).map_err(|fault| fault.to_string())?;
    let rows = tokens.iter().flat_map(|&token| &table.values[token as usize * hidden..][..hidden]);
    match got.iter().zip(rows).position(|(&bits, value)| bits != (value * SCALE).to_bits()) {
        None => Ok(()),
        Some(i) => {
            Err(format!("{name}: feature {} of token {} is not the table's, multiplied", i % hidden, i / hidden))
        }
    }
}

pub fn repack(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for kind in Kind::ALL {
        for (i, &(rows, inputs)) in sizes(kind)[..2].iter().enumerate() {
            repack_case(&mut covered, module, &Weights::random(&mut Rng(50 + i as u64), kind, rows, inputs))?;
        }
    }
    Ok(covered)
}

fn repack_case(covered: &mut Covered, module: &Module, weights: &Weights) -> Result<(), String> {
    let (mut memory, name) = (Memory::new(), REPACK[weights.kind as usize]);
    let want = weights.tiles();
    let (raw, tiles) = (memory.upload(&weights.raw), memory.alloc(want.len()));
    let fields = Fields::default().buffers(&[raw, tiles]);
    let fields = fields.words(&[weights.rows, weights.inputs, weights.row_bytes(), 0]);
    let (across, down) = (weights.inputs.div_ceil(weights.kind.tile_inputs()), weights.rows.div_ceil(16));
    let launch = Launch::new(1, 256).grid(across as u32, down as u32);
    go(covered, module, name, &mut memory, launch, &[fields.arg()])?;
    let got = memory.read::<u8>(tiles).map_err(|fault| fault.to_string())?;
    match got.iter().zip(&want).position(|(got, want)| got != want) {
        None => Ok(()),
        Some(i) => Err(format!("{name}: byte {i} is {} and not {}", got[i], want[i])),
    }
}
