//! Split GGUFs, files that are not files, files that change under us.

use std::path::{Path, PathBuf};

use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::RopeScaling;
use llama_tests::hostile::gguf::{Gguf, Tensor, Value, model};
use llama_tests::hostile::is_of_use;

const COUNT: u32 = 3;

/// The model in three shards of four tensors.
fn shards() -> Vec<Gguf> {
    let whole = model();
    let mut shards = Vec::new();
    for (no, tensors) in whole.tensors.chunks(4).enumerate() {
        let mut shard = if no == 0 { whole.clone() } else { Gguf::empty() };
        shard.tensors = tensors.to_vec();
        shard
            .set("split.no", Value::raw(2, (no as u16).to_le_bytes()))
            .set("split.count", Value::raw(2, (COUNT as u16).to_le_bytes()))
            .set("split.tensors.count", Value::raw(5, 12i32.to_le_bytes()));
        shards.push(shard);
    }
    shards
}

fn path(folder: &Path, no: usize) -> PathBuf {
    folder.join(format!("m-{:05}-of-{COUNT:05}.gguf", no + 1))
}

fn write(folder: &Path, shards: &[Gguf]) {
    for (no, shard) in shards.iter().enumerate() {
        std::fs::write(path(folder, no), shard.bytes()).unwrap();
    }
}

#[test]
fn any_shard_opens_all() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &shards());
    let checkpoint = Checkpoint::open(path(folder.path(), 0)).unwrap();
    assert_eq!((checkpoint.tensors().len(), checkpoint.unused().count()), (12, 0));
    assert!(checkpoint.find(Name::Head).is_some());
    let other = Checkpoint::open(path(folder.path(), 2)).unwrap();
    assert_eq!(other.config(), checkpoint.config());
}

#[test]
fn shards_that_do_not_fit_are_refused() {
    let refused = |says: &str, blamed: usize, change: &dyn Fn(&mut Vec<Gguf>), keep: usize| {
        let folder = tempfile::tempdir().unwrap();
        let mut shards = shards();
        change(&mut shards);
        write(folder.path(), &shards[..keep]);
        let error = Checkpoint::open(path(folder.path(), 0)).unwrap_err();
        assert!(error.to_string().contains(says), "{error} does not say {says:?}");
        is_of_use(&error, folder.path()).unwrap_or_else(|lacks| panic!("{error} {lacks}"));
        assert_eq!(error.path(), Some(path(folder.path(), blamed).as_path()), "{error}");
    };
    let nothing = |_: &mut Vec<Gguf>| {};
    refused("m-00003-of-00003.gguf", 2, &nothing, 2);
    let set = |no: usize, key: &'static str, value: u32| {
        move |s: &mut Vec<Gguf>| {
            s[no].set(key, Value::u32(value));
        }
    };
    refused("split.no", 1, &set(1, "split.no", 2), 3);
    refused("split.no", 0, &set(0, "split.no", 3), 3);
    refused("split.no", 0, &set(0, "split.no", 1), 3);
    refused("split.count", 1, &set(1, "split.count", 2), 3);
    refused("split.count", 0, &set(0, "split.count", 0), 3);
    refused("split.count", 0, &set(0, "split.count", u32::MAX), 3);
    refused("split.tensors.count", 2, &set(2, "split.tensors.count", 11), 3);
    refused("split.count", 2, &|s| s[2].pairs.clear(), 3);
    refused("another shard", 2, &|s| s[2].tensors[0].name = b"token_embd.weight".to_vec(), 3);
    refused("missing", 0, &|s| s[2].tensors[2].name = b"x".to_vec(), 3);
    refused("[4, 8] was expected", 1, &|s| s[1].tensors[0].dims = vec![4, 8], 3);
    refused("no Llama has", 2, &|s| s[2].tensors[2].name = b"blk.0.x".to_vec(), 3);
}

#[test]
fn a_shard_needs_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("renamed.gguf");
    std::fs::write(&path, shards()[0].bytes()).unwrap();
    let text = Checkpoint::open(path).unwrap_err().to_string();
    assert!(text.contains("-00001-of-00003.gguf"), "{text}");
}

/// `rope_freqs.weight` holds divisors; a linear factor divides as well.
#[test]
fn divisors_of_a_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut file = model();
    file.tensors.push(Tensor::f32("rope_freqs.weight", &[2], 2.0));
    std::fs::write(&path, file.bytes()).unwrap();
    let scaling = Checkpoint::open(&path).unwrap().config().rope.scaling.clone();
    assert_eq!(scaling, RopeScaling::Divisors { divisors: vec![2.0; 2] });

    file.set("llama.rope.scaling.factor", Value::f32(4.0));
    std::fs::write(&path, file.bytes()).unwrap();
    let rope = Checkpoint::open(&path).unwrap().config().rope.clone();
    assert_eq!(rope.scaling, RopeScaling::Divisors { divisors: vec![8.0; 2] });
    assert_eq!(rope.inv_freq(64), [0.125, 0.01 / 8.0]);
}

/// llama.cpp's factor on cosine and sine: `0.1 ln(factor) + 1`, times `attn_factor`.
#[test]
fn yarn_of_a_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut file = model();
    file.set("llama.rope.scaling.type", Value::string("yarn"))
        .set("llama.rope.scaling.factor", Value::f32(4.0))
        .set("llama.rope.scaling.original_context_length", Value::u32(16))
        .set("llama.rope.scaling.attn_factor", Value::f32(0.5));
    std::fs::write(&path, file.bytes()).unwrap();
    let config = Checkpoint::open(&path).unwrap().config().clone();
    assert_eq!(config.rope.scale(), (0.5 * (0.1 * 4f64.ln() + 1.0)) as f32);
    assert!(matches!(config.rope.scaling, RopeScaling::Yarn { original: 16, truncate: true, .. }));
}

/// A file that is shortened, or written to, is noticed by `verify`; one that is renamed or deleted stays as it was.
#[test]
fn changes_under_a_map_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, model().bytes()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let before = checkpoint.view(Name::Embed).unwrap().to_f32();
    std::fs::rename(&path, folder.path().join("renamed.gguf")).unwrap();
    std::fs::remove_file(folder.path().join("renamed.gguf")).unwrap();
    checkpoint.verify().unwrap();
    assert_eq!(checkpoint.view(Name::Embed).unwrap().to_f32(), before);

    std::fs::write(&path, model().bytes()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(100).unwrap();
    let text = checkpoint.verify().unwrap_err().to_string();
    assert!(text.contains("file length: ") && text.contains("100 now"), "{text}");
}

/// Opening a FIFO for reading waits for a writer: it must be refused before.
#[cfg(unix)]
#[test]
fn what_is_not_a_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo.gguf");
    if !std::process::Command::new("mkfifo").arg(&fifo).status().is_ok_and(|status| status.success()) {
        println!("skipped: no mkfifo");
        return;
    }
    for path in [fifo.as_path(), Path::new("/dev/zero"), Path::new("/dev/random")] {
        let text = Checkpoint::open(path).unwrap_err().to_string();
        assert!(text.contains("device, pipe or socket"), "{text}");
    }
    let text = Checkpoint::open("/no/such/model.gguf").unwrap_err().to_string();
    assert!(text.starts_with("/no/such/model.gguf: "), "{text}");
}
