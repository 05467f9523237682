//! From verbs to operations: neighbours that one kernel can do together become one.
//!
//! | verbs | operation |
//! |---|---|
//! | linear to x, add of x | linear that adds to the residual |
//! | add to the residual, norm of it | norm that adds first |
//! | norm to x, linear of x | linear that norms its input, for few columns |
//! | swiglu to act, linear of act | linear that gates its input, for few columns |
//! | rope_and_store, attention | attention that turns and stores, where every sequence has one row |
//!
//! So a layer of a decode step is five operations: qkv, attention, o, gate_up, down. What is left out by this (the normed
//! x, the gated act, the turned q) is left out only if nothing later in the step reads it: what adapters of the step change
//! stays apart, for they multiply the very input of the linear.

use crate::adapter::Group;
use crate::attention::Attend;
use crate::params::Address;
use crate::tensor::{Matrix, Number};
use crate::verb::{Gain, HeadNorms, RowTiles, Segments, Verb};

/// What a kernel does.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Embed {
        out: Matrix,
        table: Segments,
        scale: f32,
        tokens: Address,
    },
    Linear {
        out: Matrix,
        input: Input,
        weight: Segments,
        add: bool,
    },
    /// `residual += x` first, where there is an x.
    Norm {
        out: Matrix,
        residual: Matrix,
        x: Option<Matrix>,
        norm: Gain,
    },
    Add {
        acc: Matrix,
        x: Matrix,
    },
    NormHeads {
        qkv: Matrix,
        norms: HeadNorms,
    },
    Rope {
        qkv: Matrix,
        attend: Attend,
    },
    /// With `turn`, of q and k as they came from the linear.
    Attention {
        out: Matrix,
        qkv: Matrix,
        attend: Attend,
        turn: bool,
    },
    Swiglu {
        out: Matrix,
        gate_up: Matrix,
    },
    Take {
        out: Matrix,
        x: Matrix,
        index: Address,
    },
    Adapt {
        out: Matrix,
        low: Matrix,
        x: Matrix,
        group: Group,
        rows: RowTiles,
    },
}

/// What a linear multiplies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    Plain(Matrix),
    Norm(Matrix, Gain),
    Swiglu(Matrix),
}

/// Where a linear may take its input through a norm or a gate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    /// Most columns of a linear that does so.
    pub columns: u32,
    /// Most bytes of input that a block can keep.
    pub bytes: u32,
}

impl Reach {
    /// Whether a linear of `inputs` features may do so for an activation of that many rows.
    fn holds(self, x: Matrix) -> bool {
        x.number == Number::Bf16 && x.rows <= self.columns && x.rows * x.cols * 2 <= self.bytes
    }
}

/// Turns `verbs` into `ops`, which is replaced.
pub(crate) fn fuse(verbs: &[Verb], reach: Reach, ops: &mut Vec<Op>) {
    ops.clear();
    let mut at = 0;
    while at < verbs.len() {
        at += one(&verbs[at..], reach, ops);
    }
}

/// Appends the operation that the first verbs make; returns how many they were.
fn one(verbs: &[Verb], reach: Reach, ops: &mut Vec<Op>) -> usize {
    match verbs {
        [Verb::Linear { .. }, ..] => linear(verbs, None, ops),
        [norm @ Verb::Norm { .. }, rest @ ..] => 1 + after_norm(norm, rest, reach, ops),
        [Verb::Swiglu { out, gate_up }, Verb::Linear { x, .. }, rest @ ..]
            if x == out && reach.holds(*x) && is_dead(*x, rest) =>
        {
            1 + linear(&verbs[1..], Some(Input::Swiglu(*gate_up)), ops)
        }
        [Verb::Add { acc, x }, Verb::Norm { out, residual, norm }, ..] if acc == residual && x.number == out.number => {
            ops.push(Op::Norm { out: *out, residual: *residual, x: Some(*x), norm: *norm });
            2
        }
        [Verb::RopeAndStore { qkv, attend }, Verb::Attention { out, qkv: turned, attend: other }, rest @ ..]
            if qkv == turned
                && attend == other
                && attend.schedule.one_row_each
                && attend.is_fused(qkv.number)
                && is_dead(*qkv, rest) =>
        {
            ops.push(Op::Attention { out: *out, qkv: *qkv, attend: *attend, turn: true });
            2
        }
        [verb, ..] => {
            ops.push(alone(verb));
            1
        }
        [] => 0,
    }
}

