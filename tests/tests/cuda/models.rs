//! Whole models on the CUDA backend, its kernels executed by the simulator under the mock driver: against transformers, the
//! CPU and itself.

use std::net::TcpListener;
use std::thread;

use conformance::{Spelled, Width};
use llama_core::adapter::Adapters;
use llama_core::backend::{KvFormat, Limits, Numerics};
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::model::{Llama, Model};
use llama_core::ranks::{Follower, Leader};
use llama_cuda::{Cuda, CudaOptions, Gemm};
use llama_kernels::{Cpu, CpuOptions, Tier};
use llama_tests::driver::Driver;
use llama_tests::heads;
use llama_tests::models::{Feed, Machine, argmax, bits, data, greedy, limits};
use llama_tests::models::{logits_and_greedy, logits_in_chunks, run, stories260k};
use llama_tests::tiny::{Case, NAMES, prefix_hit, ragged};
use mock_cuda::{Capability, Config};

const HALF: usize = NAMES.len() / 2;

/// A machine with one simulated GPU. Races and uninitialised memory are for the kernels' own suites to find.
pub(super) fn gpu(capability: Capability) -> Driver {
    Driver::new(&Config { capability, checks: false, ..Config::default() })
}

/// In the numerics and the cache that a user gets who chooses nothing.
fn load(checkpoint: &Checkpoint, limits: Limits) -> Llama<Cuda> {
    load_with(CudaOptions::default(), checkpoint, limits)
}

fn load_with(options: CudaOptions, checkpoint: &Checkpoint, limits: Limits) -> Llama<Cuda> {
    let cuda = Cuda::new(options).expect("a device");
    let limits = Limits { kv: KvFormat::Half, ..limits };
    Llama::load(cuda, checkpoint, limits, None, &mut |_| {}).expect("a model")
}

/// Of so many steps of one row those that are taken: the simulator needs some tenths of a second for one.
fn taken(gpu: &Driver, steps: usize, simulated: usize) -> usize {
    if gpu.mock().is_some() { steps.min(simulated) } else { steps }
}

/// A GPU leads and a CPU follows: each has half of the heads, and they exchange numbers in the middle of a step.
#[test]
fn a_gpu_and_a_cpu_are_two_ranks() {
    let _gpu = gpu(Capability::AMPERE);
    let case = Case::open("llama3-gqa");
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap().to_string();
    let numerics = Numerics::Precise;
    thread::scope(|scope| {
        scope.spawn(|| {
            let cpu = Cpu::new(CpuOptions { numerics, threads: Some(1), ..CpuOptions::default() }).unwrap();
            Follower::join(&address)
                .unwrap()
                .serve(cpu, &case.checkpoint, &Adapters::new(), None, &mut |_| {})
                .unwrap();
        });
        let cuda = Cuda::new(CudaOptions { numerics, ..CudaOptions::default() }).unwrap();
        let limits = limits(1, case.greedy[0].len());
        let leader = Leader::wait(&door, 2).unwrap();
        let mut model =
            leader.load(cuda, &case.checkpoint, &Adapters::new(), |_| Ok(limits), None, &mut |_| {}).unwrap();
        for chunk in [usize::MAX, 9] {
            let got = logits_in_chunks(&mut *model, &case.ids[0], chunk);
            let worst = got.iter().zip(&case.logits[0]).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
            assert!(got.len() == case.logits[0].len() && worst <= 2e-4, "largest error {worst}");
        }
    });
}

/// f32 throughout: transformers' logits to f32's precision, and its text.
#[test]
fn precise_numerics_agree_with_transformers() {
    agree_with_transformers(&NAMES[..HALF]);
}

/// The other half, so that two cores have work.
#[test]
fn precise_numerics_agree_with_transformers_on_more() {
    agree_with_transformers(&NAMES[HALF..]);
}

fn agree_with_transformers(names: &[&str]) {
    let gpu = gpu(Capability::AMPERE);
    for name in names {
        let case = Case::open(name);
        let mut model = case.load(Machine::Cuda, Numerics::Precise);
        let (ids, want) = (&case.ids[0], &case.logits[0]);
        let steps = taken(&gpu, case.greedy[0].len() - ids.len(), 6);
        let (got, continued) = logits_and_greedy(&mut *model, ids, steps);
        let worst = farthest(&got, want);
        assert!(got.len() == want.len() && worst <= 2e-4, "{name}: largest error {worst}");
        assert_eq!(continued, case.greedy[0][..ids.len() + steps], "{name}");
    }
}

/// Root of the mean square of `x - y`.
pub(super) fn distance(x: &[f32], y: &[f32]) -> f64 {
    let square = |(x, y): (&f32, &f32)| f64::from(x - y).powi(2);
    (x.iter().zip(y).map(square).sum::<f64>() / x.len() as f64).sqrt()
}

