//! Whole models: load, prefill and decode, each checked against the reference backend before it is timed and printed
//! beside the machine's ceiling.
//!
//! ```text
//! cargo bench -p llama-benches --bench model                                   # the model that ships with the examples
//! LLAMA_BENCH_MODEL=model.gguf cargo bench -p llama-benches --bench model
//! ```

use std::path::PathBuf;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llama_benches::subject::{Shape, Subject};
use llama_core::checkpoint::Checkpoint;
use llama_kernels::{CpuOptions, Tier};

fn model(c: &mut Criterion) {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/stories260K.gguf");
    let path = std::env::var_os("LLAMA_BENCH_MODEL").map_or_else(|| shipped.into(), PathBuf::from);
    let checkpoint = Checkpoint::open(path).expect("a model");
    let most = llama_kernels::threads::available();
    for tier in Tier::available() {
        for threads in if most > 1 { vec![1, most] } else { vec![1] } {
            let cpu = CpuOptions { threads: Some(threads), tier: Some(tier), ..CpuOptions::default() };
            one(c, &checkpoint, Shape { cpu, context: checkpoint.config().context.min(512), sequences: 1 });
        }
    }
}

fn one(c: &mut Criterion, checkpoint: &Checkpoint, shape: Shape) {
    let mut subject = Subject::load(checkpoint, shape).expect("a model that loads");
    subject.check(checkpoint).expect("a step");
    let mut group = c.benchmark_group(subject_name(&subject, shape));
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    println!(
        "ceilings: prefill {:.0} tok/s, decode {:.0} tok/s",
        subject.peak() / subject.macs as f64,
        subject.read() / subject.weight_bytes as f64
    );
    group.throughput(Throughput::Bytes(subject.weight_bytes));
    group.bench_function("load", |b| b.iter(|| Subject::load(checkpoint, shape).expect("a model that loads")));
    let prompt = shape.context - 1;
    group.throughput(Throughput::Elements(prompt as u64));
    group.bench_function("prefill", |b| b.iter(|| subject.feed(0, prompt, 1).expect("a step").len()));
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode", |b| b.iter(|| subject.feed(prompt, 1, 1).expect("a step").len()));
    group.finish();
}

fn subject_name(subject: &Subject, shape: Shape) -> String {
    let tier = shape.cpu.tier.map_or("best", Tier::name);
    format!("{tier}, {} thread{}", subject.threads(), if subject.threads() == 1 { "" } else { "s" })
}

criterion_group!(benches, model);
criterion_main!(benches);
