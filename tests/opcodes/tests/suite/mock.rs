//! The program against the mock driver: every kernel loads and runs there, operands and results arrive, differences are seen.
//! It is the simulator compared with itself, and says nothing about a GPU.

use mock_cuda::{Capability, Config};
use opcodes::{Case, Gpu, Machine, Simulator, cases};

const THREADS: usize = 256;

fn compare(gpu: &Gpu, case: &Case) -> Result<usize, String> {
    let operands = case.operands(THREADS);
    let other = Simulator.run(case, &operands).map_err(|error| error.to_string())?;
    let own = gpu.run(case, &operands).map_err(|error| error.to_string())?;
    let verdict = case.judge.compare(&own, &other, case.width_out());
    if verdict.wrong.is_empty() { Ok(verdict.compared) } else { Err(format!("{:?}", verdict.wrong[0])) }
}

#[test]
fn every_case_runs() {
    let _mock = mock_cuda::install(&Config { capability: Capability::HOPPER, ..Config::default() }).unwrap();
    let gpu = Gpu::open().unwrap();
    let mut wrong = Vec::new();
    for case in cases::all() {
        match compare(&gpu, &case) {
            Ok(compared) => assert_eq!(compared, THREADS * case.width_out(), "{}", case.form),
            Err(why) => wrong.push(format!("{}: {why}", case.form)),
        }
    }
    assert!(wrong.is_empty(), "{} fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_difference_is_seen() {
    let _mock = mock_cuda::install(&Config::default()).unwrap();
    let gpu = Gpu::open().unwrap();
    let all = cases::all();
    for (form, other) in [("add.rn.f32", "add.rz.f32"), ("shr.u32", "shr.s32"), ("min.f32", "min.ftz.f32")] {
        let find = |form: &str| all.iter().find(|case| case.form == form).unwrap();
        let operands = find(form).operands(THREADS);
        let own = gpu.run(find(other), &operands).unwrap();
        let verdict = find(form).judge.compare(&own, &Simulator.run(find(form), &operands).unwrap(), 1);
        assert!(!verdict.wrong.is_empty(), "{form} and {other}");
    }
}

#[test]
fn a_driver_that_refuses_is_told() {
    let _mock = mock_cuda::install(&Config { driver_version: 11000, ..Config::default() }).unwrap();
    let case = &cases::all()[0];
    let error = Gpu::open().unwrap().run(case, &case.operands(THREADS)).unwrap_err();
    assert!(error.to_string().contains("UNSUPPORTED_PTX_VERSION"), "{error}");
}
