//! What the examples share: arguments every program takes, loading with a progress bar, numbers for people.

use std::convert::Infallible;
use std::fmt::Display;
use std::io::{BufRead, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Termination};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use llama_core::adapter::Adapter;
use llama_core::backend::{Backend, KvFormat, Numerics};
use llama_core::checkpoint::Checkpoint;
use llama_core::engine::draft::DraftModel;
use llama_core::engine::{Engine, EngineOptions, Request};
use llama_core::model::Progress;
use llama_core::ranks::Leader;
use llama_core::sample::Sampling;
use llama_core::text::Specials;
use llama_core::{Error, Loader, Result};
use llama_cuda::{Cuda, CudaOptions};
use llama_kernels::{Cpu, CpuOptions, Tier};

/// Which model, and how to run it.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A GGUF file or a Hugging Face folder [default: the model that ships with the examples]
    #[arg(long, short)]
    pub model: Option<PathBuf>,
    /// cpu, or cuda for the first GPU, cuda:1 for the second
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// Threads, on a CPU [default: as many as this process may use]
    #[arg(long, short)]
    pub threads: Option<usize>,
    /// Instruction-set tier of a CPU: portable, avx2, avx-vnni, avx512-vnni [default: the fastest there is]
    #[arg(long)]
    pub tier: Option<Tier>,
    /// How quantised weights are multiplied
    #[arg(long, value_enum, default_value_t = NumericsArg::Default)]
    pub numerics: NumericsArg,
    /// On a CPU: keep BF16 weights in twelve bits, exactly: the same text from less memory, and sooner
    #[arg(long)]
    pub compact: bool,
    /// On a CPU: keep packed weights in this file, or in a file in this folder, so that a second start is faster
    #[arg(long)]
    pub cache: Option<PathBuf>,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = KvArg::Half)]
    pub kv: KvArg,
    /// Positions of one sequence [default: the model's, at most 8192]
    #[arg(long, short)]
    pub context: Option<usize>,
    /// Tokens of one step: a longer prompt is worked through in chunks; fewer take less memory
    #[arg(long, default_value_t = EngineOptions::default().chunk)]
    pub chunk: usize,
    /// Refuse to use more than this many MiB, those of a --draft-model included
    #[arg(long)]
    pub memory_limit: Option<u64>,
    /// Guess so many tokens ahead, and check them together: the same text in fewer steps where it is easily guessed [default:
    /// 0; 4 with --draft-model]
    #[arg(long)]
    pub drafts: Option<usize>,
    /// A smaller model with the same tokens that guesses [default: what followed the same words before]
    #[arg(long)]
    pub draft_model: Option<PathBuf>,
    /// Compute with this LoRA adapter, a folder of PEFT's or a GGUF; =0.5 behind it takes half of it. Several under one name are
    /// added up; of several names programs take the first, and the server the one that a request asks for
    #[arg(long, value_name = "[NAME=]PATH[=STRENGTH]", value_parser = named_adapter)]
    pub adapter: Vec<NamedAdapter>,
    /// Share the model among so many machines, this one included: waits until the others have joined (07-rank)
    #[arg(long, default_value_t = 1)]
    pub ranks: usize,
    /// Where they join. Ranks trust each other: listen on a network of their own
    #[arg(long, default_value = "127.0.0.1:4210")]
    pub listen: SocketAddr,
}

/// `--device`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, number) = text.split_once(':').unwrap_or((text, "0"));
        match (text, kind, number.parse()) {
            ("cpu", ..) => Ok(Device::Cpu),
            (_, "cuda", Ok(number)) => Ok(Device::Cuda(number)),
            _ => Err("expected cpu, cuda or cuda:NUMBER"),
        }
    }
}

/// `--adapter`
#[derive(Debug, Clone, PartialEq)]
pub struct NamedAdapter {
    /// What requests ask for it by.
    pub name: String,
    /// Its file or folder.
    pub path: PathBuf,
    /// How much of it is added.
    pub strength: f32,
}

/// The strength is behind the last `=`, if that is a number; the name before the first, if there is another.
fn named_adapter(text: &str) -> Result<NamedAdapter, Infallible> {
    let strong = text.rsplit_once('=').and_then(|(rest, strength)| Some((rest, strength.parse().ok()?)));
    let (rest, strength) = strong.unwrap_or((text, 1.0));
    let (name, path) = rest.split_once('=').unwrap_or(("adapter", rest));
    Ok(NamedAdapter { name: name.into(), path: path.into(), strength })
}

