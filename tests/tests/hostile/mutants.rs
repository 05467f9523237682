//! 10,000 mutants per parser: no panic, no abort, and memory of at most 16 times the file plus 1 MiB while it is opened.
//! What opens is loaded, and run for a few tokens.
//!
//! A failure prints the mutant's seed, which alone reproduces it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use llama_core::checkpoint::{Checkpoint, gguf};
use llama_core::engine::{Completion, Engine, EngineOptions, Request};
use llama_core::model::Llama;
use llama_kernels::{Cpu, CpuOptions};
use llama_tests::hostile::gguf::{Gguf, Value, granite, model, phi3};
use llama_tests::hostile::{folder, is_of_use, mutate};

const MUTANTS: u64 = 10_000;

thread_local! {
    /// Bytes that this thread holds, and the most it held since [`peak_of`] began.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting per thread.
struct Counting;

fn count(bytes: isize) {
    // A thread that is ending has no counter any more; what it frees then concerns no measurement.
    let _ = HELD.try_with(|held| {
        let now = held.get().0 + bytes;
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: every method hands its arguments to `System` unchanged, and `count` neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's obligations are those of `System::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `place` came from `System` with this layout.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The result of `run`, and the most bytes it held at once beyond those held before.
fn peak_of<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let result = run();
    (result, (HELD.get().1 - before) as usize)
}

/// Opens `path`, whose hostile part has `bytes` bytes, reads every tensor of what opens, and runs it. Returns whether it
/// opened, and whether it ran.
fn survive(path: &Path, bytes: usize, what: &str) -> [bool; 2] {
    let opened = catch_unwind(AssertUnwindSafe(|| peak_of(|| Checkpoint::open(path))));
    let Ok((result, peak)) = opened else { panic!("{what}: panicked") };
    assert!(peak <= 16 * bytes + (1 << 20), "{what}: {peak} bytes held for a file of {bytes}");
    match result {
        Ok(checkpoint) => {
            let read = catch_unwind(AssertUnwindSafe(|| {
                let all = llama_core::checkpoint::Name::all(checkpoint.config());
                all.filter_map(|name| checkpoint.find(name)).map(|view| view.data().len()).sum::<usize>()
            }));
            assert!(read.is_ok_and(|read| read > 0), "{what}: opened and could not be read");
            let ran = catch_unwind(AssertUnwindSafe(|| run(&checkpoint)));
            let Ok(ran) = ran else { panic!("{what}: panicked when it was loaded or run") };
            assert!(ran.as_ref().map_or(true, |story| story.tokens.len() == 3), "{what}: ran and stopped early");
            [true, ran.is_ok()]
        }
        Err(error) => {
            let folder = path.parent().filter(|_| path.is_file()).unwrap_or(path);
            is_of_use(&error, folder).unwrap_or_else(|lacks| panic!("{what}: {error:?} {lacks}"));
            [false, false]
        }
    }
}

/// Loads a model and lets it continue a prompt, in little memory.
fn run(checkpoint: &Checkpoint) -> llama_core::Result<Completion> {
    let options = EngineOptions { context: Some(32), sequences: 1, chunk: 4, ..EngineOptions::default() };
    let limits = options.limits(checkpoint.config())?;
    let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() })?;
    let model = Llama::load(cpu, checkpoint, limits, Some(64 << 20), &mut |_| ())?;
    let mut engine = Engine::new(Box::new(model), None, &options)?;
    engine.complete(Request { max_tokens: Some(3), ignore_end: true, ..Request::new([0; 6]) })
}

/// Writes and opens mutants of `good`, made by `mutant`, as `name` in a folder.
fn survive_all(folder: &Path, name: &str, open: &Path, mutant: impl Fn(u64) -> Vec<u8>) {
    let [mut opened, mut ran] = [0; 2];
    for seed in 0..MUTANTS {
        let bytes = mutant(seed);
        // Removed first: some file systems write a truncated file to the disk when it is closed, which takes milliseconds.
        let _ = std::fs::remove_file(folder.join(name));
        std::fs::write(folder.join(name), &bytes).unwrap();
        let outcome = survive(open, bytes.len(), &format!("mutant {seed} of {name}"));
        opened += u64::from(outcome[0]);
        ran += u64::from(outcome[1]);
    }
    println!("{name}: {MUTANTS} mutants, {opened} still opened, {ran} ran");
    assert!(opened > 0 && opened < MUTANTS / 2, "{opened} mutants opened: the mutations miss the parser");
    assert!(ran > 0, "none ran");
}

/// That each of `good` opens as `name`, as it is.
fn open_all<'a>(name: &str, open: &Path, good: impl Iterator<Item = &'a [u8]>) {
    for bytes in good {
        std::fs::write(open.parent().filter(|_| open.ends_with(name)).unwrap_or(open).join(name), bytes).unwrap();
        Checkpoint::open(open).unwrap();
    }
}

