//! Whole models with adapters beside their weights, on a driver that runs the shipped PTX in the simulator: against the CPU
//! and a plain computation, and against themselves for any company.

use std::sync::Arc;

use conformance::{Spelled, Width};
use llama_core::adapter::{Adapter, AdapterRoom, Adapters, Named};
use llama_core::backend::{Backend, KvFormat, Limits, Numerics};
use llama_core::batch::{AdapterId, Batch};
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::Config;
use llama_core::model::{Llama, MemoryPlan, Model};
use llama_cuda::{Cuda, CudaOptions};
use llama_kernels::Tier;
use llama_tests::adapters::{Change, gguf};
use llama_tests::models::{Feed, Machine, bits, limits};
use llama_tests::tiny::Case;
use mock_cuda::Capability;

use super::models::{distance, farthest, gpu};

/// Some of every fused weight.
const FIRST: [(Name, usize); 5] =
    [(Name::Q(0), 4), (Name::V(0), 3), (Name::O(1), 5), (Name::Up(0), 2), (Name::Down(1), 4)];
/// Others, and the head.
const SECOND: [(Name, usize); 5] =
    [(Name::K(0), 6), (Name::Gate(0), 3), (Name::Gate(1), 1), (Name::Down(1), 9), (Name::Head, 2)];

fn adapters(config: &Config) -> Arc<Adapters> {
    let mut adapters = Adapters::new();
    for (name, names) in [("first", FIRST), ("second", SECOND)] {
        adapters.add(name, adapter(&names, config), 0.02, config).unwrap();
    }
    Arc::new(adapters)
}

fn adapter(names: &[(Name, usize)], config: &Config) -> Adapter {
    let change = |(&(name, rank), seed)| Change::random(name, rank, config, seed);
    let changes: Vec<_> = names.iter().zip(1..).map(change).collect();
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), gguf(&changes, config.head_dim, 4.0).bytes()).unwrap();
    Adapter::open(file.path()).unwrap()
}

fn made_for() -> Limits {
    Limits { kv: KvFormat::Half, ..limits(3, 96) }
}

fn load<B: Backend>(backend: B, checkpoint: &Checkpoint, adapters: &Arc<Adapters>) -> Llama<B> {
    Llama::load_with(backend, checkpoint, adapters, made_for(), None, &mut |_| {}).expect("a model")
}

fn cuda(options: CudaOptions) -> Cuda {
    Cuda::new(options).expect("a device")
}

/// A sequence and what it is computed with.
type Sequence<'a> = (&'a [u32], Option<AdapterId>);

