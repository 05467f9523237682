//! The file of packed weights: a load from it gives the bits of a plain load, one file serves every tier, and whatever
//! lies at its path is used, written anew or refused, never trusted.

use std::fs;
use std::path::{Path, PathBuf};

use llama_core::backend::Numerics;
use llama_core::checkpoint::Checkpoint;
use llama_core::format::Format;
use llama_core::model::{Llama, Model};
use llama_core::{Error, Result};
use llama_kernels::{Cpu, CpuOptions, Tier};
use llama_tests::hostile::gguf::{Gguf, Tensor, Value, model};
use llama_tests::models::{Machine, bits, limits, logits_in_chunks};
use tempfile::TempDir;

const LAYERS: usize = 4;
const PROMPT: [u32; 7] = [1, 5, 3, 7, 2, 6, 4];

/// A folder with a model in it.
struct House {
    folder: TempDir,
    checkpoint: Checkpoint,
}

impl House {
    fn new(seed: u64) -> House {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.gguf"), mixed(seed).bytes()).unwrap();
        let checkpoint = Checkpoint::open(folder.path().join("model.gguf")).unwrap();
        House { folder, checkpoint }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Logits of a load from the cache.
    fn cached(&self, numerics: Numerics) -> Result<Vec<u32>> {
        logits(cpu(numerics).cached(self.cache(), &self.checkpoint)?, &self.checkpoint)
    }

    /// Names of all files but the model.
    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|file| file.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name != "model.gguf").collect()
    }
}

fn cpu(numerics: Numerics) -> Cpu {
    Cpu::new(CpuOptions { threads: Some(2), numerics, ..CpuOptions::default() }).unwrap()
}

fn logits(cpu: Cpu, checkpoint: &Checkpoint) -> Result<Vec<u32>> {
    let mut model = Llama::load(cpu, checkpoint, limits(1, 16), None, &mut |_| {})?;
    Ok(bits(&logits_in_chunks(&mut model as &mut dyn Model, &PROMPT, 4)))
}

/// Logits of the specification, which knows no cache.
fn plain(checkpoint: &Checkpoint, numerics: Numerics) -> Vec<u32> {
    let mut model = Machine::Reference.load(checkpoint, limits(1, 16), numerics);
    bits(&logits_in_chunks(&mut *model, &PROMPT, usize::MAX))
}

/// Four layers whose matrices take turns through all formats, with rows that do not fill their last panel. The last matrix is
/// in F32.
fn mixed(seed: u64) -> Gguf {
    let mut file = model();
    file.set("llama.embedding_length", Value::u32(256))
        .set("llama.block_count", Value::u32(LAYERS as u32))
        .set("llama.feed_forward_length", Value::u32(512))
        .set("llama.attention.head_count", Value::u32(4))
        .set("llama.attention.head_count_kv", Value::u32(2))
        .set("llama.rope.dimension_count", Value::u32(64));
    file.tensors.clear();
    let mut random = seed;
    let mut add = |name: &str, dims: &[u64], format: Format| {
        // Three rows, again and again: some encoders are slow.
        let (cols, rows) = (dims[0] as usize, dims[1..].iter().product::<u64>() as usize);
        let weights: Vec<f32> = (0..cols * rows.min(3))
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            })
            .collect();
        let row = format.row_bytes(cols).unwrap();
        let mut three = vec![0; row * rows.min(3)];
        format.encode(&weights, &mut three).unwrap();
        let data = three.iter().copied().cycle().take(row * rows).collect();
        let kind = format.ggml_type();
        file.tensors.push(Tensor { name: name.into(), dim_count: None, dims: dims.into(), kind, offset: None, data });
    };
    let mut formats = Format::ALL.into_iter().cycle();
    let mut next = || formats.next().unwrap();
    for (name, dims) in [("token_embd", [256, 8]), ("output", [256, 8])] {
        add(&format!("{name}.weight"), &dims, next());
    }
    add("output_norm.weight", &[256], Format::F32);
    for l in 0..LAYERS {
        for name in ["attn_norm", "ffn_norm"] {
            add(&format!("blk.{l}.{name}.weight"), &[256], Format::F32);
        }
        for (name, dims) in [
            ("attn_q", [256, 256]),
            ("attn_k", [256, 128]),
            ("attn_v", [256, 128]),
            ("attn_output", [256, 256]),
            ("ffn_gate", [256, 512]),
            ("ffn_up", [256, 512]),
            ("ffn_down", [512, 256]),
        ] {
            let last = (l, name) == (LAYERS - 1, "ffn_down");
            add(&format!("blk.{l}.{name}.weight"), &dims, if last { Format::F32 } else { next() });
        }
    }
    assert!(2 + 7 * LAYERS > Format::ALL.len());
    file
}