#[test]
fn gguf_mutants() {
    let mut yarn = model();
    yarn.set("llama.rope.scaling.type", Value::string("yarn")).set("llama.rope.scaling.factor", Value::f32(4.0));
    let mut typed = Gguf { version: 2, ..model() };
    for kind in 0..=12 {
        let value =
            if kind == 9 { Value::strings(&["x", ""]) } else { Value::raw(kind, [0; 8][..size(kind)].to_vec()) };
        typed.pairs.push((format!("x.{kind}").into_bytes(), value));
    }
    let good = [model(), yarn, typed, phi3(), granite()].map(|file| file.bytes_and_fields());
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("mutant.gguf");
    open_all("mutant.gguf", &place, good.iter().map(|(bytes, _)| &bytes[..]));
    survive_all(folder.path(), "mutant.gguf", &place, |seed| {
        let (bytes, fields) = &good[seed as usize % good.len()];
        mutate::binary(bytes, fields, seed)
    });
}

/// Bytes of a GGUF value of a type; an empty string's for strings.
fn size(kind: u32) -> usize {
    match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    }
}

#[test]
fn safetensors_mutants() {
    let files = folder::model();
    let folder = tempfile::tempdir().unwrap();
    files.write(folder.path()).unwrap();
    let good = folder::shard(&folder::TENSORS);
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let (header, buffer) = good[8..].split_at(length);
    survive_all(folder.path(), "model.safetensors", folder.path(), |seed| match seed % 4 {
        0 => mutate::binary(&good, &[(0, 8)], seed),
        _ => {
            let header = mutate::json(header, seed);
            [&(header.len() as u64).to_le_bytes()[..], &header, buffer].concat()
        }
    });
}

#[test]
fn config_mutants() {
    let folder = tempfile::tempdir().unwrap();
    folder::model().write(folder.path()).unwrap();
    let good = [folder::CONFIG.to_owned(), folder::granite(), folder::long()];
    open_all("config.json", folder.path(), good.iter().map(|text| text.as_bytes()));
    survive_all(folder.path(), "config.json", folder.path(), |seed| {
        mutate::json(good[seed as usize % good.len()].as_bytes(), seed)
    });
}

#[test]
fn index_mutants() {
    let files = folder::sharded();
    let folder = tempfile::tempdir().unwrap();
    files.write(folder.path()).unwrap();
    let name = "model.safetensors.index.json";
    let good = files.files.iter().find(|(n, _)| n == name).unwrap().1.clone();
    survive_all(folder.path(), name, folder.path(), |seed| mutate::json(&good, seed));
}

/// 24 bytes that claim 500 million pairs make some readers ask for 61 GB.
#[test]
fn claims_cost_nothing() {
    let mut file = Gguf::empty();
    file.pair_count = Some(500_000_000);
    let bytes = file.bytes();
    let (result, peak) = peak_of(|| gguf::Header::parse(Path::new("x"), &bytes));
    assert!(result.is_err() && bytes.len() == 24 && peak <= 64 << 10, "{peak} bytes");
}

/// The densest files there are: the smallest pairs, the shortest strings, the shortest JSON.
#[test]
fn dense_files_stay_within_the_bound() {
    let mut pairs = Gguf::empty();
    pairs.pairs = (0..200_000u32).map(|i| (i.to_be_bytes().map(|b| b & 0x7f).to_vec(), Value::raw(0, [0]))).collect();
    pairs.pairs.dedup_by(|a, b| a.0 == b.0);
    let mut strings = Gguf::empty();
    strings.set("x", Value::array(8, 1_000_000, &[0; 8_000_000]));
    let mut characters = Gguf::empty();
    characters.set("x", Value::array(8, 1_000_000, &[1, 0, 0, 0, 0, 0, 0, 0, b'c'].repeat(1_000_000)));
    for file in [pairs, strings, characters] {
        let bytes = file.bytes();
        let (_, peak) = peak_of(|| gguf::Header::parse(Path::new("x"), &bytes));
        assert!(peak <= 16 * bytes.len() + (1 << 20), "{peak} bytes for {}", bytes.len());
    }
    let folder = tempfile::tempdir().unwrap();
    folder::model().write(folder.path()).unwrap();
    let zeros = format!("{{\"a\":[{}0]}}", "0,".repeat(1_000_000));
    let keys = (0..200_000).map(|i| format!("\"{i}\":0")).collect::<Vec<String>>().join(",");
    let entry = |i| format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let entries = (0..100_000).map(entry).collect::<Vec<String>>().join(",");
    for (name, bytes) in [
        ("config.json", zeros.into_bytes()),
        ("config.json", format!("{{{keys}}}").into_bytes()),
        ("config.json", folder::CONFIG.into()),
        ("model.safetensors", folder::safetensors(&format!("{{{entries}}}"), &[])),
    ] {
        std::fs::write(folder.path().join(name), &bytes).unwrap();
        survive(folder.path(), bytes.len(), name);
    }
}
