//! What a model says to batches that no engine makes: the parameter that is wrong, and nothing of them is computed.

use std::cell::{Cell, RefCell};

use llama_core::Error;
use llama_core::backend::{Limits, Numerics};
use llama_core::batch::Batch;
use llama_core::checkpoint::Checkpoint;
use llama_kernels::Tier;
use llama_tests::models::{Feed, Machine, bits, limits, stories260k};
use proptest::prelude::*;
use proptest::sample::Index;

/// Sequences at `rows` of `tables`, which have room for 32 positions.
fn batch(sequences: &[(usize, usize, &[u32])]) -> Batch {
    let mut batch = Batch::new();
    for &(done, rows, blocks) in sequences {
        Feed { done, blocks: blocks.to_vec(), ..Feed::new(&[5; 64], 0, 1, 64) }.push(&mut batch, rows);
    }
    batch
}

fn made_for() -> Limits {
    limits(2, 40)
}

#[test]
fn a_block_is_written_by_one_sequence_once() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    for machine in [Machine::Reference, Machine::Cpu(Tier::best(), 2), Machine::Ranks(2, 1, Tier::best())] {
        let mut model = machine.load(&checkpoint, made_for(), Numerics::Default);
        let mut logits = Vec::new();
        let mut refused = |sequences: &[(usize, usize, &[u32])]| match model.forward(&batch(sequences), &mut logits) {
            Err(Error::Parameter { name, .. }) => Some(name),
            Err(error) => panic!("{error}"),
            Ok(()) => None,
        };
        let table = &[0, 1, 2][..];
        assert_eq!(refused(&[(0, 20, table), (0, 3, &[4])]), None);
        // Both have read block 0, and each goes on in its own.
        assert_eq!(refused(&[(16, 20, table), (16, 4, &[0, 5, 6])]), None);
        for wrong in [
            &[(0, 20, table), (0, 1, &[1][..])][..],
            &[(20, 1, table), (22, 1, table)],
            &[(0, 20, &[3, 3])],
            &[(0, 40, &[3, 4, 3])],
            &[(17, 20, &[3, 4, 4])],
        ] {
            assert_eq!(refused(wrong), Some("batch.block_ids"), "{wrong:?} on {machine:?}");
        }
        assert_eq!(refused(&[(36, 1, &[0, 1, 2]), (0, 1, &[4])]), None, "nothing is kept of a batch that was refused");
        for wrong in [&[(0, 1, &[0, 1, 2, 3][..])][..], &[(0, 0, &[0; 4]), (0, 1, &[4])], &[(0, 1, &[9; 40])]] {
            assert_eq!(refused(wrong), Some("batch.block_ids"), "{wrong:?} on {machine:?}");
        }
    }
}

/// A change of a list of a batch, by its number: a word in place of another, one less or one more.
pub(super) type Change = (usize, Index, u8, u32);

pub(super) fn bend(mut batch: Batch, changes: Vec<Change>) -> Batch {
    let Batch { tokens, positions, q_indptr, kv_indptr, block_ids, outputs, adapters } = &mut batch;
    let mut lists = [tokens, positions, q_indptr, kv_indptr, block_ids, outputs];
    for (which, at, how, word) in changes {
        match lists.get_mut(which) {
            Some(list) => bend_list(list, (at, how, word)),
            None => bend_list(adapters, (at, how, (word != NO_ADAPTER).then_some(word))),
        }
    }
    batch
}

/// What stands for no adapter where numbers are sent.
pub(super) const NO_ADAPTER: u32 = u32::MAX;

fn bend_list<T>(list: &mut Vec<T>, (at, how, word): (Index, u8, T)) {
    let len = list.len();
    match how {
        0 if len > 0 => list[at.index(len)] = word,
        1 if len > 0 => drop(list.remove(at.index(len))),
        _ => list.insert(at.index(len + 1), word),
    }
}

/// Some words changed, added or taken away.
fn bent() -> impl Strategy<Value = Batch> {
    let word = prop_oneof![8 => 0..8_u32, 2 => 0..50_u32, 1 => any::<u32>()];
    let change = (0..7_usize, any::<Index>(), 0..3_u8, word);
    prop::collection::vec(change, 0..4)
        .prop_map(|changes| bend(batch(&[(0, 20, &[0, 1]), (30, 4, &[2, 3, 4])]), changes))
}

#[test]
fn a_batch_is_refused_everywhere_or_computed_everywhere() {
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let machines = [Machine::Reference, Machine::Cpu(Tier::best(), 2)];
    let models = machines.map(|machine| RefCell::new(machine.load(&checkpoint, made_for(), Numerics::Default)));
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    let computed = Cell::new(0);
    proptest::test_runner::TestRunner::new(config)
        .run(&bent(), |batch| {
            let [reference, cpu] = models.each_ref().map(|model| {
                let mut logits = Vec::new();
                model
                    .borrow_mut()
                    .forward(&batch, &mut logits)
                    .map(|()| bits(&logits))
                    .map_err(|error| error.to_string())
            });
            computed.set(computed.get() + usize::from(reference.is_ok()));
            prop_assert_eq!(reference, cpu);
            Ok(())
        })
        .unwrap();
    assert!(computed.get() >= 20, "{}", computed.get());
}
