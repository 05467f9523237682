//! Runs the cases on the GPU and on the simulator and says where they differ. See the library's documentation.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use opcodes::{Case, Gpu, Judge, Machine, Simulator, Verdict, cases, study};

const USAGE: &str = "usage: opcodes [--threads n] [part of a form]\n       opcodes --write folder";

/// What is asked for.
enum Request {
    Write(PathBuf),
    /// The cases whose form contains this, on so many threads.
    Compare(String, usize),
}

/// Blocks have 32 or 128 threads.
const BLOCK: usize = 128;

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Request> {
    let (mut filter, mut threads) = (String::new(), 8192usize);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => return Some(Request::Write(arguments.next()?.into())),
            "--threads" => threads = arguments.next()?.parse().ok().filter(|n| *n > 0 && *n <= 1 << 20)?,
            _ if argument.starts_with('-') || !filter.is_empty() => return None,
            _ => filter = argument,
        }
    }
    Some(Request::Compare(filter, threads.next_multiple_of(BLOCK)))
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Some(Request::Write(folder)) => write(&folder),
        Some(Request::Compare(filter, threads)) => compare(&filter, threads),
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

/// One file a case, for `ptxas`.
fn write(folder: &Path) -> ExitCode {
    for (i, case) in cases::all().iter().enumerate() {
        if let Err(error) =
            std::fs::write(folder.join(format!("{i:04}.ptx")), format!("// {}\n{}", case.form, case.ptx()))
        {
            eprintln!("{}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn compare(filter: &str, threads: usize) -> ExitCode {
    let gpu = match Gpu::open() {
        Ok(gpu) => gpu,
        Err(reason) => {
            println!("opcodes: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    match report(&gpu, filter, threads) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("opcodes: the driver says {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what fits the device; whether all of it agrees.
fn report(gpu: &Gpu, filter: &str, threads: usize) -> Result<bool, cudarc::driver::DriverError> {
    let capability = gpu.capability()?;
    println!("{}, compute capability {}.{}", gpu.name()?, capability.0, capability.1);
    let all: Vec<Case> = cases::all().into_iter().filter(|case| case.form.contains(filter)).collect();
    let (fitting, other): (Vec<Case>, Vec<Case>) = all.into_iter().partition(|case| case.needs.met_by(capability));
    let wrong = fitting.iter().filter(|case| !agrees(gpu, case, threads)).count();
    println!("{} cases agree, {wrong} do not, {} need another device", fitting.len() - wrong, other.len());
    println!("{}", study::report(gpu, capability));
    Ok(wrong == 0)
}

fn agrees(gpu: &Gpu, case: &Case, threads: usize) -> bool {
    let operands = case.operands(threads);
    // The simulator first: what it finds wrong would end the GPU's context.
    let results = Simulator.run(case, &operands).and_then(|other| Ok((gpu.run(case, &operands)?, other)));
    match results {
        Err(error) => {
            println!("{}: {error}", case.form);
            false
        }
        Ok((own, other)) => {
            let verdict = case.judge.compare(&own, &other, case.width_out());
            tell(case, &operands, &verdict);
            verdict.wrong.is_empty()
        }
    }
}

/// Says what is worth saying: differences, other NaN, and how close approximations are.
fn tell(case: &Case, operands: &[u64], verdict: &Verdict) {
    if let Some(first) = verdict.wrong.first() {
        let row = &operands[first.thread * case.width_in()..][..case.width_in()];
        println!(
            "{}: {} of {} results differ, first thread {} result {}: GPU {:#x}, simulator {:#x}, operands {row:#x?}",
            case.form,
            verdict.wrong.len(),
            verdict.compared,
            first.thread,
            first.result,
            first.gpu,
            first.simulator
        );
    }
    if verdict.payloads > 0 {
        println!("{}: {} NaN with other bits", case.form, verdict.payloads);
    }
    if matches!(case.judge, Judge::Close(..) | Judge::CloseNumbers(..)) {
        println!("{}: within {:.3e} of the true value", case.form, verdict.distance);
    }
}
