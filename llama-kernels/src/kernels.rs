//! One table of inner loops per tier: the only dispatch.
//!
//! A table's functions need the instructions of its tier, and calling one without them is undefined behaviour. The
//! fields are private and the constructors are the only makers: a table that exists was made on a CPU that has its tier.
//! That is the whole argument behind every `unsafe` call below.

use std::ops::Range;

use half::{bf16, f16};
use llama_core::backend::RopeLayout;
use llama_core::numerics::{GROUP, LANES, PARTITION};

use crate::arch;
use crate::isa::Tier;
use crate::kv::Element;
use crate::weight::pack::MAX_PANEL_ROWS;

/// Running softmax statistics of one query: the maximum of its scores, and the sum of their exponentials below it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Softmax {
    /// Largest score.
    pub max: f32,
    /// Sum of `exp(score - max)`.
    pub sum: f32,
}

/// Sums; low, a panel of `b`, the first of its rows.
type AddLowRank = unsafe fn(&mut [f32; LANES], &[f32], &[[f32; MAX_PANEL_ROWS]], usize);

/// Inner loops over rows of activations. Every tier gives the bits of `llama_core::numerics`.
#[derive(Clone, Copy)]
pub struct VectorKernels {
    rms_norm: unsafe fn(&mut [f32], &[f32], &[f32], f32),
    norm_in_place: unsafe fn(&mut [f32], &[f32], f32),
    add: unsafe fn(&mut [f32], &[f32]),
    add_low_rank: AddLowRank,
    swiglu: unsafe fn(&mut [f32], &[f32], &[f32]),
    rotate: unsafe fn(&mut [f32], &[f32], &[f32], RopeLayout),
    narrow: unsafe fn(&[f32], &mut [f16]),
    narrow_bf16: unsafe fn(&[f32], &mut [bf16]),
    quantise: unsafe fn(&[f32], &mut [i8], &mut [f32]),
}

impl VectorKernels {
    /// The table of `tier`, or `None` if this CPU lacks it.
    pub fn new(tier: Tier) -> Option<Self> {
        macro_rules! table {
            ($tier:ident) => {{
                use arch::$tier::vector::*;
                VectorKernels {
                    rms_norm,
                    norm_in_place,
                    add,
                    add_low_rank,
                    swiglu,
                    rotate,
                    narrow,
                    narrow_bf16,
                    quantise,
                }
            }};
        }
        tier.is_available().then(|| match tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => table!(avx512),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 | Tier::AvxVnni => table!(avx2),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon | Tier::NeonDotprod | Tier::NeonI8mm => table!(aarch64),
            _ => table!(portable),
        })
    }

    /// `out = x * rms_scale(x, eps) * gain`: one row.
    pub fn rms_norm(&self, out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
        assert!(out.len() == x.len() && gain.len() == x.len(), "norm {} of {} by {}", out.len(), x.len(), gain.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.rms_norm)(out, x, gain, eps) }
    }

    /// `x *= rms_scale(x, eps) * gain`, the scale first: one head.
    pub fn norm_in_place(&self, x: &mut [f32], gain: &[f32], eps: f32) {
        assert_eq!(x.len(), gain.len(), "norm in place");
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.norm_in_place)(x, gain, eps) }
    }

    /// `acc += x`.
    pub fn add(&self, acc: &mut [f32], x: &[f32]) {
        assert_eq!(acc.len(), x.len(), "add");
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.add)(acc, x) }
    }

    /// `acc += sum over k of low[k] * ranks[k][first..]`: what a low-rank product adds to sixteen of a token's numbers, of which a
    /// panel of `b` has the rows from `first` on.
    pub fn add_low_rank(&self, acc: &mut [f32; LANES], low: &[f32], ranks: &[[f32; MAX_PANEL_ROWS]], first: usize) {
        assert!(low.len() == ranks.len() && first + LANES <= MAX_PANEL_ROWS, "{} ranks from row {first}", low.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.add_low_rank)(acc, low, ranks, first) }
    }

    /// `out = silu(gate) * up`.
    pub fn swiglu(&self, out: &mut [f32], gate: &[f32], up: &[f32]) {
        assert!(gate.len() == out.len() && up.len() == out.len(), "swiglu {} of {}", out.len(), gate.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.swiglu)(out, gate, up) }
    }

    /// Turns the first `2 * cos.len()` columns of a head, in the pairs of `layout`.
    pub fn rotate(&self, head: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
        assert!(cos.len() == sin.len() && 2 * cos.len() <= head.len(), "{} turns of {}", cos.len(), head.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.rotate)(head, cos, sin, layout) }
    }

    /// Rounds to half precision, to nearest even.
    pub fn narrow(&self, x: &[f32], out: &mut [f16]) {
        assert_eq!(x.len(), out.len(), "narrow");
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.narrow)(x, out) }
    }

    /// Rounds to bfloat16, to nearest even.
    pub fn narrow_bf16(&self, x: &[f32], out: &mut [bf16]) {
        assert_eq!(x.len(), out.len(), "narrow_bf16");
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.narrow_bf16)(x, out) }
    }

    /// [`llama_core::numerics::quantize_row`]: numbers, and a scale for each group of them.
    pub fn quantise(&self, x: &[f32], out: &mut [i8], scales: &mut [f32]) {
        assert!(x.len() == out.len() && scales.len() >= x.len().div_ceil(GROUP), "quantise {} numbers", x.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.quantise)(x, out, scales) }
    }
}