/// bf16 activations: no further from the truth than twice a plain bf16 computation is.
#[test]
fn default_numerics_err_no_more_than_twice_a_plain_computation() {
    let _gpu = gpu(Capability::AMPERE);
    for name in NAMES {
        let case = Case::open(name);
        let (ids, truth) = (&case.ids[0], &case.logits[0]);
        let limits = limits(2, case.greedy[0].len());
        let plain = Spelled::plain(Width::Bf16);
        let mut plain = Llama::load(plain, &case.checkpoint, limits, None, &mut |_| {}).expect("a model");
        let allowed = 2.0 * distance(&logits_in_chunks(&mut plain, ids, usize::MAX), truth);
        let got = logits_in_chunks(&mut load(&case.checkpoint, limits), ids, usize::MAX);
        let error = distance(&got, truth);
        println!("{name}: {error:.2e} of {allowed:.2e} allowed");
        assert!(error <= allowed, "{name}: error {error:.2e}, allowed {allowed:.2e}");
    }
}

/// A sequence's bits do not depend on the chunks of its prompt, the batch around it or a prefix that was there already.
fn every_schedule_gives_the_same_bits(capability: Capability, name: &str) {
    let gpu = gpu(capability);
    let case = Case::open(name);
    let mut model = load(&case.checkpoint, limits(2, case.greedy[0].len()));
    let ids = &case.ids[0];
    let want = bits(&logits_in_chunks(&mut model, ids, usize::MAX));
    // The last ones, which are beyond a window.
    let mut feed = Feed::new(&ids[..ids.len() - taken(&gpu, ids.len(), 24)], 1, 1, ids.len());
    let mut got = run(&mut model, &mut feed, usize::MAX);
    feed.ids.extend(&ids[feed.ids.len()..]);
    got.extend(run(&mut model, &mut feed, 1));
    assert!(bits(&got) == want, "{name}, one by one");
    for chunk in [7, 64] {
        assert!(bits(&logits_in_chunks(&mut model, ids, chunk)) == want, "{name} in chunks of {chunk}");
    }
    assert!(bits(&prefix_hit(&mut model, ids)) == want, "{name}, prefix hit");
    assert!(bits(&ragged(&mut model, &case.ids)[0]) == want, "{name}, ragged");
}

#[test]
fn every_schedule_on_ampere_gives_the_same_bits() {
    every_schedule_gives_the_same_bits(Capability::AMPERE, "mistral-window");
}

#[test]
fn every_schedule_on_hopper_gives_the_same_bits() {
    every_schedule_gives_the_same_bits(Capability::HOPPER, "gqa-9-3");
}

/// Hidden states beside logits and without them, in prompts and in replayed steps of one row: transformers' in f32, and in
/// bf16 the same bits for every schedule.
#[test]
fn hidden_states_agree_with_transformers_and_with_themselves() {
    let gpu = gpu(Capability::AMPERE);
    let case = heads::Case::open("llama3-gqa");
    let checkpoint = Checkpoint::open(case.whole()).unwrap();
    let ids = &case.ids[0][..taken(&gpu, case.ids[0].len(), 24)];
    let truth = &case.states[0][..ids.len() * checkpoint.config().hidden];
    let limits = limits(1, 128);
    let mut precise = Machine::Cuda.load(&checkpoint, limits, Numerics::Precise);
    let worst = farthest(&states_in_chunks(&mut *precise, ids, usize::MAX, false), truth);
    assert!(worst <= 2e-4, "largest error {worst}");
    let mut plain = Llama::load(Spelled::plain(Width::Bf16), &checkpoint, limits, None, &mut |_| {}).expect("a model");
    let allowed = 2.0 * distance(&states_in_chunks(&mut plain, ids, usize::MAX, false), truth);
    let mut model = load(&checkpoint, limits);
    let whole = states_in_chunks(&mut model, ids, usize::MAX, false);
    let error = distance(&whole, truth);
    assert!(error <= allowed, "error {error:.2e}, allowed {allowed:.2e}");
    let logits = bits(&logits_in_chunks(&mut model, ids, usize::MAX));
    for (chunk, outputs) in [(1, true), (1, false), (7, true)] {
        let got = states_in_chunks(&mut model, ids, chunk, outputs);
        assert!(bits(&got) == bits(&whole), "in chunks of {chunk}, logits {outputs}");
    }
    assert!(model.backend().graphs() > 1, "steps with and without logits were replayed");
    assert!(bits(&logits_in_chunks(&mut model, ids, 1)) == logits, "logits after such steps");
}

/// Hidden states of every position, with logits of every row computed beside them or none.
fn states_in_chunks(model: &mut dyn Model, ids: &[u32], chunk: usize, outputs: bool) -> Vec<f32> {
    let (mut feed, mut batch) = (Feed::new(ids, 1, 1, ids.len()), Batch::new());
    let (mut all, mut logits, mut states) = (Vec::new(), Vec::new(), Vec::new());
    while feed.done < ids.len() {
        batch.clear();
        feed.push(&mut batch, chunk);
        if !outputs {
            batch.outputs.clear();
        }
        model.forward(&batch, &mut logits).unwrap();
        model.states(&mut states).unwrap();
        all.extend_from_slice(&states);
    }
    all
}

