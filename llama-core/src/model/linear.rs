//! The graph's linears, and what adapters add to them.

use crate::adapter::{Named, Place};
use crate::backend::{Backend, Norm, Role};
use crate::batch::{AdapterRun, Stage};
use crate::checkpoint::Name;
use crate::config::{Config, Head};
use crate::error::Result;

/// The matrices of a fused weight, and what its product is, or is added to.
#[derive(Debug, Clone)]
pub(super) struct Fused {
    matrices: Vec<Name>,
    role: Role,
}

impl Fused {
    /// Of a layer: qkv, o, gate and up, down.
    pub fn layer(l: usize) -> [Fused; 4] {
        [
            Fused { matrices: vec![Name::Q(l), Name::K(l), Name::V(l)], role: Role::Local },
            Fused { matrices: vec![Name::O(l)], role: Role::Residual },
            Fused { matrices: vec![Name::Gate(l), Name::Up(l)], role: Role::Local },
            Fused { matrices: vec![Name::Down(l)], role: Role::Residual },
        ]
    }

    /// The head.
    pub fn head() -> Fused {
        Fused { matrices: vec![Name::Head], role: Role::Logits }
    }

    /// All of a model that an adapter may add to.
    fn all(config: &Config) -> impl Iterator<Item = Fused> {
        let head = (config.head == Head::Own).then(Fused::head);
        (0..config.layers).flat_map(Fused::layer).chain(head)
    }
}

/// Bytes that `backend` will hold for what is in `places`.
pub(super) fn adapter_bytes<B: Backend>(backend: &B, places: &[Place], config: &Config) -> u64 {
    let of = |Fused { matrices, role }| {
        let cols = matrices[0].shape(config).1;
        let shapes = places.iter().map(|place| place.shapes(&matrices, config));
        let changed = shapes.filter(|parts: &Vec<_>| !parts.is_empty());
        changed.map(|parts| backend.adapter_bytes(cols, &parts, role)).sum::<u64>()
    };
    Fused::all(config).map(of).sum()
}

/// The most ranks that what is in one of `places` may have for one fused weight.
pub(super) fn widest_rank(places: &[Place], config: &Config) -> usize {
    let rank = |fused: &Fused, place: &Place| place.shapes(&fused.matrices, config).iter().map(|&(_, rank)| rank).sum();
    let of = |fused: Fused| places.iter().map(|place| rank(&fused, place)).max();
    Fused::all(config).filter_map(of).max().unwrap_or(0)
}

/// A fused weight with what each adapter adds to it.
pub(super) struct Linear<B: Backend> {
    weight: B::Weight,
    /// Of each place for an adapter, the memory of what that adds; none where nothing that fits there could.
    adapters: Vec<Option<B::Adapter>>,
    /// Of each, whether what is there adds anything.
    changes: Vec<bool>,
}

impl<B: Backend> Linear<B> {
    /// `weight`, which is made of the matrices of `fused`, with memory for what adapters in `places` add to it, and nothing there.
    pub fn new(backend: &B, weight: B::Weight, fused: &Fused, places: &[Place], config: &Config) -> Result<Self> {
        let Fused { matrices, role } = fused;
        let shapes = matrices.iter().map(|name| name.shape(config));
        let shape = shapes.fold([0, 0], |[all, _], (rows, cols)| [all + rows, cols]);
        let one = |place: &Place| {
            let parts = place.shapes(matrices, config);
            (!parts.is_empty()).then(|| backend.adapter(shape, &parts, *role)).transpose()
        };
        let adapters = places.iter().map(one).collect::<Result<_>>()?;
        Ok(Linear { weight, adapters, changes: vec![false; places.len()] })
    }

    /// Has `named`, which fits there, add to it from `place`, in the stead of whatever did.
    pub fn put(&mut self, backend: &B, place: usize, fused: &Fused, named: &Named, config: &Config) -> Result<()> {
        let Some(adapter) = &mut self.adapters[place] else { return Ok(()) };
        let products = named.products(&fused.matrices, config)?;
        let parts = products.iter().map(|product| product.low_rank()).collect::<Result<Vec<_>>>()?;
        // Where it adds nothing, too: what was there before would, in a step of which another adapter changes this weight.
        backend.set_adapter(adapter, &parts, fused.role)?;
        self.changes[place] = !parts.is_empty();
        Ok(())
    }

    /// Whether an adapter of one of `runs` adds to it.
    fn is_changed(&self, runs: &[AdapterRun]) -> bool {
        runs.iter().any(|run| self.changes[run.adapter as usize])
    }
}

/// The linears of one step. Those that no adapter of the step changes are as the backend fuses them; what is added to others
/// follows their product, so that a row's numbers depend on its own adapter alone.
pub(super) struct Linears<'a, B: Backend> {
    pub backend: &'a B,
    pub plan: &'a B::Plan,
    /// Of all tokens.
    pub runs: &'a [AdapterRun],
}

impl<B: Backend> Linears<'_, B> {
    /// [`Backend::norm_linear`].
    pub fn norm_linear(
        &self,
        out: &mut B::Tensor,
        (x, low): (&mut B::Tensor, &mut Option<B::Tensor>),
        residual: &B::Tensor,
        norm: Norm<'_, B::Tensor>,
        w: &Linear<B>,
    ) -> Result<()> {
        if !w.is_changed(self.runs) {
            return self.backend.norm_linear(out, x, residual, norm, &w.weight);
        }
        self.backend.rms_norm(x, residual, norm.gain, norm.eps)?;
        self.linear(out, low, x, w, Stage::Tokens)
    }

    /// [`Backend::norm_linear_swiglu`].
    pub fn norm_linear_swiglu(
        &self,
        act: &mut B::Tensor,
        (gate_up, x, low): (&mut B::Tensor, &mut B::Tensor, &mut Option<B::Tensor>),
        residual: &B::Tensor,
        norm: Norm<'_, B::Tensor>,
        w: &Linear<B>,
    ) -> Result<()> {
        if !w.is_changed(self.runs) {
            return self.backend.norm_linear_swiglu(act, (gate_up, x), residual, norm, &w.weight);
        }
        let low = low.as_mut().expect("room for what adapters make");
        self.backend.rms_norm(x, residual, norm.gain, norm.eps)?;
        self.backend.adapt_swiglu(act, (gate_up, low), x, &w.weight, &w.adapters, self.plan)
    }

    /// [`Backend::linear_add`].
    pub fn linear_add(
        &self,
        residual: &mut B::Tensor,
        (x, low): (&mut B::Tensor, &mut Option<B::Tensor>),
        y: &B::Tensor,
        w: &Linear<B>,
    ) -> Result<()> {
        self.backend.linear_add(residual, x, y, &w.weight)?;
        self.adapt(residual, low, y, w, Stage::Tokens)
    }

    /// [`Backend::linear`].
    pub fn linear(
        &self,
        out: &mut B::Tensor,
        low: &mut Option<B::Tensor>,
        x: &B::Tensor,
        w: &Linear<B>,
        stage: Stage,
    ) -> Result<()> {
        self.backend.linear(out, x, &w.weight)?;
        self.adapt(out, low, x, w, stage)
    }

    fn adapt(
        &self,
        out: &mut B::Tensor,
        low: &mut Option<B::Tensor>,
        x: &B::Tensor,
        w: &Linear<B>,
        stage: Stage,
    ) -> Result<()> {
        match low {
            Some(low) if w.is_changed(self.runs) => self.backend.adapt(out, low, x, &w.adapters, self.plan, stage),
            _ => Ok(()),
        }
    }
}
