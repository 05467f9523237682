//! stories260K, a trained model, against the golden text of llama2.c's own test: greedy from BOS, 200 positions.

use llama_core::backend::Numerics;
use llama_core::checkpoint::Checkpoint;
use llama_tests::models::{Machine, bits, data, greedy, limits, logits_in_chunks, stories260k};

#[test]
fn tells_the_golden_story_on_every_machine() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let want = std::fs::read_to_string(data().join("stories260K/expected_greedy_n200.txt")).unwrap();
    for machine in Machine::all() {
        let mut model = machine.load(&checkpoint, limits(1, 256), Numerics::Default);
        let ids = greedy(&mut *model, &[tokenizer.bos().unwrap()], 200);
        // run.c prints as it goes and ends the line.
        assert_eq!(tokenizer.decode(&ids[1..]).unwrap() + "\n", want, "{machine:?}");
    }
}

#[test]
fn every_machine_gives_the_same_bits() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let ids: Vec<u32> = (0..200).map(|i| 3 + i * 37 % 509).collect();
    let mut reference = Machine::Reference.load(&checkpoint, limits(1, 256), Numerics::Default);
    let want = bits(&logits_in_chunks(&mut *reference, &ids, usize::MAX));
    for machine in Machine::all() {
        let mut model = machine.load(&checkpoint, limits(1, 256), Numerics::Default);
        assert!(bits(&logits_in_chunks(&mut *model, &ids, 33)) == want, "{machine:?}");
    }
}