/// The whole prompt goes through `wgmma`, its parts through `mma`: the order of their sums is one.
#[test]
fn wgmma_and_mma_give_the_same_bits() {
    let gpu = gpu(Capability::HOPPER);
    let case = Case::open("llama3-gqa");
    let options = CudaOptions { gemm: Gemm::Wgmma, ..CudaOptions::default() };
    let mut model = load_with(options, &case.checkpoint, limits(1, case.greedy[0].len()));
    let ids: Vec<u32> = case.ids[0].iter().chain(&case.ids[1]).copied().take(case.greedy[0].len().min(100)).collect();
    let whole = bits(&logits_in_chunks(&mut model, &ids, usize::MAX));
    let used = gpu.mock().is_none_or(|mock| mock.launches().contains_key("wgmma_bf16_bf16"));
    assert!(used, "no wgmma");
    assert!(bits(&logits_in_chunks(&mut model, &ids, 30)) == whole);
}

#[test]
fn tells_the_golden_story() {
    let gpu = gpu(Capability::AMPERE);
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let want = std::fs::read_to_string(data().join("stories260K/expected_greedy_n200.txt")).unwrap();
    let mut model = Machine::Cuda.load(&checkpoint, limits(1, 256), Numerics::Precise);
    let steps = taken(&gpu, 200, 80);
    let ids = greedy(&mut *model, &[tokenizer.bos().unwrap()], steps);
    let told = tokenizer.decode(&ids[1..]).unwrap();
    assert_eq!(want.get(..told.len()), Some(&told[..]));
    assert!(told.len() > steps && (steps < 200 || told + "\n" == want));
}

/// bf16 activations along the golden story: the errors of a plain computation at most twice, so that the next token is the
/// CPU's wherever the CPU's choice is clear of them.
#[test]
fn default_numerics_continue_the_story_as_the_cpu_does() {
    let _gpu = gpu(Capability::AMPERE);
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let (vocab, limits) = (checkpoint.config().vocab, limits(1, 128));
    let mut cpu = Machine::Cpu(Tier::best(), 1).load(&checkpoint, limits, Numerics::Float);
    let ids = greedy(&mut *cpu, &[1], 120);
    let truth = logits_in_chunks(&mut *cpu, &ids, usize::MAX);
    let mut plain = Llama::load(Spelled::plain(Width::Bf16), &checkpoint, limits, None, &mut |_| {}).expect("a model");
    let allowed = 2.0 * farthest(&logits_in_chunks(&mut plain, &ids, usize::MAX), &truth);
    let got = logits_in_chunks(&mut load(&checkpoint, limits), &ids, usize::MAX);
    let error = farthest(&got, &truth);
    assert!(error <= allowed, "error {error:.2e}, allowed {allowed:.2e}");
    let (mut clear, mut same) = (0, 0);
    for (got, truth) in got.chunks(vocab).zip(truth.chunks(vocab)) {
        let choice = argmax(truth);
        let beside = (0..vocab).filter(|&i| i != choice as usize).map(|i| truth[i]).fold(f32::MIN, f32::max);
        let is_clear = truth[choice as usize] - beside > 2.0 * allowed;
        same += usize::from(argmax(got) == choice);
        clear += usize::from(is_clear);
        assert!(!is_clear || argmax(got) == choice, "{choice} is clear, and {} was chosen", argmax(got));
    }
    println!("error {error:.2e} of {allowed:.2e} allowed; {same} of {} choices equal, {clear} clear", ids.len());
    assert!(2 * clear > ids.len(), "{clear} of {} choices are clear", ids.len());
}

/// The largest difference.
pub(super) fn farthest(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// After the same shape of step has been seen twice it is replayed, and a layer of it is five launches.
#[test]
fn a_decode_step_is_a_graph_of_five_launches_a_layer() {
    let gpu = gpu(Capability::AMPERE);
    let case = Case::open("llama3-gqa");
    let mut model = load(&case.checkpoint, limits(1, 64));
    let mut feed = Feed::new(&case.ids[0][..8], 0, 1, 64);
    run(&mut model, &mut feed, 1);
    assert!(model.backend().graphs() > 0);
    let Some(mock) = gpu.mock() else { return };
    mock.forget();
    feed.ids.push(7);
    run(&mut model, &mut feed, 1);
    let launches: u64 = mock.launches().values().sum();
    let layers = model.config().layers as u64;
    // Besides the layers: rotations, embedding, the last norm, the rows that are wanted, the head.
    assert!(launches <= 5 * layers + 5, "{launches} launches of {layers} layers: {:?}", mock.launches());
    assert_eq!(mock.calls().get("cuGraphLaunch"), Some(&1));
}
