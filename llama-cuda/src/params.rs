//! What kernels are passed: `kernels/params.cuh`, `kernels/adapter.cuh` and the top of `kernels/{embed,head_norm}.cu`, in Rust, field by
//! field.

use bytemuck::{Pod, Zeroable};

/// Where a linear's input comes from.
pub(crate) mod source {
    pub const BF16: u32 = 0;
    pub const NORM: u32 = 1;
    pub const SWIGLU: u32 = 2;
    pub const F32: u32 = 3;
}

/// What becomes of a linear's output.
pub(crate) mod sink {
    pub const BF16: u32 = 0;
    pub const F32: u32 = 1;
    pub const ADD: u32 = 2;
}

/// An address on the device; 0 is null.
pub(crate) type Address = u64;

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Zeroable, Pod)]
        pub(crate) struct $name { $(pub $field: $ty),* })*
    };
}

params! {
    /// `out[c][r] = weights[r] . x[c] + bias[r]` for one segment of a weight.
    Linear {
        weights: Address, input: Address, gather: Address, gain: Address, bias: Address, out: Address,
        rows: u32, inputs: u32, columns: u32, stride: u32, source: u32, sink: u32, eps: f32, unused: u32,
    }
    /// `out[t] = table[tokens[t]] * scale`
    Embed { table: Address, tokens: Address, out: Address, hidden: u32, count: u32, scale: f32, unused: u32 }
    /// Whole rows of a checkpoint's blocks to tiles.
    Repack { raw: Address, tiles: Address, rows: u32, inputs: u32, row_bytes: u32, unused: u32 }
    /// `out[r] = norm(residual[r] += x[r]) * gain`
    Norm {
        out: Address, residual: Address, x: Address, gain: Address, rows: u32, features: u32, eps: f32, unused: u32,
    }
    /// Norms every head of q and of k in place.
    HeadNorm { qkv: Address, q_gain: Address, k_gain: Address, heads: u32, kv_heads: u32, head_dim: u32, eps: f32 }
    /// Cosine and sine of every token's position times every frequency.
    Angles { angles: Address, positions: Address, inv_freq: Address, tokens: u32, half: u32, scale: f32, unused: u32 }
    /// How heads lie in a row of qkv, and where keys and values are kept.
    Heads { heads: u32, kv_heads: u32, head_dim: u32, padded: u32, half: u32, interleaved: u32 }
    /// Turns q and k in place and stores k and v.
    Rope {
        qkv: Address, k: Address, v: Address, angles: Address, slots: Address, shape: Heads, tokens: u32, factors: u32,
    }
    /// Attention of every row of a batch over its sequence's cache.
    Attention {
        out: Address, qkv: Address, k: Address, v: Address, angles: Address, positions: Address, slots: Address,
        sequence_of: Address, q_indptr: Address, kv_indptr: Address, block_ids: Address, tiles: Address,
        partials: Address, stats: Address, arrivals: Address, shape: Heads, scale: f32, window: u32, run: u32, factors: u32,
    }
    /// `out[r] = silu(gate) * up` of row r.
    SwiGlu { out: Address, gate_up: Address, rows: u32, ffn: u32 }
    /// `acc += x`
    Add { acc: Address, x: Address, count: u32, unused: u32 }
    /// `out[i] = x[index[i]]`
    TakeRows { out: Address, x: Address, index: Address, rows: u32, features: u32 }
    /// A linear's activations in the order of `wgmma`'s tiles.
    Pack { packed: Address, x: Address, gather: Address, columns: u32, inputs: u32, chunks: u32, unused: u32 }
    /// Blocks of one layer's cache, copied within it.
    CopyBlocks { k: Address, v: Address, pairs: Address, count: u32, bytes: u32 }
    /// How one token is picked.
    Draw {
        row: u32, temperature: f32, top_k: u32, top_p: f32, min_p: f32, repetition: f32, presence: f32, frequency: f32,
        history: u32, generated: u32, history_end: u32, bias: u32, bias_end: u32, seed: [u32; 2], position: [u32; 2],
        unused: [u32; 3],
    }
    /// What became of a draw.
    Pick { kind: u32, token: u32, bits: u32, unused: u32 }
    /// Where an adapter's matrices are; its parts follow.
    AdapterHead { a: Address, ranks: u32, count: u32 }
    /// What an adapter adds to some of a weight's rows.
    AdapterPart { b: Address, first: u32, rows: u32, ranks: u32, low: u32 }
    /// Consecutive rows of one adapter.
    AdapterTile { adapter: u32, first: u32, rows: u32 }
    /// `out[t] += b (a x[t])` for the rows t of the tiles whose adapters are among these.
    Adapt {
        out: Address, x: Address, low: Address, tiles: Address, adapters: [Address; 16],
        first: u32, outputs: u32, inputs: u32, room: u32,
    }
    /// Picks a token for each of `draws`.
    Sample {
        logits: Address, draws: Address, tokens: Address, biases: Address, states: Address, sums: Address, picks: Address,
        vocab: u32, count: u32, by_weight: u32, unused: u32,
    }
}
