//! Rank: hold a share of a model that is too large, or too slow, for one machine, and compute with it what a leader says.
//!
//! The leader is any of the other programs, or the server, with `--ranks`; this is what runs on every other machine. All of
//! them open the same files, and give the same tokens as one machine would.
//!
//! ```text
//! cargo run --release --example 01-generate -- --model Llama-3.1-70B.gguf --ranks 2 --listen 10.0.0.1:4210
//! cargo run --release --example 07-rank -- --model Llama-3.1-70B.gguf --join 10.0.0.1:4210
//! ```

use std::process::ExitCode;

use clap::Parser;
use llama_core::backend::Backend;
use llama_core::ranks::Follower;
use llama_core::{Loader, Result};
use llama_examples::{ModelArgs, Use, exit, note, with_bar};

/// Take part in running a model on several machines.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Address of the leader
    #[arg(long)]
    join: String,
}

fn main() -> ExitCode {
    exit(|| run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let loader = arguments.model.open()?.options(arguments.model.engine_options(1));
    note(format_args!("joining {}", arguments.join));
    let follower = Follower::join(&arguments.join)?;
    let (rank, ranks) = follower.rank();
    note(format_args!("rank {rank} of {ranks}"));
    arguments.model.on_device(Share { loader, follower })
}

struct Share {
    loader: Loader,
    follower: Follower,
}

impl Use for Share {
    type Outcome = ();

    fn with<B: Backend>(self, backend: B) -> Result<()> {
        with_bar("loading", |progress| self.loader.follow_with(backend, self.follower, progress))
    }
}
