//! A whole model through the persistent kernel, on a driver that runs the shipped PTX in the simulator: the bits of separate
//! launches, and the same memory.

use llama_core::backend::{KvFormat, Limits};
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_core::model::{Llama, Model};
use llama_cuda::{Cuda, CudaOptions};
use llama_tests::models::{Feed, bits, data, limits};
use mock_cuda::{Capability, Config, install};

/// Logits of four tokens of each of `sequences` sequences, one a step, and how many step shapes became programs and graphs.
fn decode(name: &str, sequences: usize, capability: Capability, persistent: bool) -> (Vec<u32>, [usize; 2]) {
    let mock = install(&Config { capability, multiprocessors: 2, ..Config::default() }).expect("the mock driver");
    let cuda = Cuda::new(CudaOptions { persistent, ..CudaOptions::default() }).expect("a backend");
    let checkpoint = Checkpoint::open(data().join("tiny").join(name)).expect("a checkpoint");
    let limits = Limits { kv: KvFormat::Half, ..limits(sequences, 16) };
    let mut model = Llama::load(cuda, &checkpoint, limits, None, &mut |_| {}).expect("a model");
    let mut feeds: Vec<Feed> = (0..sequences as u32).map(|s| Feed::new(&[5 + s, 9, 3, 7], s, 4, 16)).collect();
    let (mut batch, mut logits, mut all) = (Batch::new(), Vec::new(), Vec::new());
    for _ in 0..4 {
        batch.clear();
        feeds.iter_mut().for_each(|feed| assert_eq!(feed.push(&mut batch, 1), 1));
        model.forward(&batch, &mut logits).unwrap_or_else(|error| panic!("{error}: {:?}", mock.last_finding()));
        all.extend(bits(&logits));
    }
    (all, [model.backend().programs(), model.backend().graphs()])
}

#[test]
fn the_bits_are_those_of_separate_launches() {
    for (name, sequences, capability) in [
        ("llama3-gqa", 1, Capability::AMPERE),
        ("biased", 4, Capability::AMPERE),
        ("llama2-mha", 2, Capability::HOPPER),
    ] {
        let (want, [programs, graphs]) = decode(name, sequences, capability, false);
        assert_eq!((programs, graphs), (0, 1), "{name}");
        let (got, [programs, graphs]) = decode(name, sequences, capability, true);
        assert_eq!((programs, graphs), (1, 0), "{name}");
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn steps_of_more_rows_are_graphs() {
    let (_, kept) = decode("llama2-mha", 5, Capability::AMPERE, true);
    assert_eq!(kept, [0, 1]);
}