/// Query rows that one call of a block kernel takes at most.
pub const ROWS: usize = 4;

/// Blocks of K or V that a kernel reads, and as many that will be read next: a tier that can asks memory for the `i`-th of
/// these while it works on the `i`-th block. What is in a cache already does no harm there.
#[derive(Clone, Copy)]
pub struct Reading<'a, E> {
    /// Blocks that are read.
    pub now: &'a [&'a [E]],
    /// Blocks that are wanted next.
    pub ahead: &'a [&'a [E]],
}

/// Queries, blocks of K, scale; scores.
type Scores<E> = unsafe fn(&[&[f32]], Reading<'_, E>, f32, &mut [f32]);
/// Weights, blocks of V, positions; sums.
type Values<E> = unsafe fn(&[&[f32]], Reading<'_, E>, Range<usize>, &mut [f32]);

/// Inner loops of attention over the blocks of one partition and one KV head, of element `E`.
#[derive(Clone, Copy)]
pub struct BlockKernels<E> {
    scores: Scores<E>,
    values: Values<E>,
}

impl<E: Element> BlockKernels<E> {
    /// `out[r][b][t] = scale * (q[r] . column t of k[b])`, `out [rows][PARTITION]` from its first block, each dot one
    /// chain in index order ([`llama_core::numerics::scaled_dot`] where there are scales).
    pub fn scores(&self, q: &[&[f32]], k: Reading<'_, E>, scale: f32, out: &mut [f32]) {
        assert!((1..=ROWS).contains(&q.len()) && q.iter().all(|row| row.len() == q[0].len()), "{} queries", q.len());
        assert!(k.now.iter().all(|block| block.len() == E::len(q[0].len())), "blocks of {} columns", q[0].len());
        assert!(k.now.len() == k.ahead.len(), "{} blocks before {}", k.now.len(), k.ahead.len());
        assert!(out.len() >= (q.len() - 1) * PARTITION + k.now.len() * LANES, "{} scores", out.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.scores)(q, k, scale, out) }
    }

    /// `out[r] += sum over t in positions of p[r][t] * row t of v`, a chain in the order of `t`, continued from `out`;
    /// where there are scales, `p[r][t]` is multiplied by the group's before the row is.
    /// `p [rows][..]` and the blocks `v` start at the partition's start; `out [rows][stride]`.
    pub fn values(&self, p: &[&[f32]], v: Reading<'_, E>, positions: Range<usize>, out: &mut [f32]) {
        if positions.is_empty() {
            return;
        }
        assert!((1..=ROWS).contains(&p.len()) && p.iter().all(|row| row.len() >= positions.end), "{} rows", p.len());
        assert!(out.len().is_multiple_of(p.len() * LANES), "{} outputs of {} rows", out.len(), p.len());
        assert!(v.now.len() == v.ahead.len(), "{} blocks before {}", v.now.len(), v.ahead.len());
        assert!(v.now.len() >= positions.end.div_ceil(LANES), "{} blocks for {positions:?}", v.now.len());
        assert!(v.now.iter().all(|block| block.len() == E::len(out.len() / p.len())), "{} outputs", out.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.values)(p, v, positions, out) }
    }
}

/// Inner loops of attention.
#[derive(Clone, Copy)]
pub struct AttentionKernels {
    pub(crate) f32: BlockKernels<f32>,
    pub(crate) f16: BlockKernels<f16>,
    pub(crate) bf16: BlockKernels<bf16>,
    pub(crate) q8: BlockKernels<i8>,
    softmax: unsafe fn(&mut [f32], Range<usize>) -> Softmax,
    merge: unsafe fn(&mut Softmax, &mut [f32], Softmax, &[f32]),
}

impl AttentionKernels {
    /// The table of `tier`, or `None` if this CPU lacks it.
    pub fn new(tier: Tier) -> Option<Self> {
        macro_rules! table {
            ($tier:ident) => {{
                use arch::$tier::attention::*;
                let f32 = BlockKernels { scores: scores::<f32>, values: values::<f32> };
                let f16 = BlockKernels { scores: scores::<f16>, values: values::<f16> };
                let bf16 = BlockKernels { scores: scores::<bf16>, values: values::<bf16> };
                let q8 = BlockKernels { scores: scores::<i8>, values: values::<i8> };
                AttentionKernels { f32, f16, bf16, q8, softmax, merge }
            }};
        }
        tier.is_available().then(|| match tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => table!(avx512),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 | Tier::AvxVnni => table!(avx2),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon | Tier::NeonDotprod | Tier::NeonI8mm => table!(aarch64),
            _ => table!(portable),
        })
    }

    /// Turns the `visible` scores of a partition into `exp(score - max)` and sums them, position `t` in lane `t % 16`.
    /// Other entries of the vectors that hold a visible one are left undefined.
    pub fn softmax(&self, scores: &mut [f32], visible: Range<usize>) -> Softmax {
        assert!(!visible.is_empty() && visible.end <= scores.len(), "softmax of {visible:?} in {}", scores.len());
        assert!(scores.len().is_multiple_of(LANES), "{} scores", scores.len());
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.softmax)(scores, visible) }
    }

    /// Merges the partial result of later positions into `all` and `acc`.
    pub fn merge(&self, all: &mut Softmax, acc: &mut [f32], later: Softmax, out: &[f32]) {
        assert_eq!(acc.len(), out.len(), "merge");
        // SAFETY: the constructor checked that this CPU has the table's tier.
        unsafe { (self.merge)(all, acc, later, out) }
    }
}
