//! What the CUDA backend says when it cannot run: no driver's device, an old driver, an old device, too little memory,
//! failures of the driver.

use llama_core::backend::KvFormat;
use llama_core::checkpoint::Checkpoint;
use llama_core::engine::EngineOptions;
use llama_core::model::Llama;
use llama_core::{Error, Loader};
use llama_cuda::{Cuda, CudaOptions};
use llama_tests::models::{limits, stories260k};
use mock_cuda::{Capability, Config, install};

fn refusal(config: Config, options: CudaOptions) -> String {
    let _gpu = install(&config).expect("the mock driver");
    Cuda::new(options).err().expect("a refusal").to_string()
}

#[test]
fn devices_are_listed() {
    let config = Config { devices: 2, capability: Capability::HOPPER, memory: 1 << 30, ..Config::default() };
    let _gpu = install(&config).expect("the mock driver");
    let devices = Cuda::devices().expect("a list");
    let seen: Vec<_> = devices.iter().map(|d| (d.ordinal, d.capability, d.memory)).collect();
    assert_eq!(seen, [(0, (9, 0), 1 << 30), (1, (9, 0), 1 << 30)]);
}

#[test]
fn no_device_is_an_empty_list_and_an_error() {
    let none = Config { devices: 0, ..Config::default() };
    {
        let _gpu = install(&none).expect("the mock driver");
        assert_eq!(Cuda::devices().expect("a list"), []);
    }
    assert_eq!(refusal(none, CudaOptions::default()), "parameter CUDA device = 0: this machine has 0 of them");
}

#[test]
fn what_is_too_old_is_named() {
    let old_driver = Config { driver_version: 11080, ..Config::default() };
    let message = refusal(old_driver, CudaOptions::default());
    assert!(message.contains("CUDA 11.8") && message.contains("12.0"), "{message}");
    let old_device = Config { capability: Capability { major: 7, minor: 5 }, ..Config::default() };
    let message = refusal(old_device, CudaOptions::default());
    assert!(message.contains("7.5") && message.contains("8.0"), "{message}");
    let message = refusal(Config::default(), CudaOptions { device: 3, ..CudaOptions::default() });
    assert!(message.contains("device = 3") && message.contains("has 1"), "{message}");
}

/// A model that the card cannot hold is refused before a byte of it is read, with both numbers.
#[test]
fn a_model_bigger_than_the_card_is_refused_with_the_numbers() {
    let config = Config { memory: 1 << 20, ..Config::default() };
    let _gpu = install(&config).expect("the mock driver");
    let checkpoint = Checkpoint::open(stories260k()).unwrap();
    let cuda = Cuda::new(CudaOptions::default()).unwrap();
    let refused = Llama::load(cuda, &checkpoint, limits(1, 256), None, &mut |_| panic!("a weight was read"));
    match refused.err() {
        Some(Error::Memory { needed, limit, .. }) => assert!(needed > limit && limit <= 1 << 20, "{needed} of {limit}"),
        other => panic!("{other:?}"),
    }
}

/// What a model takes of the card is what the plan says.
#[test]
fn a_model_takes_the_memory_of_its_plan() {
    let _gpu = install(&Config { checks: false, ..Config::default() }).expect("the mock driver");
    let watch = Cuda::new(CudaOptions::default()).unwrap();
    let before = watch.free_memory().unwrap();
    let options = EngineOptions { context: Some(64), sequences: 2, kv: KvFormat::Half, ..EngineOptions::default() };
    let loader = Loader::open(stories260k()).unwrap().options(options);
    let planned = loader.memory_plan(&Cuda::new(CudaOptions::default()).unwrap()).unwrap();
    let engine = loader.load(Cuda::new(CudaOptions::default()).unwrap()).unwrap();
    let used = before - watch.free_memory().unwrap();
    let of_device = planned.total() - planned.engine;
    assert!(used.abs_diff(of_device) * 100 <= of_device, "{used} bytes used, {of_device} planned");
    drop(engine);
    assert_eq!(watch.free_memory().unwrap(), before, "everything is given back");
}

/// Eight-bit integers with scales are a CPU's way to keep keys and values.
#[test]
fn a_format_for_cpus_is_refused() {
    let _gpu = install(&Config { checks: false, ..Config::default() }).expect("the mock driver");
    let options = EngineOptions { context: Some(64), sequences: 1, kv: KvFormat::Q8, ..EngineOptions::default() };
    let loader = Loader::open(stories260k()).unwrap().options(options);
    match loader.load(Cuda::new(CudaOptions::default()).unwrap()).err() {
        Some(Error::Parameter { name: "kv", value, .. }) => assert_eq!(value, "q8"),
        other => panic!("{other:?}"),
    }
}
