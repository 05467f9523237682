//! The linear layer as a share of the machine's ceilings.
//!
//! * `gemv`: one token through weights that no cache holds, beside a raw read of the same bytes;
//! * `gemm`: 512 tokens, beside the instruction peak of the tier.
//!
//! Ceiling and kernel alternate in one run, because a shared machine changes its mind within seconds, and the ratio of
//! their best times is printed before Criterion's own figures. `cargo bench -p llama-benches --bench linear`; arguments after
//! `--` filter by name, as in `gemm/avx512-vnni/Q4_0`. Every case is checked against the reference backend, bit for bit,
//! before it is timed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llama_benches::ceiling;
use llama_core::backend::{Backend, Numerics, Part, Reference, Role};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_kernels::LinearKernels;
use llama_kernels::isa::Tier;
use llama_kernels::ops::linear::linear;
use llama_kernels::quant::LinearScratch;
use llama_kernels::threads::Threads;
use llama_kernels::weight::Weight;

/// Everything one linear needs.
struct Case {
    kernels: LinearKernels,
    threads: Threads,
    scratch: LinearScratch,
    w: Weight,
    x: Vec<f32>,
    out: Vec<f32>,
    tokens: usize,
}

impl Case {
    fn new(tier: Tier, threads: usize, format: Format, rows: usize, cols: usize, tokens: usize) -> Case {
        let bytes = rows * format.row_bytes(cols).expect("whole blocks");
        // Bytes of 1 ..= 60 make every f16 finite, and every f32 and bf16 small but not subnormal.
        let data: Vec<u8> = (0..bytes).map(|i| (i * 29 % 60 + 1) as u8).collect();
        let view = TensorView::new("w", format, rows, cols, &data).expect("fits");
        let threads = Threads::new(threads).expect("threads");
        let mut case = Case {
            kernels: LinearKernels::new(tier).expect("available"),
            scratch: LinearScratch::new(tokens, cols, threads.count(), Numerics::Default).expect("memory"),
            w: Weight::new(&[Part { weight: view, bias: None }], Numerics::Default, &threads).expect("finite"),
            threads,
            x: (0..tokens * cols).map(|i| (i * 37 % 101) as f32 - 50.0).collect(),
            out: vec![0.0; tokens * rows],
            tokens,
        };
        case.check(view);
        case
    }

    /// That the first rows have the bits of the reference backend: a wrong result is not worth timing.
    fn check(&mut self, view: TensorView<'_>) {
        let (reference, rows) = (Reference::default(), view.rows().min(64));
        let first = Part { weight: view.slice_rows(0..rows), bias: None };
        let w = reference.weight(&[first]).expect("finite");
        let mut x = reference.tensor(self.tokens, view.cols(), Role::Activation).expect("memory");
        let mut want = reference.tensor(self.tokens, rows, Role::Activation).expect("memory");
        self.x.chunks_exact(view.cols()).enumerate().for_each(|(t, row)| x.row_mut(t).copy_from_slice(row));
        reference.linear(&mut want, &x, &w).expect("a linear");
        self.run();
        for (t, got) in self.out.chunks_exact(view.rows()).enumerate() {
            let same = got.iter().zip(want.row(t)).all(|(got, want)| got.to_bits() == want.to_bits());
            assert!(same, "{} differs from the reference", view.format().name());
        }
    }

    fn run(&mut self) {
        linear(&self.kernels, &self.threads, &mut self.scratch, &mut self.out, &self.x, self.tokens, &self.w);
    }

    fn bytes(&self) -> usize {
        self.w.segments().iter().map(|segment| segment.data().len()).sum()
    }

    fn macs(&self) -> u64 {
        (self.w.rows() * self.w.cols() * self.tokens) as u64
    }
}

fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// The time without the neighbours' share.
fn best(times: Vec<f64>) -> f64 {
    times.into_iter().fold(f64::INFINITY, f64::min)
}

fn cases() -> impl Iterator<Item = (Tier, usize, Format)> {
    let threads = [1, std::thread::available_parallelism().map_or(1, usize::from)];
    Tier::available().rev().flat_map(move |tier| {
        Format::ALL.into_iter().flat_map(move |format| threads.map(|threads| (tier, threads, format)))
    })
}

/// Whether Criterion's name filter, if any, lets `name` through: cases are expensive to make. The portable tier, which takes
/// minutes a case and has no ceiling, is run when a filter names it.
fn wanted(name: &str) -> bool {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let slow = name.contains(Tier::Portable.name());
    (filters.is_empty() && !slow) || filters.iter().any(|filter| name.contains(filter.as_str()))
}

/// About 100 MB of weights.
fn gemv(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemv");
    for (tier, threads, format) in cases() {
        let name = format!("{tier}/{}/{threads}t", format.name());
        if !wanted(&format!("gemv/{name}")) {
            continue;
        }
        let rows = (100 << 20) / format.row_bytes(4096).expect("whole blocks") / 64 * 64;
        let mut case = Case::new(tier, threads, format, rows, 4096, 1);
        let (mut raw, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..15 {
            raw.push(time(|| _ = black_box(ceiling::raw_read(&case.threads, case.w.segments()[0].data()))));
            ours.push(time(|| case.run()));
        }
        let (raw, ours, bytes) = (best(raw), best(ours), case.bytes() as f64 * 1e-9);
        println!(
            "gemv/{name}: {:.1} GB/s, {:.0} % of a raw read ({:.1})",
            bytes / ours,
            100.0 * raw / ours,
            bytes / raw
        );
        group.throughput(Throughput::Bytes(case.bytes() as u64));
        group.bench_function(&name, |b| b.iter(|| case.run()));
    }
}

/// 512 tokens through `[4096, 2048]`.
fn gemm(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm");
    for (tier, threads, format) in cases() {
        let name = format!("{tier}/{}/{threads}t", format.name());
        if !wanted(&format!("gemm/{name}")) {
            continue;
        }
        let mut case = Case::new(tier, threads, format, 4096, 2048, 512);
        let (mut peak, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            peak.push(1.0 / ceiling::macs_per_second(&case.threads, tier, !format.is_quantised(), 2_000_000));
            ours.push(time(|| case.run()) / case.macs() as f64);
        }
        let (peak, ours) = (best(peak), best(ours));
        let of = if format.is_quantised() { "int8" } else { "f32" };
        println!(
            "gemm/{name}: {:.0} GMAC/s, {:.0} % of the {of} peak ({:.0})",
            1e-9 / ours,
            100.0 * peak / ours,
            1e-9 / peak
        );
        group.throughput(Throughput::Elements(case.macs()));
        group.bench_function(&name, |b| b.iter(|| case.run()));
    }
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = quick(); targets = gemv, gemm }
criterion_main!(benches);
