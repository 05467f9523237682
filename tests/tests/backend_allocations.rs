//! After warm-up a step allocates nothing on the heap, on any backend, whatever thread would: counted by the allocator itself.

use llama_core::backend::{
    AttentionShape, Backend, KvFormat, Limits, LowRank, Norm, Numerics, Part, Role, RopeLayout, Rows,
};
use llama_core::batch::{Batch, Stage};
use llama_core::checkpoint::{Checkpoint, TensorView};
use llama_core::format::Format;
use llama_core::{Error, Result};
use llama_cuda::{Cuda, CudaOptions};
use llama_kernels::{Cpu, CpuOptions, Tier};
use llama_tests::counting::Counting;
use llama_tests::models::{Feed, Machine, limits, stories260k};
use mock_cuda::{Config, install};

#[global_allocator]
static COUNTING: Counting = Counting::new();

/// Every verb, over prompts and lone tokens that take each path of the schedule.
fn steps<B: Backend>(b: &B) -> Result<usize> {
    let (inv_freq, layout) = (vec![1.0, 0.1], RopeLayout::Halves);
    let shape = AttentionShape {
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        inv_freq,
        rope_scale: 1.0,
        layout,
        unturned: Vec::new(),
        scale: 0.25,
        window: None,
        temperature: None,
    };
    let limits = Limits { tokens: 600, sequences: 2, outputs: 2, context: 640, blocks: 80, kv: KvFormat::Half };
    let bytes = vec![0u8; 128 * Format::Q8_0.row_bytes(64).unwrap_or(0)];
    let view = TensorView::new("w", Format::Q8_0, 128, 64, &bytes)?;
    let part = |rows| Part { weight: view.slice_rows(rows), bias: None };
    let (wide, square) = (b.weight(&[part(0..128)])?, b.weight(&[part(0..64)])?);
    let gate_up = b.weight(&[part(0..64), part(64..128)])?;
    let numbers = [0u8; 4 * 8 * 128];
    let floats = |rows, cols| TensorView::new("adapter", Format::F32, rows, cols, &numbers[..4 * rows * cols]);
    let change = LowRank { first_row: 0, a: floats(8, 64)?, b: floats(128, 8)? };
    let mut adapter = b.adapter([128, 64], &[(128, 8)], Role::Local)?;
    b.set_adapter(&mut adapter, &[change], Role::Local)?;
    let adapters = [None, Some(adapter)];
    let (mut kv, mut plan) = (b.kv_cache(&shape, &limits)?, b.plan(&shape, &limits)?);
    let new = |rows, cols| b.tensor(rows, cols, Role::Activation);
    let mut residual = b.tensor(600, 64, Role::Residual)?;
    let (mut x, mut y, mut qkv) = (new(600, 64)?, new(600, 64)?, new(600, 128)?);
    let (mut out, mut low) = (new(2, 64)?, b.tensor(600, 8, Role::Residual)?);
    let ones = [1.0f32.to_le_bytes(); 64].concat();
    let gain = b.gain(TensorView::new("gain", Format::F32, 1, 64, &ones)?)?;

    let blocks: Vec<u32> = (0..80).collect();
    let (mut prompt, mut token, mut two) = (Batch::new(), Batch::new(), Batch::new());
    prompt.push(&[1; 600], 0, &blocks[..40], [599]);
    prompt.adapt(Some(1));
    token.push(&[2], 600, &blocks[..40], [0]);
    two.push(&[3; 3], 601, &blocks[..40], [2]);
    two.push(&[3; 20], 0, &blocks[40..], [19]);
    two.adapt(Some(1));
    let mut counted = 0;
    for (i, batch) in [&prompt, &token, &two].repeat(3).into_iter().enumerate() {
        let before = COUNTING.allocations();
        b.prepare(&mut plan, batch)?;
        [&mut residual, &mut x, &mut y, &mut qkv, &mut low]
            .into_iter()
            .for_each(|tensor| tensor.set_rows(batch.rows()));
        b.replay(|| {
            b.embed(&mut residual, &wide, 1.0, &plan)?;
            b.norm_linear(&mut qkv, &mut y, &residual, Norm { gain: &gain, eps: 1e-5 }, &wide)?;
            b.adapt(&mut qkv, &mut low, &y, &adapters, &plan, Stage::Tokens)?;
            b.rope_and_store(&mut qkv, &mut kv, 0, &plan)?;
            b.attention(&mut y, &qkv, &kv, 0, &plan)?;
            b.linear_add(&mut residual, &mut x, &y, &square)?;
            let room = (&mut qkv, &mut x);
            b.norm_linear_swiglu(&mut y, room, &residual, Norm { gain: &gain, eps: 1e-5 }, &gate_up)?;
            b.swiglu(&mut y, &qkv)?;
            b.add(&mut residual, &y)?;
            b.rms_norm(&mut x, &residual, &gain, 1e-5)?;
            b.linear(&mut y, &x, &square)?;
            b.take_outputs(&mut out, &x, &plan)
        })?;
        b.copy_blocks(&mut kv, &[(0, 79)])?;
        // A step is recorded when it is seen for the second time.
        counted += if i < 6 { 0 } else { COUNTING.allocations() - before };
    }
    Ok(counted)
}

/// Steps of a whole model on two ranks, which also exchange what they compute.
fn ranked_steps() -> Result<usize> {
    let mut model =
        Machine::Ranks(2, 2, Tier::best()).load(&Checkpoint::open(stories260k())?, limits(1, 256), Numerics::Default);
    let ids: Vec<u32> = (0..128).map(|i| 3 + i * 37 % 509).collect();
    let (mut batch, mut logits, mut counted) = (Batch::new(), Vec::new(), 0);
    for warm in [false, true] {
        let mut feed = Feed::new(&ids, 0, 1, 256);
        for chunk in [100, 1, 1, 20] {
            let before = COUNTING.allocations();
            batch.clear();
            feed.push(&mut batch, chunk);
            model.forward(&batch, &mut logits)?;
            model.copy_blocks(&[(0, 15)])?;
            counted += if warm { COUNTING.allocations() - before } else { 0 };
        }
    }
    Ok(counted)
}

/// No harness: its threads allocate when they like. The mock driver's allocations are its own.
fn main() -> Result<(), Error> {
    for (threads, numerics) in [1, 2, 3].into_iter().flat_map(|threads| Numerics::ALL.map(|mode| (threads, mode))) {
        let cpu = Cpu::new(CpuOptions { threads: Some(threads), numerics, ..CpuOptions::default() })?;
        assert_eq!(steps(&cpu)?, 0, "allocations with {threads} threads, {numerics:?}");
    }
    assert_eq!(ranked_steps()?, 0, "allocations on two ranks");
    let gpu = install(&Config { checks: false, ..Config::default() });
    let _gpu = gpu.unwrap_or_else(|error| panic!("the mock driver: {error}"));
    assert_eq!(steps(&Cuda::new(CudaOptions::default())?)?, 0, "allocations on CUDA");
    println!("a step allocates nothing: ok");
    Ok(())
}