/// A linear, which comes first, and what it can do besides.
fn linear(verbs: &[Verb], input: Option<Input>, ops: &mut Vec<Op>) -> usize {
    let Verb::Linear { out, x, weight } = &verbs[0] else { unreachable!("a linear comes first") };
    let input = input.unwrap_or(Input::Plain(*x));
    let weight = weight.clone();
    match &verbs[1..] {
        [Verb::Add { acc, x }, rest @ ..] if x == out && !normed_from(input, *acc) && is_dead(*x, rest) => {
            ops.push(Op::Linear { out: *acc, input, weight, add: true });
            2
        }
        _ => {
            ops.push(Op::Linear { out: *out, input, weight, add: false });
            1
        }
    }
}

/// Whether a linear's input is normed from `residual`, which it must not change while others read it.
fn normed_from(input: Input, residual: Matrix) -> bool {
    matches!(input, Input::Norm(from, _) if from.address == residual.address)
}

/// A norm and the linear it may go into. Returns how many of `rest` that took.
fn after_norm(norm: &Verb, rest: &[Verb], reach: Reach, ops: &mut Vec<Op>) -> usize {
    let Verb::Norm { out, residual, norm: gain } = norm else { unreachable!("a norm") };
    match rest {
        [Verb::Linear { x, .. }, later @ ..] if x == out && reach.holds(*x) && is_dead(*x, later) => {
            linear(rest, Some(Input::Norm(*residual, *gain)), ops)
        }
        _ => {
            ops.push(alone(norm));
            0
        }
    }
}

/// Whether nothing in `later` reads `x` before it is written again. After a step only what its last verb wrote counts.
fn is_dead(x: Matrix, later: &[Verb]) -> bool {
    let next = later.iter().find(|verb| verb.reads(x.address) || verb.out().address == x.address);
    next.is_none_or(|verb| !verb.reads(x.address))
}