/// Logits of every position of each sequence. All of them together: the rows but the last three in one step, then one a step.
fn together(model: &mut dyn Model, sequences: &[Sequence<'_>]) -> Vec<Vec<f32>> {
    let (vocab, mut batch, mut logits) = (model.config().vocab, Batch::new(), Vec::new());
    let mut feeds: Vec<_> = sequences.iter().zip(0..).map(|((ids, _), i)| Feed::new(ids, i, 3, 96)).collect();
    let mut all = vec![Vec::new(); sequences.len()];
    for step in 0..4 {
        batch.clear();
        let rows: Vec<usize> = feeds
            .iter_mut()
            .zip(sequences)
            .map(|(feed, (ids, adapter))| {
                let count = feed.push(&mut batch, if step == 0 { ids.len() - 3 } else { 1 });
                batch.adapt(*adapter);
                count
            })
            .collect();
        model.forward(&batch, &mut logits).unwrap();
        let mut rest = &logits[..];
        for (all, rows) in all.iter_mut().zip(rows) {
            let own;
            (own, rest) = rest.split_at(rows * vocab);
            all.extend_from_slice(own);
        }
    }
    all
}

/// The same of one sequence by itself, in chunks.
fn alone(model: &mut dyn Model, (ids, adapter): Sequence<'_>, chunk: usize) -> Vec<f32> {
    let (mut feed, mut batch) = (Feed::new(ids, 1, 1, 96), Batch::new());
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    while feed.done < ids.len() {
        batch.clear();
        feed.push(&mut batch, chunk);
        batch.adapt(adapter);
        model.forward(&batch, &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

/// In f32 the CPU's logits; in bf16 no further from them than twice a plain computation is; and an adapter makes a difference.
#[test]
fn several_in_one_batch_agree_with_the_cpu() {
    let _gpu = gpu(Capability::AMPERE);
    let case = Case::open("llama3-gqa");
    let (checkpoint, adapters) = (&case.checkpoint, adapters(case.checkpoint.config()));
    let sequences = [(&case.ids[0][..24], Some(1)), (&case.ids[1][..10], None), (&case.ids[1][..18], Some(0))];
    let f32_cache = Limits { kv: KvFormat::F32, ..made_for() };
    let mut cpu = Machine::Cpu(Tier::best(), 1).load_with(checkpoint, &adapters, f32_cache, Numerics::Float);
    let mut precise = Machine::Cuda.load_with(checkpoint, &adapters, f32_cache, Numerics::Precise);
    let truth = together(&mut *cpu, &sequences);
    let none = together(&mut *cpu, &sequences.map(|(ids, _)| (ids, None)));
    let plain = together(&mut load(Spelled::plain(Width::Bf16), checkpoint, &adapters), &sequences);
    let got = together(&mut load(cuda(CudaOptions::default()), checkpoint, &adapters), &sequences);
    for (i, precise) in together(&mut *precise, &sequences).iter().enumerate() {
        let (worst, made) = (farthest(precise, &truth[i]), distance(&none[i], &truth[i]));
        assert!(worst <= 2e-4, "sequence {i}: largest error {worst}");
        let (error, allowed) = (distance(&got[i], &truth[i]), 2.0 * distance(&plain[i], &truth[i]));
        println!("sequence {i}: error {error:.2e} of {allowed:.2e} allowed, a difference of {made:.2e}");
        assert!(error <= allowed, "sequence {i}: error {error:.2e}, allowed {allowed:.2e}");
        assert!((made > 2.0 * allowed) == sequences[i].1.is_some(), "sequence {i}: a difference of {made:.2e}");
    }
}

/// A sequence's bits are its own, whatever others have; and steps of one shape are one graph, whoever has which.
#[test]
fn every_company_gives_the_same_bits() {
    let _gpu = gpu(Capability::AMPERE);
    let case = Case::open("llama3-gqa");
    let adapters = adapters(case.checkpoint.config());
    let mut model = load(cuda(CudaOptions::default()), &case.checkpoint, &adapters);
    let ids = [&case.ids[0][..12], &case.ids[1][..9], &case.ids[1][..10]];
    let with = |adapters: [Option<AdapterId>; 3]| -> Vec<Sequence<'_>> { ids.into_iter().zip(adapters).collect() };
    let sequences = with([Some(0), None, Some(1)]);
    let got = together(&mut model, &sequences);
    for ((sequence, got), chunk) in sequences.iter().zip(&got).zip([7, usize::MAX, usize::MAX]) {
        assert!(bits(&alone(&mut model, *sequence, chunk)) == bits(got), "{:?} in chunks of {chunk}", sequence.1);
    }
    let exchanged = together(&mut model, &with([Some(1), None, Some(0)]));
    assert!(bits(&exchanged[1]) == bits(&got[1]) && bits(&exchanged[0]) != bits(&got[0]));
    let graphs = model.backend().graphs();
    assert!(bits(&together(&mut model, &sequences)[2]) == bits(&got[2]), "and back");
    assert_eq!(model.backend().graphs(), graphs, "the same steps of others' adapters");
}

/// A launch knows sixteen adapters: those after them have launches of their own.
#[test]
fn more_than_a_launch_knows_go_in_groups() {
    let gpu = gpu(Capability::AMPERE);
    let case = Case::open("llama3-gqa");
    let config = case.checkpoint.config();
    let mut many = Adapters::new();
    for i in 0..18 {
        many.add(&format!("the {i}th"), adapter(&[(Name::O(0), 1 + i % 3)], config), 0.01 * i as f32, config).unwrap();
    }
    let many = Arc::new(many);
    let mut model = load(cuda(CudaOptions::default()), &case.checkpoint, &many);
    let ids = &case.ids[0][..8];
    let sequences = [(ids, Some(3)), (ids, Some(17)), (ids, Some(16))];
    let got = together(&mut model, &sequences);
    for (sequence, got) in sequences.iter().zip(&got) {
        assert!(bits(&alone(&mut model, *sequence, usize::MAX)) == bits(got), "{:?}", sequence.1);
    }
    assert!(bits(&got[1]) != bits(&got[2]));
    let Some(mock) = gpu.mock() else { return };
    mock.forget();
    alone(&mut model, (ids, Some(17)), usize::MAX);
    assert_eq!(mock.launches().get("adapt_expand_f32"), Some(&1), "one group, of the two that there are");
}

/// The persistent kernel knows nothing of adapters: a step with one is a graph, one without is its own.
#[test]
fn a_step_with_an_adapter_is_a_graph() {
    let _gpu = gpu(Capability::AMPERE);
    let case = Case::open("llama3-gqa");
    let adapters = adapters(case.checkpoint.config());
    let (ids, options) = (&case.ids[0][..4], CudaOptions { persistent: true, ..CudaOptions::default() });
    let mut model = load(cuda(options), &case.checkpoint, &adapters);
    let got = alone(&mut model, (ids, Some(0)), 1);
    assert_eq!((model.backend().programs(), model.backend().graphs()), (0, 1));
    let mut launches = load(cuda(CudaOptions::default()), &case.checkpoint, &adapters);
    assert!(bits(&alone(&mut launches, (ids, Some(0)), 1)) == bits(&got));
    alone(&mut model, (ids, None), 1);
    assert_eq!((model.backend().programs(), model.backend().graphs()), (1, 1));
}

/// What a model with adapters takes of the card is what its plan says, in the one piece that is taken for it.
#[test]
fn adapters_are_in_the_plan() {
    let gpu = gpu(Capability::AMPERE);
    let Some(mock) = gpu.mock() else { return };
    let case = Case::open("llama3-gqa");
    let some = adapters(case.checkpoint.config());
    let watch = cuda(CudaOptions::default());
    let [none, with] = [Arc::default(), some].map(|adapters: Arc<Adapters>| {
        let cuda = cuda(CudaOptions::default());
        let planned = MemoryPlan::with(&cuda, &case.checkpoint, &adapters, &made_for()).unwrap();
        let before = watch.free_memory().unwrap();
        mock.forget();
        let _model = load(cuda, &case.checkpoint, &adapters);
        let pieces =
            mock.calls().iter().filter(|(name, _)| name.starts_with("cuMemAlloc")).map(|(_, n)| n).sum::<u64>();
        (planned, before - watch.free_memory().unwrap(), pieces)
    });
    assert_eq!(with.2, none.2, "blocks of memory");
    assert_eq!(with.1 - none.1, with.0.total() - none.0.total());
    assert!(with.0.adapters > 0 && none.0.adapters == 0);
}

/// Two that are put over others while steps that were recorded with those are kept: the bits of a model that was loaded with them,
/// in places that stay where they are, so that a recording serves whoever comes with the same ranks, and no memory but what there was.
#[test]
fn what_is_added_has_the_bits_of_what_is_loaded() {
    let gpu = gpu(Capability::AMPERE);
    let case = Case::open("llama3-gqa");
    let (checkpoint, config) = (&case.checkpoint, case.checkpoint.config());
    let named = |names: &[(Name, usize)]| Named::new("it", adapter(names, config), 0.02, config).unwrap();
    let wide = named(&[(Name::Q(0), 9), (Name::O(1), 2), (Name::Gate(1), 4), (Name::Down(0), 9), (Name::Head, 1)]);
    // Other numbers of the same shapes.
    let mut twin = FIRST;
    twin.reverse();
    let [twin, first, second] = [named(&twin), named(&FIRST), named(&SECOND)];
    let mut room = Adapters::new();
    room.set_room(AdapterRoom { adapters: 2, rank: 9 }).unwrap();
    let sequences = [(&case.ids[0][..12], Some(0)), (&case.ids[1][..9], None), (&case.ids[1][..10], Some(1))];
    let want = together(&mut load(cuda(CudaOptions::default()), checkpoint, &adapters(config)), &sequences);
    let mut model = load(cuda(CudaOptions::default()), checkpoint, &Arc::new(room));
    gpu.mock().inspect(|mock| mock.forget());
    let mut graphs = Vec::new();
    for both in [[&wide, &second], [&second, &wide], [&twin, &second], [&first, &second]] {
        for (named, place) in both.into_iter().zip(0..) {
            assert_eq!(model.add_adapter(named, &[place]).unwrap(), place);
        }
        // So often that steps are recorded, and replayed.
        let got = [(); 3].map(|()| together(&mut model, &sequences));
        graphs.push(model.backend().graphs());
        let same = got.iter().flatten().zip(want.iter().cycle()).all(|(got, want)| bits(got) == bits(want));
        assert_eq!(same, std::ptr::eq(both[0], &first), "after {graphs:?} graphs");
    }
    assert!(graphs[1] > graphs[0] && graphs[2] > graphs[1] && graphs[3] == graphs[2], "{graphs:?}");
    let Some(mock) = gpu.mock() else { return };
    assert!(mock.calls().iter().all(|(name, _)| !name.starts_with("cuMemAlloc")), "{:?}", mock.calls());
}