#[test]
fn every_tier_computes_the_same_bits_from_one_file() {
    let house = House::new(1);
    let modified = || fs::metadata(house.cache()).unwrap().modified().unwrap();
    let mut first = None;
    for numerics in Numerics::ALL {
        let want = plain(&house.checkpoint, numerics);
        assert_eq!(house.cached(numerics).unwrap(), want, "the load that writes, {numerics:?}");
        let written = modified();
        // All modes but the last pack alike.
        assert_eq!(*first.get_or_insert(written) == written, numerics.is_integer(), "{numerics:?}");
        for tier in Tier::available() {
            for threads in [1, 2] {
                let options =
                    CpuOptions { threads: Some(threads), tier: Some(tier), numerics, ..CpuOptions::default() };
                let cpu = Cpu::new(options).unwrap().cached(house.cache(), &house.checkpoint).unwrap();
                cpu.verify_cache().unwrap();
                assert_eq!(logits(cpu, &house.checkpoint).unwrap(), want, "{tier:?}, {threads} threads, {numerics:?}");
            }
        }
        assert_eq!(modified(), written, "it was written again");
    }
    assert_eq!(house.files(), ["cache"]);
}

#[test]
fn weights_come_from_the_file_and_verify_finds_changed_ones() {
    let house = House::new(2);
    let want = house.cached(Numerics::Default).unwrap();
    let mut bytes = fs::read(house.cache()).unwrap();
    // The last panels are those of a down projection in F32: the sign of a weight.
    let at = bytes.len() - 697;
    bytes[at] ^= 0x80;
    fs::write(house.cache(), bytes).unwrap();
    assert_ne!(house.cached(Numerics::Default).unwrap(), want);
    let error = cpu(Numerics::Default).cached(house.cache(), &house.checkpoint).unwrap().verify_cache().unwrap_err();
    assert!(error.to_string().contains("panels of blk.3.ffn_down.weight"), "{error}");
}

#[test]
fn stale_and_damaged_files_are_written_anew() {
    let house = House::new(3);
    let want = house.cached(Numerics::Default).unwrap();
    let good = fs::read(house.cache()).unwrap();
    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert_ne!(bytes, good);
        fs::write(house.cache(), bytes).unwrap();
        assert_eq!(house.cached(Numerics::Default).unwrap(), want);
        assert!(fs::read(house.cache()).unwrap() == good, "it was not written again");
    };
    for at in [8, 12, 13, 16, 24, 32, 40, 44, 50, 60, 100] {
        damage(&|bytes| bytes[at] ^= 1);
    }
    damage(&|bytes| bytes.truncate(20));
    damage(&|bytes| bytes.truncate(5000));
    damage(&|bytes| bytes.push(0));
    fs::write(house.cache(), good).unwrap();

    // Another packing, and another model's.
    let float = plain(&house.checkpoint, Numerics::Float);
    assert_eq!(house.cached(Numerics::Float).unwrap(), float);
    let other = House::new(4);
    fs::copy(house.cache(), other.cache()).unwrap();
    assert_eq!(other.cached(Numerics::Float).unwrap(), plain(&other.checkpoint, Numerics::Float));
}

#[test]
fn a_changed_checkpoint_is_noticed() {
    let mut house = House::new(5);
    house.cached(Numerics::Default).unwrap();
    let path = house.folder.path().join("model.gguf");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    // Other weights, and nothing else that would tell.
    fs::write(&path, mixed(6).bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    house.checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(house.cached(Numerics::Default).unwrap(), plain(&house.checkpoint, Numerics::Default));
}

#[test]
fn weights_of_another_checkpoint_are_not_taken_from_it() {
    let (house, other) = (House::new(7), House::new(8));
    let cpu = cpu(Numerics::Default).cached(house.cache(), &house.checkpoint).unwrap();
    assert_eq!(logits(cpu, &other.checkpoint).unwrap(), plain(&other.checkpoint, Numerics::Default));
}

#[test]
fn what_is_no_cache_is_left_alone() {
    let house = House::new(9);
    let model = house.folder.path().join("model.gguf");
    let contents = fs::read(&model).unwrap();
    let refused = |path: &Path| cpu(Numerics::Default).cached(path, &house.checkpoint).map(|_| ()).unwrap_err();
    let error = refused(&model);
    assert!(matches!(error, Error::File { .. }) && error.to_string().contains("left as it is"), "{error}");
    assert!(fs::read(&model).unwrap() == contents);

    fs::write(house.cache(), "").unwrap();
    assert!(matches!(refused(&house.cache()), Error::File { .. }));
    let nowhere = house.folder.path().join("no such folder").join("cache");
    let error = refused(&nowhere);
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("no such folder"), "{error}");
}

#[test]
fn a_folder_gets_a_file_for_each_model_and_packing() {
    let house = House::new(10);
    let folder = house.folder.path();
    for _ in 0..2 {
        for numerics in Numerics::ALL {
            let cpu = cpu(numerics).cached(folder, &house.checkpoint).unwrap();
            assert_eq!(logits(cpu, &house.checkpoint).unwrap(), plain(&house.checkpoint, numerics));
        }
    }
    assert_eq!(house.files().len(), 2);
    assert!(house.files().iter().all(|name| name.ends_with(".panels")), "{:?}", house.files());
}

#[test]
fn weights_that_are_not_finite_leave_no_file() {
    let mut file = mixed(11);
    let head = file.tensor("output.weight");
    assert_eq!(head.kind, Format::F16.ggml_type());
    head.data[1000..1002].copy_from_slice(&[0, 0x7C]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.gguf"), file.bytes()).unwrap();
    let checkpoint = Checkpoint::open(folder.path().join("model.gguf")).unwrap();
    let error = cpu(Numerics::Default).cached(folder.path().join("cache"), &checkpoint).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Tensor { .. }) && error.to_string().contains("output.weight"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
