// out[i] = x[index[i]]: the rows whose logits are wanted.
//
// thread  4 consecutive features
// block   1,024 features of one row: 256 threads; gridDim = rows * ceil(features / 1024), a row's blocks together
// bytes   a feature: 4 (bf16) or 8 (f32); floor = those / memory bandwidth
//
// Any number of features; indices are the host's to check.
#include "dependent.cuh"
#include "four.cuh"
#include "params.cuh"

constexpr u32 THREADS = 256;

template <typename T>
__device__ __forceinline__ void take_rows_task(const TakeRows& p, u32 task) {
    const u32 parts = (p.features + 4 * THREADS - 1) / (4 * THREADS), row = task / parts;
    const u32 at = (task % parts * THREADS + threadIdx.x) * 4;
    if (at >= p.features) return;
    const bool whole = p.features % 4 == 0;
    const T* x = static_cast<const T*>(p.x) + (u64)p.index[row] * p.features;
    T* out = static_cast<T*>(p.out) + (u64)row * p.features;
    store_four(out, at, p.features, whole, load_four(x, at, p.features, whole));
}

extern "C" __global__ void __launch_bounds__(THREADS) take_rows_bf16(const __grid_constant__ TakeRows p) {
    begin_dependents();
    wait_for_earlier();
    take_rows_task<bf16>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) take_rows_f32(const __grid_constant__ TakeRows p) {
    begin_dependents();
    wait_for_earlier();
    take_rows_task<float>(p, blockIdx.x);
}
