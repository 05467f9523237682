//! Graphs: made by capture, launched as often as wanted.

use std::ffi::{c_uint, c_ulonglong};

use crate::arguments::{HostMemory, Out};
use crate::call::exports;
use crate::device::{State, find, find_mut, take};
use crate::handle::{Handle, Id, fresh};
use crate::status::{Result, Status};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH`, for graphs that kernels launch.
const DEVICE_LAUNCH: c_ulonglong = 4;

fn instantiate(state: &mut State, graph: Id, flags: c_ulonglong) -> Result<Id> {
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    let graph = find(&state.graphs, graph)?.clone();
    let id = fresh(state.ordinal);
    state.executables.insert(id, graph);
    Ok(id)
}

fn launch(state: &mut State, executable: Id, stream: Id) -> Result {
    let graph = find(&state.executables, executable)?.clone();
    graph.into_iter().try_for_each(|work| state.submit(stream, work))
}

/// Work of a graph may take the place of other work of the same kind.
fn update(state: &mut State, executable: Id, graph: Id) -> Result {
    let graph = find(&state.graphs, graph)?.clone();
    let executable = find_mut(&mut state.executables, executable)?;
    let alike = executable.iter().zip(&graph).all(|(a, b)| std::mem::discriminant(a) == std::mem::discriminant(b));
    if executable.len() != graph.len() || !alike {
        return Err(Status::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    }
    *executable = graph;
    Ok(())
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
pub(crate) struct UpdateInfo {
    result: c_uint,
    error_node: Handle,
    error_from_node: Handle,
}

/// `CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED`.
const TOPOLOGY_CHANGED: c_uint = 2;

exports! {
    /// Makes a graph ready to launch.
    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: c_ulonglong) |driver| {
        executable.set(Handle::of(driver.with(graph, |state| instantiate(state, graph.id(), flags))?))
    }

    /// Sends it to the device beforehand, which it need not be.
    fn cuGraphUpload(executable: Handle, stream: Handle) |driver| {
        driver.on(stream, |state, _| find(&state.executables, executable.id()).map(drop))
    }

    /// Queues a graph's work.
    fn cuGraphLaunch(executable: Handle, stream: Handle) |driver| {
        driver.on(stream, |state, stream| launch(state, executable.id(), stream))
    }

    /// Puts the work of another graph in place of that of a ready one.
    fn cuGraphExecUpdate_v2(executable: Handle, graph: Handle, info: Out<UpdateInfo>) |driver| {
        let outcome = driver.with(graph, |state| update(state, executable.id(), graph.id()));
        let result = if outcome.is_ok() { 0 } else { TOPOLOGY_CHANGED };
        info.set(UpdateInfo { result, error_node: Handle::of(0), error_from_node: Handle::of(0) })?;
        outcome
    }

    /// The number of a graph's nodes; which they are is not told.
    fn cuGraphGetNodes(graph: Handle, nodes: HostMemory, count: Out<usize>) |driver| match nodes.address() {
        0 => count.set(driver.with(graph, |state| Ok(find(&state.graphs, graph.id())?.len()))?),
        _ => Err(Status::CUDA_ERROR_NOT_SUPPORTED),
    }

    /// Destroys a graph.
    fn cuGraphDestroy(graph: Handle) |driver| {
        driver.with(graph, |state| take(&mut state.graphs, graph.id()).map(drop))
    }

    /// Destroys a ready one.
    fn cuGraphExecDestroy(executable: Handle) |driver| {
        driver.with(executable, |state| take(&mut state.executables, executable.id()).map(drop))
    }
}
