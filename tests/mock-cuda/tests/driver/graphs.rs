//! Capture and replay.

use crate::common::{PTX, Rig, rig, shape};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags as Flags, CUresult as Status, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, CudaGraph, DriverError, PushKernelArg, result};
use mock_cuda::Config;

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;

fn both(test: impl Fn(Rig)) {
    [false, true].into_iter().for_each(|deferred| test(rig(Config { deferred, ..Config::default() })));
}

fn status<T>(outcome: Result<T, DriverError>) -> Status {
    outcome.err().map_or(Status::CUDA_SUCCESS, |error| error.0)
}

fn end(rig: &Rig) -> Result<CudaGraph, DriverError> {
    rig.stream.end_capture(Flags(0)).map(|graph| graph.expect("a graph"))
}

#[test]
fn replay_sees_new_contents_and_old_arguments() {
    both(|rig| {
        let mut x = rig.stream.clone_htod(&[1u32, 2]).unwrap();
        rig.stream.begin_capture(GLOBAL).unwrap();
        let (mut factor, addend) = (10u32, 0u32);
        let mut builder = rig.stream.launch_builder(&rig.scale);
        // SAFETY: the kernel's parameters.
        unsafe { builder.arg(&mut x).arg(&factor).arg(&addend).launch(shape(2)) }.unwrap();
        let graph = end(&rig).unwrap();
        // Arguments were copied; changing the variable changes nothing.
        factor += 1;
        assert_eq!(factor, 11);
        graph.upload().unwrap();
        assert!(rig.mock.launches().is_empty());
        graph.launch().unwrap();
        assert_eq!(rig.stream.clone_dtoh(&x).unwrap(), [10, 20]);
        rig.stream.memcpy_htod(&[7, 8], &mut x).unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(rig.stream.clone_dtoh(&x).unwrap(), [700, 800]);
        assert_eq!(rig.mock.launches()["scale"], 3);
    });
}

#[test]
fn copies_in_a_graph_read_the_host_at_launch() {
    both(|rig| {
        // SAFETY: written before it is read.
        let mut staging = unsafe { rig.context.alloc_pinned::<u32>(1) }.unwrap();
        let place = staging.as_mut_ptr().unwrap();
        let x = rig.stream.clone_htod(&[0u32]).unwrap().leak();
        rig.stream.begin_capture(GLOBAL).unwrap();
        // SAFETY: the memory outlives the graph.
        unsafe { result::memcpy_htod_async(x, std::slice::from_raw_parts(place, 1), rig.stream.cu_stream()) }.unwrap();
        let graph = end(&rig).unwrap();
        for value in [5u32, 6] {
            let mut out = [0u32];
            // SAFETY: one element; nothing is being copied meanwhile.
            unsafe { place.write(value) };
            graph.launch().unwrap();
            rig.stream.synchronize().unwrap();
            // SAFETY: one element.
            unsafe { result::memcpy_dtoh_sync(&mut out, x) }.unwrap();
            assert_eq!(out, [value]);
        }
    });
}

#[test]
fn two_streams_become_one_graph() {
    both(|rig| {
        let other = rig.context.new_stream().unwrap();
        let mut x = rig.stream.clone_htod(&[1u32]).unwrap();
        rig.stream.begin_capture(GLOBAL).unwrap();
        rig.scale(&mut x, 1, (2, 0)).unwrap();
        other.wait(&rig.stream.record_event(None).unwrap()).unwrap();
        rig.scale_in(&other, &mut x, 1, (1, 5)).unwrap();
        rig.stream.wait(&other.record_event(None).unwrap()).unwrap();
        rig.scale(&mut x, 1, (10, 0)).unwrap();
        let graph = end(&rig).unwrap();
        graph.launch().unwrap();
        assert_eq!(rig.stream.clone_dtoh(&x).unwrap(), [70]);
    });
}

