//! After warm-up a step allocates nothing on the heap, whatever thread would: counted by the allocator itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use llama_core::backend::{AttentionShape, Backend, KvFormat, Limits, Part, Role, RopeLayout, Rows};
use llama_core::batch::Batch;
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_core::{Error, Result};
use llama_kernels::{Cpu, CpuOptions};

/// The system's allocator, counting.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Every verb, over prompts and lone tokens that take each path of the schedule.
fn steps(threads: usize) -> Result<usize> {
    let cpu = Cpu::new(CpuOptions { threads: Some(threads), ..CpuOptions::default() })?;
    let (inv_freq, layout) = (vec![1.0, 0.1], RopeLayout::Halves);
    let shape = AttentionShape {
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        inv_freq,
        rope_scale: 1.0,
        layout,
        scale: 0.25,
        window: None,
    };
    let limits = Limits { tokens: 600, sequences: 2, outputs: 2, context: 640, blocks: 80, kv: KvFormat::Half };
    let bytes = vec![0u8; 128 * Format::Q8_0.row_bytes(64).unwrap_or(0)];
    let view = TensorView::new("w", Format::Q8_0, 128, 64, &bytes)?;
    let (wide, square) = (
        cpu.weight(&[Part { weight: view, bias: None }])?,
        cpu.weight(&[Part { weight: view.slice_rows(0..64), bias: None }])?,
    );
    let (mut kv, mut plan) = (cpu.kv_cache(&shape, &limits)?, cpu.plan(&shape, &limits)?);
    let new = |rows, cols| cpu.tensor(rows, cols, Role::Activation);
    let (mut x, mut y, mut qkv) = (new(600, 64)?, new(600, 64)?, new(600, 128)?);
    let (mut out, gain) = (new(2, 64)?, new(1, 64)?);

    let blocks: Vec<u32> = (0..80).collect();
    let (mut prompt, mut token, mut two) = (Batch::new(), Batch::new(), Batch::new());
    prompt.push(&[1; 600], 0, &blocks[..40], [599]);
    token.push(&[2], 600, &blocks[..40], [0]);
    two.push(&[3; 3], 601, &blocks[..40], [2]);
    two.push(&[3; 20], 0, &blocks[40..], [19]);
    let mut counted = 0;
    for (i, batch) in [&prompt, &token, &two, &prompt, &token, &two].into_iter().enumerate() {
        let before = COUNT.load(SeqCst);
        cpu.prepare(&mut plan, batch)?;
        [&mut x, &mut y, &mut qkv].into_iter().for_each(|tensor| tensor.set_rows(batch.rows()));
        cpu.replay(|| {
            cpu.embed(&mut x, &wide, &plan)?;
            cpu.rms_norm(&mut y, &x, &gain, 1e-5)?;
            cpu.linear(&mut qkv, &y, &wide)?;
            cpu.rope_and_store(&mut qkv, &mut kv, 0, &plan)?;
            cpu.attention(&mut y, &qkv, &kv, 0, &plan)?;
            cpu.linear(&mut x, &y, &square)?;
            cpu.add_rms_norm(&mut x, &mut y, &gain, 1e-5)?;
            cpu.swiglu(&mut y, &qkv)?;
            cpu.add(&mut x, &y)?;
            cpu.take_outputs(&mut out, &x, &plan)
        })?;
        cpu.copy_blocks(&mut kv, &[(0, 79)])?;
        counted += if i < 3 { 0 } else { COUNT.load(SeqCst) - before };
    }
    Ok(counted)
}

/// No harness: its threads allocate when they like.
fn main() -> Result<(), Error> {
    for threads in [1, 2, 3] {
        assert_eq!(steps(threads)?, 0, "allocations with {threads} threads");
    }
    println!("a step allocates nothing: ok");
    Ok(())
}
