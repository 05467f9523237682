//! Inspect: what a file says about its model, and what the model will hold in memory, without reading a weight.
//!
//! ```text
//! cargo run --release --example 05-inspect -- --model MODEL.gguf --tensors
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use llama_core::backend::Backend;
use llama_core::checkpoint::Checkpoint;
use llama_core::config::{Head, Multipliers};
use llama_core::format::Format;
use llama_core::{Loader, Result};
use llama_examples::{ModelArgs, Use, exit, print};
use llama_kernels::Tier;

/// Look at a model without loading it.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Sequences the memory plan is made for
    #[arg(long, default_value_t = 1)]
    sequences: usize,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// List every key of the metadata
    #[arg(long)]
    metadata: bool,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.model.alone()?;
    let loader = arguments.model.open()?.options(arguments.model.engine_options(arguments.sequences));
    header(loader.checkpoint())?;
    formats(loader.checkpoint(), arguments.tensors)?;
    if let (true, Some(metadata)) = (arguments.metadata, loader.checkpoint().metadata()) {
        for (key, value) in metadata.iter() {
            print(format_args!("  {key} = {}\n", shortened(&format!("{value:?}"))))?;
        }
    }
    arguments.model.on_device(Memory(loader))
}

/// What the model will hold on a backend.
struct Memory(Loader);

impl Use for Memory {
    type Outcome = ();

    fn with<B: Backend>(self, backend: B) -> Result<()> {
        let limits = self.0.limits(&backend)?;
        let tiers = Tier::available().map(Tier::name).collect::<Vec<_>>().join(", ");
        print(format_args!("backend    {} (this CPU has {tiers})\n", backend.name()))?;
        print(format_args!(
            "limits     {} sequences of {} tokens, {} tokens a step, {} KV blocks\n",
            limits.sequences, limits.context, limits.tokens, limits.blocks
        ))?;
        print(format_args!("memory     {}\n", self.0.memory_plan(&backend)?))
    }
}

fn header(checkpoint: &Checkpoint) -> Result<()> {
    let config = checkpoint.config();
    print(format_args!("model      {}, {} layers\n", config.architecture, config.layers))?;
    print(format_args!("hidden     {}, ffn {}, vocab {}\n", config.hidden, config.ffn, config.vocab))?;
    print(format_args!(
        "heads      {} of {}, {} for keys and values\n",
        config.heads, config.head_dim, config.kv_heads
    ))?;
    if config.head_norms {
        print("           of which those of queries and of keys are normed\n")?;
    }
    if config.multipliers != Multipliers::default() {
        let Multipliers { embedding, residual, logits, .. } = config.multipliers;
        let attention = config.attention_scale();
        print(format_args!(
            "           embeddings times {embedding}, what layers add times {residual}, q . k times {attention}, logits over {logits}\n"
        ))?;
    }
    print(format_args!("context    {} tokens, rope {:?}\n", config.context, config.rope.scaling))?;
    if !config.rope.unturned.is_empty() {
        print(format_args!("           without it in layers {:?}\n", config.rope.unturned))?;
    }
    let head = match config.head {
        Head::Own => "its own",
        Head::Tied => "tied to the embedding",
        Head::None => "none: it gives hidden states, and no text",
    };
    print(format_args!("head       {head}\n"))?;
    if !config.labels.is_empty() {
        let (labels, problem) = (config.labels.join(", "), config.problem_type.name());
        print(format_args!("labels     {}, {problem}\n", shortened(&labels)))?;
    }
    match checkpoint.tokenizer() {
        Ok(tokenizer) => {
            print(format_args!("tokenizer  {} tokens, ends {:?}\n", tokenizer.vocab(), tokenizer.end_tokens()))?
        }
        Err(error) => print(format_args!("tokenizer  {error}\n"))?,
    }
    print(format_args!("template   {}\n", if checkpoint.chat_template_source().is_some() { "chat" } else { "none" }))
}

fn formats(checkpoint: &Checkpoint, each: bool) -> Result<()> {
    let mut formats: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let format = tensor.format.map_or("unread", Format::name);
        let entry = formats.entry(format).or_default();
        entry.0 += 1;
        entry.1 += tensor.bytes;
        if each {
            print(format_args!("  {:40} {format} [{}, {}]\n", tensor.name, tensor.rows, tensor.cols))?;
        }
    }
    for (format, (count, bytes)) in formats {
        print(format_args!("weights    {format}: {count} tensors, {:.1} MiB\n", bytes as f64 / f64::from(1 << 20)))?;
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}
