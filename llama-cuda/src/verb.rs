//! A step's verbs, written down before they run: what each reads and writes, as plain data.

use std::sync::Arc;

use crate::adapter::Group;
use crate::attention::Attend;
use crate::params::Address;
use crate::tensor::Matrix;
use crate::weight::Segment;

/// One call of the contract.
#[derive(Debug, Clone)]
pub(crate) enum Verb {
    Embed { out: Matrix, table: Segments, scale: f32, tokens: Address },
    Linear { out: Matrix, x: Matrix, weight: Segments },
    Norm { out: Matrix, residual: Matrix, norm: Gain },
    Add { acc: Matrix, x: Matrix },
    NormHeads { qkv: Matrix, norms: HeadNorms },
    RopeAndStore { qkv: Matrix, attend: Attend },
    Attention { out: Matrix, qkv: Matrix, attend: Attend },
    Swiglu { out: Matrix, gate_up: Matrix },
    Take { out: Matrix, x: Matrix, index: Address },
    Adapt { out: Matrix, low: Matrix, x: Matrix, group: Group, rows: RowTiles },
}

/// The tiles of rows that adapters change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowTiles {
    pub address: Address,
    pub count: u32,
    /// Whether there are up to eight rows in one, not one.
    pub wide: bool,
}

/// A weight's segments; equal where they are the same weight's.
#[derive(Debug, Clone)]
pub(crate) struct Segments(pub Arc<[Segment]>);

/// What a norm multiplies by, and what it adds under the root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gain {
    pub gain: Address,
    pub eps: f32,
}

/// What the norms of heads multiply by, and how heads lie in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNorms {
    /// Of queries and of keys.
    pub gains: [Address; 2],
    pub eps: f32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
}

impl Verb {
    /// The tensor it writes.
    pub fn out(&self) -> Matrix {
        match self {
            Verb::Embed { out, .. }
            | Verb::Linear { out, .. }
            | Verb::Norm { out, .. }
            | Verb::Attention { out, .. }
            | Verb::Swiglu { out, .. }
            | Verb::Take { out, .. }
            | Verb::Adapt { out, .. } => *out,
            Verb::Add { acc, .. } => *acc,
            Verb::NormHeads { qkv, .. } | Verb::RopeAndStore { qkv, .. } => *qkv,
        }
    }

    /// Whether it reads a tensor at `address`.
    pub fn reads(&self, address: Address) -> bool {
        let read = match self {
            Verb::Embed { .. } => [None, None],
            Verb::Linear { x, .. } | Verb::Take { x, .. } => [Some(x), None],
            Verb::Norm { residual, .. } => [Some(residual), None],
            Verb::Add { acc, x } => [Some(acc), Some(x)],
            Verb::NormHeads { qkv, .. } | Verb::RopeAndStore { qkv, .. } | Verb::Attention { qkv, .. } => {
                [Some(qkv), None]
            }
            Verb::Swiglu { gate_up, .. } => [Some(gate_up), None],
            // What it keeps in `low` it has written itself.
            Verb::Adapt { out, x, .. } => [Some(out), Some(x)],
        };
        read.into_iter().flatten().any(|matrix| matrix.address == address)
    }
}
