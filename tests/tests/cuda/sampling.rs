//! The CUDA backend picks the tokens that the CPU's sampler picks, on a driver that runs the shipped PTX in the simulator.

use std::sync::Arc;

use llama_core::backend::{Backend, Role};
use llama_core::sample::{Allowed, Draw, History, Outputs, Sampling};
use llama_cuda::{Cuda, CudaOptions};
use llama_tests::driver::Driver;
use mock_cuda::{Capability, Config};

const VOCAB: usize = 2500;

fn backend(capability: Capability) -> (Cuda, Driver) {
    let driver = Driver::new(&Config { capability, ..Config::default() });
    (Cuda::new(CudaOptions::default()).expect("a backend"), driver)
}

/// Rows of logits between -4 and 4.
fn logits(rows: usize) -> Vec<f32> {
    let mix = |i: usize| (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (0..rows * VOCAB).map(|i| mix(i) as f32 / (1 << 21) as f32 - 4.0).collect()
}

fn samplings() -> Vec<Sampling> {
    let warm = |seed| Sampling { temperature: 0.9, seed, ..Sampling::greedy() };
    vec![
        Sampling::greedy(),
        warm(1),
        Sampling { top_k: 40, ..warm(1 << 40) },
        Sampling { top_p: 0.5, min_p: 0.1, ..warm(3) },
        Sampling { top_k: usize::MAX, top_p: 0.9, temperature: 7.0, ..warm(4) },
        Sampling { repetition_penalty: 1.4, presence_penalty: 0.3, penalty_window: 30, ..warm(5) },
        Sampling { logit_bias: vec![(9, 3.0), (2, 1.0), (9, -0.7), (2499, 5.5)], ..Sampling::greedy() },
        Sampling { logit_bias: (0..VOCAB as u32).map(|token| (token, f32::NEG_INFINITY)).collect(), ..warm(6) },
    ]
}

/// Draws from rows 1, 3, 5 and so on.
fn draws<'a>(samplings: &'a [Sampling], tokens: &'a [u32]) -> Vec<Draw<'a>> {
    let history = History { tokens, prompt: 12 };
    let draw = |(i, sampling)| Draw { row: 2 * i + 1, sampling, history, position: 1000 + i as u64 };
    samplings.iter().enumerate().map(draw).collect()
}

fn picks_what_the_cpu_picks(capability: Capability, samplings: &[Sampling], tokens: &[u32]) -> Driver {
    let (cuda, driver) = backend(capability);
    let rows = 2 * samplings.len();
    let mut tensor = cuda.tensor(rows, VOCAB, Role::Logits).expect("logits");
    let mut values = logits(rows);
    values[3 * VOCAB + 77] = f32::NAN;
    let draws = draws(samplings, tokens);
    let mut outputs = Outputs::new(VOCAB);
    outputs.logits.clone_from(&values);
    outputs.pick(&draws);
    let expected = format!("{:?}", outputs.picks);
    // Launched once, recorded once, replayed once.
    for _ in 0..3 {
        tensor.write(&values).expect("write");
        outputs.clear();
        cuda.sample(&mut tensor, &draws, &mut outputs)
            .unwrap_or_else(|error| panic!("{error}: {:?}", driver.last_finding()));
        assert_eq!(format!("{:?}", outputs.picks), expected);
    }
    let host = tokens.len() >= 100_000 || samplings.iter().any(Sampling::needs_host);
    assert_eq!(outputs.logits.is_empty(), !host, "logits stay where they are if they can");
    driver
}

#[test]
fn ampere_picks_what_the_cpu_picks() {
    let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 90).collect();
    let driver = picks_what_the_cpu_picks(Capability::AMPERE, &samplings(), &tokens);
    let Some(mock) = driver.mock() else { return };
    assert_eq!(mock.launches()["sample_bin"], 6);
    assert_eq!(mock.launches()["sample_draw"], 3);
}

#[test]
fn hopper_picks_what_the_cpu_picks() {
    let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 90).collect();
    picks_what_the_cpu_picks(Capability::HOPPER, &samplings(), &tokens);
}

#[test]
fn greedy_is_one_launch() {
    let driver = picks_what_the_cpu_picks(Capability::HOPPER, &[Sampling::greedy(), Sampling::greedy()], &[]);
    let Some(mock) = driver.mock() else { return };
    assert_eq!(mock.launches().get("sample_adjust"), Some(&3));
    assert_eq!(mock.launches().get("sample_draw"), None);
}

#[test]
fn a_history_without_room_is_left_to_the_host() {
    let tokens: Vec<u32> = (0..100_000).map(|i| i % VOCAB as u32).collect();
    let penalised = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
    let driver = picks_what_the_cpu_picks(Capability::AMPERE, &[penalised, Sampling::greedy()], &tokens);
    assert_eq!(driver.mock().and_then(|mock| mock.launches().remove("sample_adjust")), None);
}

#[test]
fn draws_that_the_kernels_do_not_know_are_left_to_the_host() {
    let warm = Sampling { temperature: 0.9, seed: 1, ..Sampling::greedy() };
    for sampling in [
        Sampling { typical_p: 0.5, ..warm.clone() },
        Sampling { xtc_probability: 1.0, xtc_threshold: 0.0, ..warm.clone() },
        Sampling { dry_multiplier: 1e3, dry_allowed_length: 0, ..Sampling::greedy() },
        Sampling { allowed_tokens: Some(Arc::new(Allowed::only(VOCAB, &[7, 8]).unwrap())), ..Sampling::greedy() },
        Sampling { bad_words: (100..VOCAB as u32).map(|token| Box::from([token])).collect(), ..Sampling::greedy() },
    ] {
        let tokens: Vec<u32> = (0..VOCAB as u32).collect();
        let driver = picks_what_the_cpu_picks(Capability::AMPERE, &[warm.clone(), sampling.clone()], &tokens);
        let launches = driver.mock().map(|mock| mock.launches());
        assert!(launches.is_none_or(|launches| !launches.contains_key("sample_adjust")), "{sampling:?}");
    }
    // What is off keeps nothing from the kernels.
    let off =
        Sampling { typical_p: 0.5, xtc_probability: 1.0, dry_multiplier: 9.0, dry_window: 0, ..Sampling::greedy() };
    let driver = picks_what_the_cpu_picks(Capability::AMPERE, &[off, warm], &[]);
    let Some(mock) = driver.mock() else { return };
    assert_eq!(mock.launches().get("sample_adjust"), Some(&3));
}

#[test]
fn the_plan_counts_what_sampling_takes() {
    let (cuda, _driver) = backend(Capability::AMPERE);
    let activations = cuda.tensor_bytes(8, VOCAB, Role::Residual);
    assert!(cuda.tensor_bytes(8, VOCAB, Role::Logits) > activations + 8 * 18_000);
}