/// What is done with a backend, whichever it is.
pub trait Use {
    /// What comes of it.
    type Outcome;
    /// The model whose weights it loads, if it does: those that are worth a cache.
    fn loads(&self) -> Option<&Checkpoint> {
        None
    }
    /// Does it.
    fn with<B: Backend>(self, backend: B) -> Result<Self::Outcome>;
}

/// `--numerics`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum NumericsArg {
    /// on a CPU with activations in int8; on a GPU in bf16
    Default,
    /// on a CPU with int8 scales that are powers of two; on a GPU as default
    Fast,
    /// on a CPU with activations in two terms of int8; on a GPU in f32
    Precise,
    /// f32 arithmetic, on a CPU with weights decoded to f32 when loaded
    Float,
}

/// `--kv`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KvArg {
    /// sixteen bits: f16 on a CPU, bf16 on a GPU
    Half,
    /// single precision
    F32,
    /// bfloat16
    Bf16,
    /// eight bits (e4m3), on a GPU
    F8,
    /// eight bits (integers with a scale for 32), on a CPU
    Q8,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Choose among this many likeliest tokens; 0: all
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Drop tokens less likely than this fraction of the likeliest
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Choose among the tokens whose surprise is nearest what is expected, and that together have this probability
    #[arg(long, default_value_t = 1.0)]
    pub typical_p: f32,
    /// How often to drop the likeliest tokens, all but the least likely of those with the --xtc-threshold
    #[arg(long, default_value_t = 0.0)]
    pub xtc_probability: f32,
    /// Probability from which on a token is one of these
    #[arg(long, default_value_t = 0.1)]
    pub xtc_threshold: f32,
    /// Above 1: tokens already seen become less likely
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Above 0: a token that would continue a repetition becomes less likely, by this where that is --dry-allowed-length long
    #[arg(long, default_value_t = 0.0)]
    pub dry_multiplier: f32,
    /// And by so many times more for each token that it is longer
    #[arg(long, default_value_t = 1.75)]
    pub dry_base: f32,
    /// Tokens that may be repeated
    #[arg(long, default_value_t = 2)]
    pub dry_allowed_length: usize,
    /// Look for repetitions in so many of the last tokens [default: all]
    #[arg(long)]
    pub dry_window: Option<usize>,
    /// A repetition ends where a token contains this; may be given several times [default: line breaks, :, " and *]
    #[arg(long)]
    pub dry_breaker: Vec<String>,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// The model that ships with the examples: stories260K, MIT licence.
pub fn shipped_model() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/stories260K.gguf"))
}

impl ModelArgs {
    /// Opens the checkpoint, and adapters with it.
    pub fn open(&self) -> Result<Loader> {
        let loader = Loader::open(self.model.as_deref().unwrap_or(shipped_model()))?;
        self.adapter.iter().try_fold(loader, |loader, NamedAdapter { name, path, strength }| {
            loader.adapter(name, Adapter::open(path)?, *strength)
        })
    }

    /// Makes the backend and hands it over.
    pub fn on_device<U: Use>(&self, of: U) -> Result<U::Outcome> {
        let numerics = match self.numerics {
            NumericsArg::Default => Numerics::Default,
            NumericsArg::Fast => Numerics::Fast,
            NumericsArg::Precise => Numerics::Precise,
            NumericsArg::Float => Numerics::Float,
        };
        match self.device {
            Device::Cpu => {
                let &ModelArgs { threads, tier, compact, .. } = self;
                let cpu = Cpu::new(CpuOptions { threads, tier, numerics, compact })?;
                let cpu = match (&self.cache, of.loads()) {
                    (Some(cache), Some(checkpoint)) => cpu.cached(cache, checkpoint)?,
                    _ => cpu,
                };
                of.with(cpu)
            }
            Device::Cuda(device) => of.with(Cuda::new(CudaOptions { device, numerics, ..CudaOptions::default() })?),
        }
    }

    /// Options of an engine that runs `sequences` at once.
    pub fn engine_options(&self, sequences: usize) -> EngineOptions {
        EngineOptions {
            context: self.context,
            sequences,
            chunk: self.chunk,
            kv: match self.kv {
                KvArg::Half => KvFormat::Half,
                KvArg::F32 => KvFormat::F32,
                KvArg::Bf16 => KvFormat::Bf16,
                KvArg::F8 => KvFormat::F8,
                KvArg::Q8 => KvFormat::Q8,
            },
            memory_limit: self.memory_limit.map(|mib| mib.saturating_mul(1 << 20)),
            drafts: self.drafts.unwrap_or(if self.draft_model.is_some() { 4 } else { 0 }),
            ..EngineOptions::default()
        }
    }