#[test]
fn branches_must_come_back() {
    let rig = rig(Config::default());
    let other = rig.context.new_stream().unwrap();
    let mut x = rig.stream.clone_htod(&[1u32]).unwrap();
    rig.stream.begin_capture(GLOBAL).unwrap();
    other.wait(&rig.stream.record_event(None).unwrap()).unwrap();
    let early = other.record_event(None).unwrap();
    rig.scale_in(&other, &mut x, 1, (1, 5)).unwrap();
    rig.stream.wait(&early).unwrap();
    assert_eq!(status(end(&rig)), Status::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    // The streams are free again.
    rig.scale_in(&other, &mut x, 1, (1, 5)).unwrap();
    assert_eq!(other.clone_dtoh(&x).unwrap(), [6]);
}

#[test]
fn an_event_from_outside_breaks_isolation() {
    let rig = rig(Config::default());
    let event = rig.context.default_stream().record_event(None).unwrap();
    rig.stream.begin_capture(GLOBAL).unwrap();
    assert_eq!(status(rig.stream.wait(&event)), Status::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(status(end(&rig)), Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn a_captured_event_cannot_be_waited_for() {
    let rig = rig(Config::default());
    rig.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    let event = rig.stream.record_event(None).unwrap();
    assert_eq!(status(event.synchronize()), Status::CUDA_ERROR_CAPTURED_EVENT);
    end(&rig).unwrap();
}

type Attempt = fn(&Rig) -> Result<(), DriverError>;

/// What a capture forbids, and that it is spoilt by the attempt.
#[test]
fn waiting_and_allocating_spoil_a_capture() {
    let attempts: [Attempt; 5] = [
        |rig| rig.stream.synchronize(),
        |rig| rig.context.synchronize(),
        // SAFETY: never read.
        |rig| unsafe { rig.stream.alloc::<u8>(4) }.map(drop),
        // SAFETY: leaked, were it to succeed.
        |_| unsafe { result::malloc_sync(4) }.map(drop),
        |rig| rig.context.load_module(PTX.into()).map(drop),
    ];
    for attempt in attempts {
        let rig = rig(Config::default());
        rig.stream.begin_capture(GLOBAL).unwrap();
        assert_eq!(status(attempt(&rig)), Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(rig.stream.capture_status(), Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED));
        assert_eq!(status(end(&rig)), Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        attempt(&rig).unwrap();
    }
}

#[test]
fn other_threads_are_free_in_thread_local_mode() {
    let alloc = |context: &CudaContext| {
        context.bind_to_thread().unwrap();
        // SAFETY: leaked.
        status(unsafe { result::malloc_sync(4) })
    };
    let elsewhere = |mode| {
        let rig = rig(Config::default());
        let context = &rig.context;
        rig.stream.begin_capture(mode).unwrap();
        let seen = std::thread::scope(|scope| scope.spawn(|| alloc(context)).join().unwrap());
        (seen, status(end(&rig)))
    };
    let free = (Status::CUDA_SUCCESS, Status::CUDA_SUCCESS);
    assert_eq!(elsewhere(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), free);
    assert_eq!(elsewhere(Mode::CU_STREAM_CAPTURE_MODE_RELAXED), free);
    assert_eq!(
        elsewhere(GLOBAL),
        (Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    );
}

#[test]
fn the_default_stream_cannot_be_captured() {
    let rig = rig(Config::default());
    let default = rig.context.default_stream();
    assert_eq!(status(default.begin_capture(GLOBAL)), Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(status(rig.stream.end_capture(Flags(0)).map(drop)), Status::CUDA_ERROR_ILLEGAL_STATE);
}

#[test]
fn a_graph_does_not_outlive_its_module() {
    let rig = rig(Config::default());
    let mut x = rig.stream.clone_htod(&[1u32]).unwrap();
    let module = rig.context.load_module(PTX.into()).unwrap();
    let scale = module.load_function("scale").unwrap();
    rig.stream.begin_capture(GLOBAL).unwrap();
    // SAFETY: the kernel's parameters.
    unsafe { rig.stream.launch_builder(&scale).arg(&mut x).arg(&1u32).arg(&1u32).launch(shape(1)) }.unwrap();
    let graph = end(&rig).unwrap();
    graph.launch().unwrap();
    drop((scale, module));
    graph.launch().unwrap();
    assert_eq!(status(rig.stream.synchronize()), Status::CUDA_ERROR_LAUNCH_FAILED);
    assert!(rig.mock.last_finding().unwrap().contains("module was unloaded"));
}

#[test]
fn a_failure_in_a_graph_is_reported_like_any_other() {
    both(|rig| {
        let mut x = rig.stream.clone_htod(&[1u32]).unwrap();
        rig.stream.begin_capture(GLOBAL).unwrap();
        rig.scale(&mut x, 2, (1, 1)).unwrap();
        let graph = end(&rig).unwrap();
        rig.stream.synchronize().unwrap();
        let _ = graph.launch();
        assert_eq!(status(rig.stream.synchronize()), Status::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}
