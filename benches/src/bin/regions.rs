//! What a parallel region costs beside its work: the team's fork and join, and `rayon::join`, in turn.
//!
//! ```text
//! cargo run --release -p llama-benches --bin regions -- --busy 2
//! ```
//! A region is two tasks of `--work` microseconds, as a decode step has five a layer. Printed is the wall time of a region
//! less the work of one task, for the quickest, the middle and the slowest of a hundred regions: alone, and with `--busy`
//! threads that compete for the processors. `never` is one thread that does both tasks.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use llama_core::{Error, Result};
use llama_kernels::threads::Threads;

/// Measure regions.
#[derive(Parser)]
struct Arguments {
    /// Threads that compete
    #[arg(long, default_value_t = 0)]
    busy: usize,
    /// Microseconds of a task
    #[arg(long, default_value_t = 20)]
    work: u64,
    /// Regions of a turn
    #[arg(long, default_value_t = 500)]
    regions: usize,
    /// Turns
    #[arg(long, default_value_t = 20)]
    turns: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (threads, quit) = (Threads::new(2)?, AtomicBool::new(false));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let pool = pool.map_err(|error| Error::parameter("threads", 2, error.to_string()))?;
    let rounds = rounds_of(Duration::from_micros(arguments.work));
    let task = || work(rounds);
    std::thread::scope(|scope| {
        (0..arguments.busy).for_each(|_| {
            drop(scope.spawn(|| {
                while !quit.load(Relaxed) {
                    work(1000)
                }
            }))
        });
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..arguments.turns {
            threads.step(|| times[0].extend(turn(arguments.regions, || threads.for_each(2, &|_| task()))));
            let join = || {
                rayon::join(task, task);
            };
            times[1].extend(pool.install(|| turn(arguments.regions, join)));
            times[2].extend(turn(arguments.regions, || (0..2).for_each(|_| task())));
        }
        quit.store(true, Relaxed);
        println!("{} us of work a task, {} busy threads, microseconds beyond it", arguments.work, arguments.busy);
        for (name, mut times) in ["team", "rayon::join", "never"].into_iter().zip(times) {
            times.sort();
            let beyond = |share: usize| micros(times[(times.len() - 1) * share / 100]) - arguments.work as f64;
            println!("{name:12} quickest {:8.2} middle {:8.2} 99 % {:9.2}", beyond(0), beyond(50), beyond(99));
        }
    });
    Ok(())
}

/// The time of each region.
fn turn(regions: usize, region: impl Fn()) -> Vec<Duration> {
    let time = || {
        let start = Instant::now();
        region();
        start.elapsed()
    };
    (0..regions).map(|_| time()).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Rounds of [`work`] that take so long: the quickest of many tries, as others may be running.
fn rounds_of(time: Duration) -> u64 {
    let round = turn(200, || work(10_000)).into_iter().min().unwrap_or_default();
    (10_000.0 * time.as_secs_f64() / round.as_secs_f64()) as u64
}

fn work(rounds: u64) {
    let mut x = black_box(1u64);
    for _ in 0..rounds {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}