    /// Opens and loads, with a progress bar where the output is a terminal.
    pub fn load(&self, sequences: usize) -> Result<Engine> {
        self.load_from(self.open()?, sequences)
    }

    /// Opens and loads a model that will be asked for hidden states.
    pub fn load_to_embed(&self, sequences: usize) -> Result<Engine> {
        let options = EngineOptions { embeddings: true, ..self.engine_options(sequences) };
        self.on_device(Load(self.open()?.options(options), self.leader()?))
    }

    /// Loads what is open already.
    pub fn load_from(&self, loader: Loader, sequences: usize) -> Result<Engine> {
        self.load_with(loader, self.engine_options(sequences))
    }

    /// The same, with options that are not only the arguments'.
    pub fn load_with(&self, loader: Loader, options: EngineOptions) -> Result<Engine> {
        let loader = loader.options(options.clone());
        let Some(path) = &self.draft_model else { return self.on_device(Load(loader, self.leader()?)) };
        let drafter = Loader::open(path)?.options(options.clone());
        let [own, drafters] = self.divided(options.memory_limit, &loader, &drafter)?;
        let within = |memory_limit| EngineOptions { memory_limit, ..options.clone() };
        let engine = self.on_device(Load(loader.options(within(own)), self.leader()?))?;
        let drafter = self.on_device(LoadDrafter(drafter.options(within(drafters)), &engine))?;
        engine.with_drafter(drafter)
    }

    /// A memory limit is for a model and its drafter together: what of it is the model's, and what the drafter's.
    fn divided(&self, limit: Option<u64>, engine: &Loader, drafter: &Loader) -> Result<[Option<u64>; 2]> {
        let Some(limit) = limit else { return Ok([None; 2]) };
        let drafters = self.on_device(DrafterBytes { engine, drafter, limit })?;
        Ok([Some(limit - drafters), Some(drafters)])
    }

    /// That a program that works alone was not asked to lead others, who would wait for it.
    pub fn alone(&self) -> Result<()> {
        match self.ranks {
            1 => Ok(()),
            ranks => Err(Error::parameter("ranks", ranks, "this program works alone: leave it out")),
        }
    }

    /// This rank at the head of the others, once they are there; `None` where there are none.
    fn leader(&self) -> Result<Option<Leader>> {
        if self.ranks == 1 {
            return Ok(None);
        }
        let door = TcpListener::bind(self.listen).map_err(|error| {
            Error::parameter("listen", self.listen, format!("cannot be listened on ({error}): choose another address"))
        })?;
        note(format_args!("rank 0 of {}: waiting at {} for the others", self.ranks, self.listen));
        Leader::wait(&door, self.ranks).map(Some)
    }
}

struct Load(Loader, Option<Leader>);

impl Use for Load {
    type Outcome = Engine;

    fn loads(&self) -> Option<&Checkpoint> {
        Some(self.0.checkpoint()).filter(|_| self.1.is_none())
    }

    fn with<B: Backend>(self, backend: B) -> Result<Engine> {
        with_bar("loading", |progress| match self.1 {
            None => self.0.load_with(backend, progress),
            Some(leader) => self.0.lead_with(backend, leader, progress),
        })
    }
}

/// Works with a progress bar, which is gone when all is done.
pub fn with_bar<T>(what: &str, work: impl FnOnce(&mut dyn FnMut(Progress)) -> Result<T>) -> Result<T> {
    let bar = bar(0, &format!("{what} {{bar:40}} {{bytes}}/{{total_bytes}}"));
    let outcome = work(&mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        if progress.done == progress.total {
            bar.finish_and_clear();
        }
    });
    bar.finish_and_clear();
    outcome
}

struct DrafterBytes<'a> {
    engine: &'a Loader,
    drafter: &'a Loader,
    limit: u64,
}

impl Use for DrafterBytes<'_> {
    type Outcome = u64;

    fn with<B: Backend>(self, backend: B) -> Result<u64> {
        self.drafter.drafter_bytes(&backend, self.engine, self.limit)
    }
}

struct LoadDrafter<'a>(Loader, &'a Engine);

impl Use for LoadDrafter<'_> {
    type Outcome = DraftModel;

    fn with<B: Backend>(self, backend: B) -> Result<DraftModel> {
        self.0.drafter(backend, self.1)
    }
}

