//! A model in BF16 whose weights take twelve bits: the logits of the model, from less memory; and a refusal where it cannot be.

use std::fs;
use std::path::Path;

use llama_core::backend::Numerics;
use llama_core::checkpoint::Checkpoint;
use llama_core::convert::{Converter, Mixture};
use llama_core::format::Format;
use llama_core::model::{Llama, Model};
use llama_core::{Error, Loader, Result};
use llama_kernels::{Cpu, CpuOptions, Tier};
use llama_tests::models::{Machine, bits, limits, logits_in_chunks, smollm2, stories260k};

fn cpu(tier: Tier, threads: usize) -> Cpu {
    let options = CpuOptions { tier: Some(tier), threads: Some(threads), compact: true, ..CpuOptions::default() };
    Cpu::new(options).unwrap()
}

/// A checkpoint with all of its matrices in BF16.
fn in_bf16(model: &Path, folder: &Path) -> Checkpoint {
    let (model, path) = (Checkpoint::open(model).unwrap(), folder.join("bf16.gguf"));
    Converter::new(&model).mixture(Mixture::Plain(Format::BF16)).threads(2).write(&path, |_| ()).unwrap();
    Checkpoint::open(path).unwrap()
}

fn logits(cpu: Cpu, checkpoint: &Checkpoint, chunk: usize) -> Result<Vec<u32>> {
    let ids: Vec<u32> = (0..40).map(|i| 3 + i * 37 % 509).collect();
    let mut model = Llama::load(cpu, checkpoint, limits(1, 64), None, &mut |_| {})?;
    Ok(bits(&logits_in_chunks(&mut model as &mut dyn Model, &ids, chunk)))
}

fn plain(checkpoint: &Checkpoint) -> Vec<u32> {
    logits(Cpu::new(CpuOptions::default()).unwrap(), checkpoint, 40).unwrap()
}

#[test]
fn a_trained_model_keeps_its_bits() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = in_bf16(&stories260k(), folder.path());
    let ids: Vec<u32> = (0..40).map(|i| 3 + i * 37 % 509).collect();
    let mut reference = Machine::Reference.load(&checkpoint, limits(1, 64), Numerics::Default);
    let want = bits(&logits_in_chunks(&mut *reference, &ids, usize::MAX));
    for tier in Tier::available() {
        for (threads, chunk) in [(1, 1), (2, 7), (2, 40)] {
            assert!(
                logits(cpu(tier, threads), &checkpoint, chunk).unwrap() == want,
                "{tier}, {threads} threads, {chunk}"
            );
        }
    }
}

/// Its weights come of four bits, so they are no Gaussian: but they were one.
#[test]
fn so_does_smollm2_in_a_quarter_less_memory() {
    let Some(path) = smollm2("compact") else { return };
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = in_bf16(&path, folder.path());
    let weights = |cpu: &Cpu| Loader::open(folder.path().join("bf16.gguf")).unwrap().memory_plan(cpu).unwrap().weights;
    let ratio = weights(&cpu(Tier::best(), 2)) as f64 / weights(&Cpu::new(CpuOptions::default()).unwrap()) as f64;
    assert!((0.75..0.78).contains(&ratio), "{ratio}");
    assert!(logits(cpu(Tier::best(), 2), &checkpoint, 7).unwrap() == plain(&checkpoint));
}

#[test]
fn a_file_of_packed_weights_holds_them_too() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = in_bf16(&stories260k(), folder.path());
    let caches = folder.path().join("caches");
    fs::create_dir(&caches).unwrap();
    let want = plain(&checkpoint);
    for threads in [1, 2, 1] {
        for tier in Tier::available() {
            let cached = cpu(tier, threads).cached(&caches, &checkpoint).unwrap();
            cached.verify_cache().unwrap();
            assert!(logits(cached, &checkpoint, 7).unwrap() == want, "{tier}");
        }
        let plain = Cpu::new(CpuOptions::default()).unwrap().cached(&caches, &checkpoint).unwrap();
        assert!(logits(plain, &checkpoint, 7).unwrap() == want);
    }
    assert_eq!(fs::read_dir(&caches).unwrap().count(), 2, "one for each packing");
}

/// All panels of a cache may be damaged: numbers change, and nothing worse comes of it.
#[test]
fn damaged_panels_give_other_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = in_bf16(&stories260k(), folder.path());
    let cache = folder.path().join("cache");
    let want = logits(cpu(Tier::best(), 1).cached(&cache, &checkpoint).unwrap(), &checkpoint, 7).unwrap();
    let good = fs::read(&cache).unwrap();
    let front = good.len() / 10;
    for (step, value) in [(97, 0x00), (61, 0xFF), (4, 0x7F)] {
        let mut bytes = good.clone();
        bytes[front..].iter_mut().step_by(step).for_each(|byte| *byte = value);
        fs::write(&cache, bytes).unwrap();
        for tier in Tier::available() {
            let cached = cpu(tier, 1).cached(&cache, &checkpoint).unwrap();
            assert!(cached.verify_cache().is_err());
            match logits(cached, &checkpoint, 7) {
                Ok(logits) => assert!(logits != want, "{tier}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_matrix_of_too_many_exponents_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = in_bf16(&stories260k(), folder.path());
    let path = folder.path().join("bf16.gguf");
    let mut file = fs::read(&path).unwrap();
    let weights = checkpoint.matrices().find(|view| view.name() == "blk.2.ffn_up.weight").unwrap().data();
    let at = file.windows(weights.len()).position(|bytes| bytes == weights).unwrap();
    let weights = file[at..][..weights.len()].as_chunks_mut::<2>().0.iter_mut();
    (0u16..).zip(weights).for_each(|(i, weight)| *weight = ((i % 250) << 7 | 3).to_le_bytes());
    fs::write(&path, file).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    plain(&checkpoint);
    let cached = || cpu(Tier::best(), 2).cached(folder.path().join("cache"), &checkpoint).map(|_| Vec::new());
    for error in [logits(cpu(Tier::best(), 2), &checkpoint, 7), cached()].map(Result::unwrap_err) {
        let Error::Tensor { name, .. } = &error else { panic!("{error}") };
        assert!(name == "blk.2.ffn_up.weight" && error.to_string().contains("without `compact`"), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no cache is left");
}
