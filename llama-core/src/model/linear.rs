//! The graph's linears, and what adapters add to them.

use crate::adapter::Adapters;
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

/// Bytes that `backend` will hold for `adapters`.
pub(super) fn adapter_bytes<B: Backend>(backend: &B, adapters: &Adapters, config: &Config) -> u64 {
    let of = |Fused { matrices, role }| {
        let cols = matrices[0].shape(config).1;
        let shapes = (0..adapters.len()).map(|id| adapters.shapes(id, &matrices, config));
        let changed = shapes.filter(|parts: &Vec<_>| !parts.is_empty());
        changed.map(|parts| backend.adapter_bytes(cols, &parts, role)).sum::<u64>()
    };
    Fused::all(config).map(of).sum()
}

/// The most ranks that an adapter has for one fused weight.
pub(super) fn widest_rank(adapters: &Adapters, config: &Config) -> usize {
    let rank = |fused: &Fused, id| adapters.shapes(id, &fused.matrices, config).iter().map(|&(_, rank)| rank).sum();
    let of = |fused: Fused| (0..adapters.len()).map(|id| rank(&fused, id)).max();
    Fused::all(config).filter_map(of).max().unwrap_or(0)
}

/// A fused weight with what each adapter adds to it.
pub(super) struct Linear<B: Backend> {
    weight: B::Weight,
    /// At each adapter's number.
    adapters: Vec<Option<B::Adapter>>,
}

impl<B: Backend> Linear<B> {
    /// `weight`, which is made of the matrices of `fused`.
    pub fn new(backend: &B, weight: B::Weight, fused: &Fused, adapters: &Adapters, config: &Config) -> Result<Self> {
        let Fused { matrices, role } = fused;
        let rows = matrices.iter().map(|name| name.shape(config).0).sum();
        let one = |id| {
            let products = adapters.products(id, matrices, config)?;
            if products.is_empty() {
                return Ok(None);
            }
            let parts: Result<Vec<_>> = products.iter().map(|product| product.low_rank()).collect();
            backend.adapter(rows, &parts?, *role).map(Some)
        };
        Ok(Linear { weight, adapters: (0..adapters.len()).map(one).collect::<Result<_>>()? })
    }

    /// Whether an adapter of one of `runs` adds to it.
    fn is_changed(&self, runs: &[AdapterRun]) -> bool {
        runs.iter().any(|run| self.adapters[run.adapter as usize].is_some())
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