impl SamplingArgs {
    /// The same, as the engine takes it.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a `--dry-breaker` that no token contains, or that there is nothing to break for.
    pub fn sampling(&self, engine: &Engine) -> Result<Sampling> {
        Ok(Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            repetition_penalty: self.repetition_penalty,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_window: self.dry_window.unwrap_or(usize::MAX),
            dry_breakers: self.dry_breakers(engine)?.into(),
            seed: self.seed,
            ..Sampling::greedy()
        })
    }

    fn dry_breakers(&self, engine: &Engine) -> Result<Vec<u32>> {
        if let Some(breaker) = self.dry_breaker.first().filter(|_| self.dry_multiplier == 0.0) {
            let problem = "changes nothing without a --dry-multiplier above 0; give one, or leave it out";
            return Err(Error::parameter("--dry-breaker", format!("{breaker:?}"), problem));
        }
        match engine.tokenizer().filter(|_| self.dry_multiplier != 0.0) {
            None => Ok(Vec::new()),
            Some(tokenizer) if self.dry_breaker.is_empty() => Ok(tokenizer.dry_breakers()),
            Some(tokenizer) => tokenizer.containing(&self.dry_breaker),
        }
    }
}

/// A progress bar on standard error; nothing where that is not a terminal.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// What a program computes with: the first of its adapters, if it has any.
pub fn first_adapter(engine: &Engine) -> Option<String> {
    engine.adapters().next().map(str::to_owned)
}

/// A text, and in what windows a model reads it.
#[derive(Debug, Args)]
pub struct WindowArgs {
    /// Tokens of one window; the first of each is not scored
    #[arg(long, default_value_t = 512)]
    pub window: usize,
    /// Windows at most
    #[arg(long)]
    pub windows: Option<usize>,
    /// UTF-8 text
    pub text: PathBuf,
}

impl WindowArgs {
    /// Reads the text, before a model is loaded for it.
    pub fn read(&self) -> Result<String> {
        if self.window < 2 {
            return Err(Error::parameter("window", self.window, "at least 2 tokens are needed to score one"));
        }
        std::fs::read_to_string(&self.text).map_err(|error| Error::io(&self.text, error))
    }

    /// Requests that score the windows of `text`, two tokens or more in each. The begin-of-sequence token, where the model wants one,
    /// begins each.
    pub fn requests(&self, engine: &Engine, text: &str) -> Result<Vec<Request>> {
        let ids = engine.encode(text, Specials::AsText)?;
        let bos = engine.tokenizer().and_then(|tokenizer| tokenizer.bos());
        let (first, rest) = ids.split_at(usize::from(bos.is_some_and(|bos| ids.first() == Some(&bos))));
        let windows = rest.chunks(self.window - first.len()).map(|part| [first, part].concat());
        let windows = windows.filter(|window| window.len() > 1).take(self.windows.unwrap_or(usize::MAX));
        let scored = |window| Request {
            max_tokens: Some(0),
            prompt_logprobs: true,
            adapter: first_adapter(engine),
            ..Request::new(window)
        };
        let requests: Vec<_> = windows.map(scored).collect();
        if requests.is_empty() {
            let (text, tokens) = (self.text.display(), ids.len());
            let problem = format!("no window of 2 tokens or more in the {tokens} tokens of {text}");
            return Err(Error::parameter(
                "windows",
                self.windows.map_or("all".into(), |most| most.to_string()),
                problem,
            ));
        }
        Ok(requests)
    }
}

/// Tokens to ask for after a prompt of `prompt` tokens: `wanted`, or those that the context has room for. Where it has room for
/// none, one: the engine's error has the numbers.
pub fn fitting(wanted: usize, engine: &Engine, prompt: usize) -> usize {
    wanted.min(engine.model().limits().context.saturating_sub(prompt).max(1))
}

