//! Seventeen random checkpoints of Llama's family and of its likes against transformers' float32 logits, and promise 1: the same bits
//! for every schedule, tier and thread count.

use llama_core::backend::Numerics;
use llama_core::checkpoint::Name;
use llama_tests::arrays::Arrays;
use llama_tests::models::{Machine, bits, data, greedy, limits, logits_and_greedy, logits_in_chunks};
use llama_tests::tiny::{Case, NAMES, prefix_hit, ragged};

/// Largest error against transformers, whose own f32 is within 2.6e-5 of its f64.
const TOLERANCE: f32 = 2e-4;

fn assert_close(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0f32, |a, b| if b <= a { a } else { b });
    assert!(worst <= TOLERANCE, "{name}: largest error {worst}");
}

#[test]
fn reference_backend_agrees_with_transformers() {
    for name in NAMES {
        let case = Case::open(name);
        let mut model = case.load(Machine::Reference, Numerics::Default);
        for (i, ids) in case.ids.iter().enumerate() {
            let (logits, continued) = logits_and_greedy(&mut *model, ids, case.greedy[i].len() - ids.len());
            assert_close(name, &logits, &case.logits[i]);
            assert_eq!(continued, case.greedy[i], "{name}");
        }
    }
}

/// A LongRoPE has other divisors while no sequence may be longer than the context that it began with.
#[test]
fn a_short_context_turns_by_short_divisors() {
    let case = Case::open("phi3");
    let short = Arrays::open(data().join("tiny/phi3/reference.safetensors"));
    let (rows, cols) = (short.shape("short")[1], short.shape("short")[2]);
    let short = short.f32("short");
    for (ids, want) in case.ids.iter().zip(short.chunks(rows * cols)) {
        let run = |context| {
            let mut model = Machine::Reference.load(&case.checkpoint, limits(1, context), Numerics::Default);
            logits_in_chunks(&mut *model, &ids[..rows], 7)
        };
        assert_close("phi3", &run(rows), want);
        assert_ne!(bits(&run(rows)), bits(&run(rows + 1)));
    }
}

/// Hidden states are those that transformers has, though the residual stream is scaled here and logits are divided.
#[test]
fn states_are_not_scaled_by_multipliers() {
    let case = Case::open("granite");
    let (config, embed) = (case.checkpoint.config(), case.checkpoint.view(Name::Embed).unwrap().to_f32());
    for machine in Machine::all() {
        let mut model = case.load(machine, Numerics::Precise);
        let (logits, mut states) = (logits_in_chunks(&mut *model, &case.ids[0], usize::MAX), Vec::new());
        model.states(&mut states).unwrap();
        for (state, logits) in states.chunks(config.hidden).zip(logits.chunks(config.vocab)) {
            for (row, logit) in embed.chunks(config.hidden).zip(logits) {
                let dot: f32 = row.iter().zip(state).map(|(w, x)| w * x).sum();
                assert!((dot / config.multipliers.logits - logit).abs() < 1e-4, "{machine:?}: {dot} and {logit}");
            }
        }
    }
}

#[test]
fn every_machine_and_schedule_gives_the_reference_bits() {
    assert_reference_bits(&NAMES[..NAMES.len() / 2]);
}

/// The other half, so that two cores have work.
#[test]
fn every_machine_and_schedule_gives_the_reference_bits_on_more() {
    assert_reference_bits(&NAMES[NAMES.len() / 2..]);
}

fn assert_reference_bits(names: &[&str]) {
    for name in names {
        let case = Case::open(name);
        let mut reference = case.load(Machine::Reference, Numerics::Default);
        let want: Vec<Vec<u32>> =
            case.ids.iter().map(|ids| bits(&logits_in_chunks(&mut *reference, ids, usize::MAX))).collect();
        for machine in Machine::all() {
            let mut model = case.load(machine, Numerics::Default);
            for (ids, want) in case.ids.iter().zip(&want) {
                for chunk in [usize::MAX, 1, 7] {
                    let got = bits(&logits_in_chunks(&mut *model, ids, chunk));
                    assert!(got == *want, "{name} on {machine:?} in chunks of {chunk}");
                }
                assert!(bits(&prefix_hit(&mut *model, ids)) == *want, "{name} on {machine:?}, prefix hit");
            }
            for (got, want) in ragged(&mut *model, &case.ids).iter().zip(&want) {
                assert!(bits(got) == *want, "{name} on {machine:?}, ragged");
            }
        }
    }
}

/// The reference backend's are held to transformers' above.
#[test]
fn greedy_continuations_equal_transformers_on_every_machine() {
    for name in NAMES {
        let case = Case::open(name);
        for machine in Machine::all().into_iter().filter(|machine| *machine != Machine::Reference) {
            let mut model = case.load(machine, Numerics::Default);
            for (ids, want) in case.ids.iter().zip(&case.greedy) {
                assert_eq!(&greedy(&mut *model, ids, want.len() - ids.len()), want, "{name} on {machine:?}");
            }
        }
    }
}
