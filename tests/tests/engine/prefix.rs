//! A prefix in a file: found by who begins with it, as far as there is room, and nothing taken over of a file that is not whole.

use std::path::PathBuf;

use llama_core::Error;
use llama_core::engine::{Engine, EngineOptions, Request};

use super::toy::{self, Expected, expected};

const BLOCK: usize = llama_core::batch::BLOCK;

fn engine(blocks: usize) -> Engine {
    toy::engine(toy::limits(16, 4, 4, blocks), &EngineOptions::default())
}

fn request(prompt: &[u32]) -> Request {
    Request { max_tokens: Some(6), ..Request::new(prompt) }
}

/// A file of the prefix of a prompt of 50 tokens: three blocks.
fn saved() -> (tempfile::TempDir, PathBuf, Vec<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let (path, prompt) = (folder.path().join("prefix"), toy::prompt(1, 50));
    let mut engine = engine(64);
    engine.complete(request(&prompt)).unwrap();
    assert_eq!(engine.save_prefix(&prompt, &path).unwrap(), 3 * BLOCK);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the file is left behind");
    (folder, path, prompt)
}

#[test]
fn who_begins_so_finds_it() {
    let (_folder, path, prompt) = saved();
    let mut engine = engine(64);
    assert_eq!(engine.load_prefix(&path).unwrap(), 48);
    let stats = engine.stats();
    assert_eq!((stats.blocks_used, stats.blocks_published), (0, 3));
    for same in [50, 40, 33, 5] {
        let mut prompt = prompt.clone();
        prompt.truncate(same);
        prompt.extend(toy::prompt(9, 20));
        let before = engine.stats().cached_tokens;
        assert_eq!(Expected::from(engine.complete(request(&prompt)).unwrap()), expected(&request(&prompt), &[]));
        assert_eq!((engine.stats().cached_tokens - before) as usize, same / BLOCK * BLOCK, "{same} tokens in common");
    }
}

#[test]
fn what_is_there_already_is_not_taken_twice() {
    let (_folder, path, prompt) = saved();
    let mut engine = engine(64);
    engine.complete(request(&prompt[..20])).unwrap();
    let published = engine.stats().blocks_published;
    for _ in 0..2 {
        assert_eq!(engine.load_prefix(&path).unwrap(), 48);
        assert_eq!(engine.stats().blocks_published, published + 2);
    }
    assert_eq!(Expected::from(engine.complete(request(&prompt)).unwrap()), expected(&request(&prompt), &[]));
}

#[test]
fn a_cache_takes_what_it_has_room_for() {
    let (_folder, path, prompt) = saved();
    let mut small = engine(4);
    small.submit(request(&toy::prompt(3, 30))).unwrap();
    (0..2).for_each(|_| small.step().unwrap().for_each(drop));
    let taken = small.load_prefix(&path).unwrap();
    assert_eq!(taken, 32, "two of four blocks are free");
    small.run(drop).unwrap();
    let mut large = engine(64);
    large.load_prefix(&path).unwrap();
    for engine in [&mut small, &mut large] {
        assert_eq!(
            Expected::from(engine.complete(request(&prompt[..40])).unwrap()),
            expected(&request(&prompt[..40]), &[])
        );
    }
}

#[test]
fn every_file_that_is_not_whole_is_refused_and_nothing_of_it_is_taken() {
    let (folder, path, _) = saved();
    let whole = std::fs::read(&path).unwrap();
    let other = folder.path().join("other");
    let mut engine = engine(64);
    let mut refused = |bytes: &[u8]| {
        std::fs::write(&other, bytes).unwrap();
        let error = engine.load_prefix(&other).unwrap_err();
        assert!(matches!(error, Error::File { .. }) && error.path() == Some(&other), "{error}");
        assert_eq!((engine.stats().blocks_used, engine.stats().blocks_published), (0, 0), "{error}");
    };
    (0..whole.len()).for_each(|length| refused(&whole[..length]));
    refused(&[&whole[..], &[0]].concat());
    let header = 8 * 48;
    for bit in (0..header).chain((header / 8..whole.len()).map(|byte| 8 * byte + byte % 8)) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refused(&flipped);
    }
    // Numbers that no file can have, of an engine without adapters.
    let adapters = [1, 2, 17, 1 << 40, u64::MAX];
    let (tokens, bytes) = ([0, 1, 17, 1 << 40, u64::MAX], [0, 1, 1 << 40, u64::MAX / 16, u64::MAX]);
    for (at, numbers) in [(24, adapters), (32, tokens), (40, bytes)] {
        for number in numbers {
            let mut wrong = whole.clone();
            wrong[at..at + 8].copy_from_slice(&number.to_ne_bytes());
            refused(&wrong);
        }
    }
    assert_eq!(engine.load_prefix(&path).unwrap(), 48);
}

#[test]
fn what_cannot_be_written_whole_is_not_left_behind() {
    let (folder, path, prompt) = saved();
    let mut engine = engine(64);
    engine.load_prefix(&path).unwrap();
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    assert!(matches!(engine.save_prefix(&prompt, &taken), Err(Error::Io { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "the file and the folder");
}

#[test]
fn what_cannot_be_saved_or_loaded_says_why() {
    let (folder, path, prompt) = saved();
    let mut fresh = engine(64);
    let missing = folder.path().join("missing");
    assert!(matches!(fresh.load_prefix(&missing), Err(Error::Io { .. })));
    assert!(matches!(fresh.load_prefix(folder.path()), Err(Error::File { .. })));
    for tokens in [&[][..], &prompt[..BLOCK - 1], &prompt] {
        assert!(matches!(fresh.save_prefix(tokens, &missing), Err(Error::Parameter { name: "tokens", .. })));
    }
    assert!(!missing.exists());
    fresh.load_prefix(&path).unwrap();
    let nowhere = folder.path().join("no/folder");
    assert!(matches!(fresh.save_prefix(&prompt, &nowhere), Err(Error::Io { .. })));
    assert_eq!(fresh.stats().blocks_used, 0);

    let options = EngineOptions { prefix_cache: false, ..EngineOptions::default() };
    let mut unshared = toy::engine(toy::limits(16, 4, 4, 64), &options);
    assert!(matches!(unshared.load_prefix(&path), Err(Error::Parameter { name: "prefix_cache", .. })));
}