/// Tokens a second.
pub fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// Bytes of this process in memory now, where the system tells (`VmRSS` of Linux).
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Runs `program`, which gives `()` or an exit status; an error becomes one line and exit status 1. A reader of our
/// output that has seen enough (`| head`) is no error.
pub fn exit<T: Termination>(program: impl FnOnce() -> Result<T>) -> ExitCode {
    match program() {
        Ok(outcome) => outcome.report(),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output at once: `println!` would keep half a line back, and panic where nobody reads it.
pub fn print(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(stdio)
}

/// Lines without their ends. Bytes that are not UTF-8 become U+FFFD: one of them must not spoil all the other lines.
pub fn lossy_lines(input: impl BufRead) -> impl Iterator<Item = std::io::Result<String>> {
    input.split(b'\n').map(|line| {
        let line = line?;
        Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned())
    })
}

/// A line for people on standard error, lost where that is closed.
pub fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// An I/O error of standard input or output.
pub fn stdio(error: std::io::Error) -> Error {
    Error::io("standard input or output", error)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        model: ModelArgs,
    }

    fn options(arguments: &[&str]) -> EngineOptions {
        Arguments::parse_from(["program"].iter().chain(arguments)).model.engine_options(1)
    }

    #[test]
    fn devices_by_name() {
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        for wrong in ["", "cpu:1", "cuda:", "cuda:-1", "cuda:x", "gpu", "CUDA"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn adapters_by_name_and_strength() {
        for (text, name, path, strength) in [
            ("a.gguf", "adapter", "a.gguf", 1.0),
            ("a.gguf=0.5", "adapter", "a.gguf", 0.5),
            ("x=a.gguf", "x", "a.gguf", 1.0),
            ("x=a=b=-2", "x", "a=b", -2.0),
            ("x=a=b", "x", "a=b", 1.0),
            ("=a", "", "a", 1.0),
        ] {
            let expected = NamedAdapter { name: name.into(), path: path.into(), strength };
            assert_eq!(named_adapter(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_huge_memory_limit_does_not_wrap_round() {
        assert_eq!(options(&["--memory-limit", "3"]).memory_limit, Some(3 << 20));
        assert_eq!(options(&["--memory-limit", "17592186044417"]).memory_limit, Some(u64::MAX));
    }

    /// The model drafts for itself, so half of a limit that is too small for all is the drafter's.
    #[test]
    fn a_memory_limit_is_for_the_model_and_its_drafter_together() {
        let (shipped, limit) = (shipped_model().to_str().unwrap(), 6 << 20);
        let arguments = |more: &[&str]| {
            let own = ["program", "--threads", "1", "--chunk", "16", "--model", shipped];
            Arguments::parse_from(own.iter().chain(more)).model
        };
        let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
        let loader = |options| Loader::open(shipped).unwrap().options(options);
        let loaded = |model: &ModelArgs| {
            let engine = model.load(8).unwrap();
            let cache_blocks = Some(engine.model().limits().blocks);
            let as_large = EngineOptions { cache_blocks, memory_limit: None, ..model.engine_options(8) };
            (engine, loader(as_large).memory_plan(&cpu).unwrap().total())
        };
        let (mut alone, whole) = loaded(&arguments(&["--memory-limit", "6"]));
        let together = arguments(&["--draft-model", shipped, "--memory-limit", "6"]);
        let (mut drafted, engines) = loaded(&together);
        let options = || together.engine_options(8);
        let drafters = loader(options()).drafter_bytes(&cpu, &loader(options()), limit).unwrap();
        assert!(whole > limit / 6 * 5 && engines + drafters <= limit, "{whole}, {engines} and {drafters} bytes");
        assert!(engines > limit / 3 && drafters > limit / 3, "{engines} and {drafters} bytes");
        let request = || Request { max_tokens: Some(20), ..Request::new([1, 5, 6]) };
        assert_eq!(drafted.complete(request()).unwrap().text, alone.complete(request()).unwrap().text);
        assert!(drafted.stats().accepted > 10, "{:?}", drafted.stats());
        let Err(error) = arguments(&["--draft-model", shipped, "--memory-limit", "1"]).load(8) else {
            panic!("loaded")
        };
        assert!(matches!(error, Error::Memory { .. }), "{error}");
    }

    #[test]
    fn who_works_alone_leads_nobody() {
        let alone = |arguments: &[&str]| Arguments::parse_from(["program"].iter().chain(arguments)).model.alone();
        alone(&["--ranks", "1"]).unwrap();
        let error = alone(&["--ranks", "2"]).unwrap_err().to_string();
        assert_eq!(error, "parameter ranks = 2: this program works alone: leave it out");
    }

    #[test]
    fn the_chunk_is_the_engines_unless_given() {
        assert_eq!(options(&[]).chunk, EngineOptions::default().chunk);
        assert_eq!(options(&["--chunk", "64"]).chunk, 64);
    }

    #[test]
    fn lines_that_are_not_utf8() {
        let lines: Vec<_> = lossy_lines(&b"one\r\n\ntw\xffo\nthree"[..]).map(Result::unwrap).collect();
        assert_eq!(lines, ["one", "", "tw\u{fffd}o", "three"]);
    }
}
