//! Matrix products by Hopper's `wgmma`: activations are packed once for a linear, then its segments multiply them.
//! `kernels/wgmma.cuh` and `kernels/packed.cuh` have the same sizes, as constants.

use llama_core::Result;

use crate::kernels::Kernels;
use crate::launch::Launch;
use crate::params::{Address, Linear, Pack};
use crate::tiles::{TILE_ROWS, Tiles};
use crate::weight::Segment;

/// Fewer columns than this go to the kernels of `mma.sync`, whose blocks are smaller.
pub(crate) const LEAST_COLUMNS: u32 = 65;

/// Outputs of a task.
const ROWS: u32 = 128;
const COLUMNS: u32 = 128;
/// Inputs of a chunk.
const CHUNK: usize = 64;
/// Threads of a block: a producing warpgroup and two that multiply.
const THREADS: u32 = 384;
/// Bytes of a packed chunk of [`COLUMNS`] columns.
const CHUNK_BYTES: usize = COLUMNS as usize * CHUNK * 2;

/// How activations are packed; segments of one packing share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packing {
    group: usize,
    sums: bool,
    chunks: u32,
}

impl Packing {
    fn of(form: Tiles, inputs: usize) -> Self {
        let chunks = form.across(inputs) * form.inputs() / CHUNK;
        Packing { group: form.group(), sums: form.has_min(), chunks: chunks as u32 }
    }

    fn kernel(self) -> &'static str {
        match (self.group, self.sums) {
            (32, false) => "pack_32",
            (32, true) => "pack_32_sums",
            (_, false) => "pack_16",
            (_, true) => "pack_16_sums",
        }
    }

    fn bytes(self) -> usize {
        CHUNK_BYTES + if self.sums { CHUNK / self.group * COLUMNS as usize * 4 } else { 0 }
    }
}

/// Bytes that the packed activations of any linear take: `tokens` columns of at most `widest` inputs.
pub(crate) fn packed_bytes(tokens: usize, widest: usize) -> u64 {
    let most = Packing { group: 16, sums: true, chunks: (widest.next_multiple_of(256) / CHUNK) as u32 };
    tokens.div_ceil(COLUMNS as usize) as u64 * u64::from(most.chunks) * most.bytes() as u64
}

/// Bytes of a block's shared memory.
fn shared(form: Tiles) -> u32 {
    const ROOM: usize = 227 << 10;
    let (weights, inputs) = (ROWS as usize / TILE_ROWS * form.bytes(), Packing::of(form, form.inputs()).bytes());
    let fixed = 2 * 128 * (COLUMNS as usize / 2) * 4 + 512;
    let large = form.inputs() > CHUNK;
    let fit = if large { (ROOM - fixed - 2 * weights) / inputs } else { (ROOM - fixed) / (weights + inputs) };
    let stages = fit.min(6);
    (stages * inputs + if large { 2 } else { stages } * weights + fixed) as u32
}

/// Appends the launches of a linear whose segments' parameters are `params`, with room for its input at `packed`.
pub(crate) fn lower(
    kernels: &Kernels,
    multiprocessors: u32,
    packed: Address,
    segments: &[Segment],
    params: impl Fn(&Segment) -> Linear,
    launches: &mut Vec<Launch>,
) -> Result<()> {
    let mut last = None;
    for segment in segments {
        let p = params(segment);
        let packing = Packing::of(segment.form, p.inputs as usize);
        if last.replace(packing) != Some(packing) {
            launches.push(pack(kernels, packing, packed, &p)?);
        }
        let name = segment.form.names().wgmma;
        let tasks = p.rows.div_ceil(ROWS) * p.columns.div_ceil(COLUMNS);
        let p = Linear { input: packed, gather: 0, ..p };
        let launch = Launch::new(kernels.get(name)?, name, [tasks.min(multiprocessors), 1, 1], &p);
        launches.push(launch.threads(THREADS).shared(shared(segment.form)));
    }
    Ok(())
}

fn pack(kernels: &Kernels, packing: Packing, packed: Address, p: &Linear) -> Result<Launch> {
    let name = packing.kernel();
    let params = Pack {
        packed,
        x: p.input,
        gather: p.gather,
        columns: p.columns,
        inputs: p.inputs,
        chunks: packing.chunks,
        unused: 0,
    };
    let blocks = p.columns.div_ceil(COLUMNS) * packing.chunks;
    Ok(Launch::new(kernels.get(name)?, name, [blocks, 1, 1], &params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_hopper_and_the_packed_room_every_form() {
        for form in Tiles::ALL {
            assert!(shared(form) <= 227 << 10, "{form:?}: {}", shared(form));
            for inputs in [256, 1024, 4096] {
                let packing = Packing::of(form, inputs);
                let bytes = 3 * u64::from(packing.chunks) * packing.bytes() as u64;
                assert!(bytes <= packed_bytes(257, inputs), "{form:?}, {inputs} inputs");
            }
        }
    }
}