fn alone(verb: &Verb) -> Op {
    match verb.clone() {
        Verb::Embed { out, table, scale, tokens } => Op::Embed { out, table, scale, tokens },
        Verb::Linear { out, x, weight } => Op::Linear { out, input: Input::Plain(x), weight, add: false },
        Verb::Norm { out, residual, norm } => Op::Norm { out, residual, x: None, norm },
        Verb::Add { acc, x } => Op::Add { acc, x },
        Verb::NormHeads { qkv, norms } => Op::NormHeads { qkv, norms },
        Verb::RopeAndStore { qkv, attend } => Op::Rope { qkv, attend },
        Verb::Attention { out, qkv, attend } => Op::Attention { out, qkv, attend, turn: false },
        Verb::Swiglu { out, gate_up } => Op::Swiglu { out, gate_up },
        Verb::Take { out, x, index } => Op::Take { out, x, index },
        Verb::Adapt { out, low, x, group, rows } => Op::Adapt { out, low, x, group, rows },
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;
    use crate::adapter::ADAPTERS;
    use crate::attention::Schedule;
    use crate::kv::KvNumber;
    use crate::params::Heads;

    const REACH: Reach = Reach { columns: 8, bytes: 48 << 10 };
    const GAIN: Gain = Gain { gain: 99, eps: 1e-5 };

    fn matrix(address: u64, number: Number, rows: u32) -> Matrix {
        Matrix { address, number, rows, cols: 64 }
    }

    fn attend(one_row_each: bool) -> Attend {
        Attend {
            k: 0,
            v: 0,
            angles: 0,
            positions: 0,
            slots: 0,
            sequence_of: 0,
            q_indptr: 0,
            kv_indptr: 0,
            block_ids: 0,
            tiles: 0,
            workspace: [0; 3],
            heads: Heads::zeroed(),
            number: KvNumber::Bf16,
            scale: 1.0,
            window: 0,
            factors: 0,
            schedule: Schedule { one_row_each, ..Schedule::default() },
        }
    }

    /// The verbs of `layers` layers on `rows` rows, as the graph calls them.
    fn layers(layers: usize, rows: u32, one_row_each: bool) -> Vec<Verb> {
        let [x, qkv, heads, gate_up, act] = [2, 3, 4, 5, 6].map(|address| matrix(address, Number::Bf16, rows));
        let (residual, logits) = (matrix(1, Number::F32, rows), matrix(7, Number::F32, rows));
        let weight = || Segments(Vec::new().into());
        let attend = attend(one_row_each);
        let norm = || Verb::Norm { out: x, residual, norm: GAIN };
        let mut verbs = vec![Verb::Embed { out: residual, table: weight(), scale: 1.0, tokens: 0 }];
        for _ in 0..layers {
            verbs.extend([
                norm(),
                Verb::Linear { out: qkv, x, weight: weight() },
                Verb::RopeAndStore { qkv, attend },
                Verb::Attention { out: heads, qkv, attend },
                Verb::Linear { out: x, x: heads, weight: weight() },
                Verb::Add { acc: residual, x },
                norm(),
                Verb::Linear { out: gate_up, x, weight: weight() },
                Verb::Swiglu { out: act, gate_up },
                Verb::Linear { out: x, x: act, weight: weight() },
                Verb::Add { acc: residual, x },
            ]);
        }
        verbs.extend([norm(), Verb::Linear { out: logits, x, weight: weight() }]);
        verbs
    }

    fn fused(verbs: &[Verb]) -> Vec<String> {
        let mut ops = Vec::new();
        fuse(verbs, REACH, &mut ops);
        let name = |op: &Op| match op {
            Op::Embed { .. } => "embed".into(),
            Op::Linear { input, add, .. } => {
                let input = match input {
                    Input::Plain(_) => "",
                    Input::Norm(..) => "norm+",
                    Input::Swiglu(_) => "swiglu+",
                };
                format!("{input}linear{}", if *add { "+add" } else { "" })
            }
            Op::Norm { x, .. } => if x.is_some() { "add+norm" } else { "norm" }.into(),
            Op::Add { .. } => "add".into(),
            Op::NormHeads { .. } => "norm heads".into(),
            Op::Rope { .. } => "rope".into(),
            Op::Attention { turn, .. } => if *turn { "rope+attention" } else { "attention" }.into(),
            Op::Swiglu { .. } => "swiglu".into(),
            Op::Take { .. } => "take".into(),
            Op::Adapt { .. } => "adapt".into(),
        };
        ops.iter().map(name).collect()
    }

    #[test]
    fn a_layer_of_decode_is_five_operations() {
        let layer = ["norm+linear", "rope+attention", "linear+add", "norm+linear", "swiglu+linear+add"];
        let want = [&["embed"][..], &layer, &layer, &["norm+linear"]].concat();
        assert_eq!(fused(&layers(2, 4, true)), want);
    }

    #[test]
    fn many_rows_keep_norm_gate_and_rotation_apart() {
        let layer = ["norm", "linear", "rope", "attention", "linear+add", "norm", "linear", "swiglu", "linear+add"];
        assert_eq!(fused(&layers(1, 100, false)), [&["embed"][..], &layer, &["norm", "linear"]].concat());
    }

    /// What is read later must be there.
    #[test]
    fn nothing_is_left_out_that_is_read_later() {
        let (residual, x) = (matrix(1, Number::F32, 1), matrix(2, Number::Bf16, 1));
        let (y, z) = (matrix(3, Number::Bf16, 1), matrix(4, Number::Bf16, 1));
        let weight = || Segments(Vec::new().into());
        let norm = Verb::Norm { out: x, residual, norm: GAIN };
        let linear = |out| Verb::Linear { out, x, weight: weight() };
        assert_eq!(fused(&[norm.clone(), linear(y), linear(z)]), ["norm", "linear", "linear"]);
        assert_eq!(fused(&[norm.clone(), linear(y), Verb::Add { acc: residual, x }]), ["norm", "linear", "add"]);
        assert_eq!(fused(&[norm.clone(), linear(y), norm, linear(z)]), ["norm+linear", "norm+linear"]);
    }

    #[test]
    fn a_sum_that_is_not_the_linears_stays_apart() {
        let (residual, x, y) = (matrix(1, Number::F32, 1), matrix(2, Number::Bf16, 1), matrix(3, Number::Bf16, 1));
        let linear = || Verb::Linear { out: y, x, weight: Segments(Vec::new().into()) };
        let norm = Verb::Norm { out: x, residual, norm: GAIN };
        assert_eq!(fused(&[linear(), Verb::Add { acc: residual, x }, norm]), ["linear", "add+norm"]);
        // The product itself is read later.
        let again = Verb::Add { acc: residual, x: y };
        assert_eq!(fused(&[linear(), again.clone(), again]), ["linear", "add", "add"]);
    }

    /// A block would read the residual that another adds to.
    #[test]
    fn a_linear_does_not_add_to_what_it_norms() {
        let (residual, x, y) = (matrix(1, Number::F32, 1), matrix(2, Number::Bf16, 1), matrix(3, Number::Bf16, 1));
        let norm = Verb::Norm { out: x, residual, norm: GAIN };
        let linear = Verb::Linear { out: y, x, weight: Segments(Vec::new().into()) };
        let sum = Verb::Add { acc: residual, x: y };
        assert_eq!(fused(&[norm.clone(), linear, sum, norm]), ["norm+linear", "add+norm"]);
    }

    /// What `adapt` does to a tensor like `out`, from x.
    fn adapt(out: Matrix, x: Matrix) -> Verb {
        let group = Group { first: 0, heads: [1; ADAPTERS], ranks: 4 };
        let rows = RowTiles { address: 0, count: out.rows, wide: false };
        Verb::Adapt { out, low: matrix(9, Number::F32, out.rows), x, group, rows }
    }

    /// A layer whose every linear an adapter changes: it reads x and act, and norms read sums with its own in them.
    #[test]
    fn adapters_keep_the_inputs_of_their_linears() {
        let mut verbs = layers(1, 4, true);
        let matrices: Vec<_> = verbs
            .iter()
            .enumerate()
            .filter_map(|(i, verb)| match (verb, verbs.get(i + 1)) {
                (Verb::Linear { x, .. }, Some(Verb::Add { acc, .. })) => Some((i + 2, *acc, *x)),
                (Verb::Linear { out, x, .. }, _) => Some((i + 1, *out, *x)),
                _ => None,
            })
            .collect();
        matrices.into_iter().rev().for_each(|(at, out, x)| verbs.insert(at, adapt(out, x)));
        let qkv = ["embed", "norm", "linear", "adapt", "rope+attention", "linear+add", "adapt"];
        let ffn = ["norm", "linear", "adapt", "swiglu", "linear+add", "adapt", "norm", "linear", "adapt"];
        assert_eq!(fused(&verbs), [&qkv[..], &ffn].concat());
    }

    #[test]
    fn an_adapter_that_comes_later_keeps_what_it_reads_and_what_it_adds_to() {
        let (residual, x) = (matrix(1, Number::F32, 1), matrix(2, Number::Bf16, 1));
        let (y, z) = (matrix(3, Number::Bf16, 1), matrix(4, Number::Bf16, 1));
        let linear = |out, x| Verb::Linear { out, x, weight: Segments(Vec::new().into()) };
        let (norm, sum) = (Verb::Norm { out: x, residual, norm: GAIN }, Verb::Add { acc: residual, x: y });
        assert_eq!(fused(&[norm.clone(), linear(y, x), adapt(z, x)]), ["norm", "linear", "adapt"], "x is read");
        assert_eq!(fused(&[norm.clone(), linear(y, x), adapt(x, z)]), ["norm", "linear", "adapt"], "x is added to");
        assert_eq!(fused(&[linear(y, x), sum.clone(), adapt(residual, y)]), ["linear", "add", "adapt"]);
        assert_eq!(fused(&[linear(y, x), adapt(y, x), sum.clone()]), ["linear", "adapt", "add"], "between them");
        assert_eq!(fused(&[sum, adapt(residual, z), norm]), ["add", "adapt", "norm"], "between them");
    }
}
