//! One conformance suite for every backend: scenes of verbs, played on a backend and on what it is held to.
//!
//! A backend under test is a [`Subject`]: a [`Backend`] and a way of writing activations, which is no verb. What it owes is
//! an [`Agreement`]:
//!
//! * a CPU tier owes the *bits* of [`Reference`];
//! * a backend with an arithmetic of its own owes a *bound*, derived and not chosen (the rule of FlashAttention's tests,
//!   Dao et al. 2022): its error against the verb evaluated in f64 is at most twice that of the same verb written plainly
//!   in its own precision ([`Spelled`] is both), and the same bits whenever it runs the same scene again.
//!
//! Every backend owes the same bits for every schedule: the batch around a sequence, the chunks of its prompt, the blocks
//! that it is given.
//!
//! [`conformance_suite!`](crate::conformance_suite) makes the scenes a file's tests, so that no backend can leave one out.

mod adapters;
mod attention;
mod fused;
mod judge;
mod layer;
mod linear;
mod random;
mod rows;
mod sampling;
mod schedules;
mod spelled;

pub use attention::shape;
pub use judge::{Judge, Output};
pub use random::Random;
pub use spelled::{Spelled, Width};

use llama_core::backend::{Backend, KvFormat, Limits, Numerics, Reference, Role};
use llama_core::batch::BLOCK;
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;

/// A backend under test.
pub trait Subject {
    /// Its type.
    type Backend: Backend;

    /// The backend.
    fn backend(&self) -> &Self::Backend;
    /// The rows in use, as wide as they are kept.
    fn values(&self, tensor: &TensorOf<Self>) -> Vec<f64> {
        let mut out = Vec::new();
        self.backend().read(tensor, &mut out).expect("read");
        out.into_iter().map(f64::from).collect()
    }

    /// A tensor of zeros.
    fn zeros(&self, rows: usize, cols: usize, role: Role) -> TensorOf<Self> {
        self.backend().tensor(rows, cols, role).expect("memory")
    }

    /// A tensor that holds `values`.
    fn filled(&self, rows: usize, cols: usize, role: Role, values: &[f32]) -> TensorOf<Self> {
        let mut tensor = self.zeros(rows, cols, role);
        self.backend().write(&mut tensor, values).expect("write");
        tensor
    }

    /// A norm's gain.
    fn gain_of(&self, values: &[f32]) -> TensorOf<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::new("gain", Format::F32, 1, values.len(), &bytes).expect("a view");
        self.backend().gain(view).expect("memory")
    }
}

/// The tensors of a subject.
pub type TensorOf<S> = <<S as Subject>::Backend as Backend>::Tensor;
/// The KV caches of a subject.
pub type KvOf<S> = <<S as Subject>::Backend as Backend>::KvCache;
/// The plans of a subject.
pub type PlanOf<S> = <<S as Subject>::Backend as Backend>::Plan;

impl Subject for Reference {
    type Backend = Reference;

    fn backend(&self) -> &Reference {
        self
    }
}

/// Verbs in some order on some numbers: the same on every backend.
pub trait Scene {
    /// What it is, for people.
    fn what(&self) -> String;
    /// Plays it and returns what came out.
    fn play<S: Subject>(&self, subject: &S) -> Vec<Output>;
}

/// What a backend owes.
#[derive(Debug, Clone, Copy)]
pub enum Agreement {
    /// The bits of the reference backend; two NaNs are equal.
    Bits(Numerics),
    /// At most twice the error of a plain computation with activations of this width, and its own bits again.
    Bound(Width),
}

/// How much is asked of a backend: a simulated GPU is asked fewer and smaller scenes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Every scene in full.
    All,
    /// The smallest scenes that still go through every path.
    Few,
}

/// Some subjects of a kind, what they owe and how much they are asked.
pub struct Suite<S> {
    /// Subjects, each held to the same.
    pub subjects: Vec<S>,
    /// What they owe.
    pub owes: Agreement,
    /// How much they are asked.
    pub size: Size,
}

impl<S: Subject> Suite<S> {
    /// Plays a scene on every subject and holds it to what it owes.
    ///
    /// # Panics
    /// If one does not give it.
    pub fn agree(&self, scene: &impl Scene) {
        match self.owes {
            Agreement::Bits(numerics) => {
                let want = scene.play(&Reference::new(numerics));
                for subject in &self.subjects {
                    self.tell(scene, subject, judge::same(&scene.play(subject), &want));
                }
            }
            Agreement::Bound(width) => {
                let (truth, plain) = (scene.play(&Spelled::exact(width)), scene.play(&Spelled::plain(width)));
                for subject in &self.subjects {
                    let got = scene.play(subject);
                    self.tell(scene, subject, judge::within(&got, &plain, &truth, width));
                    self.tell(scene, subject, judge::same(&scene.play(subject), &got));
                }
            }
        }
    }

    /// Fails with the names of scene and backend where `verdict` is an error.
    fn tell(&self, scene: &impl Scene, subject: &S, verdict: Result<(), String>) {
        if let Err(error) = verdict {
            panic!("{} on {}: {error}", scene.what(), subject.backend().name());
        }
    }

    /// How keys and values are kept in the scenes: a CPU's formats, or a GPU's but for the eight bits that have a scene of
    /// their own ([`Suite::attention_in_eight_bits`]).
    fn kv_formats(&self) -> &'static [KvFormat] {
        match self.owes {
            Agreement::Bits(_) => &[KvFormat::Half, KvFormat::F32, KvFormat::Bf16, KvFormat::Q8],
            Agreement::Bound(_) => &[KvFormat::Half, KvFormat::F32],
        }
    }

    /// `all`, or those of `few` where less is asked.
    fn pick<'a, T>(&self, all: &'a [T], few: &[usize]) -> Vec<&'a T> {
        match self.size {
            Size::All => all.iter().collect(),
            Size::Few => few.iter().map(|&i| &all[i]).collect(),
        }
    }
}

/// Limits for up to `sequences` sequences of `context` positions, with three blocks to spare.
fn limits(sequences: usize, context: usize, kv: KvFormat) -> Limits {
    let blocks = sequences * context.div_ceil(BLOCK) + 3;
    Limits { tokens: 1024, sequences, outputs: 1024, context, blocks, kv }
}

/// Makes every scene, or those listed, tests of the calling file. The argument is called for each: it returns a [`Suite`].
#[macro_export]
macro_rules! conformance_suite {
    ($suite:expr) => {
        $crate::conformance_suite! {
            $suite;
            norms norms_of_heads sums_in_the_residual elementwise
            embedding_linear_and_outputs every_format
            attention_of_many_shapes attention_across_partitions attention_in_windows attention_with_a_temperature
            attention_without_a_turn attention_of_hard_numbers
            rows_do_not_see_each_other sequences_do_not_see_each_other chunking_changes_nothing
            copied_blocks_are_the_same
            adapters_of_rows adapters_before_swiglu fused_verbs a_layer tokens_are_the_samplers
        }
    };
    ($suite:expr; $($scene:ident)*) => {
        $(
            #[test]
            fn $scene() {
                ($suite)().$scene();
            }
        )*
    };
}
