// 1,024 features of one row of x, taken by a block of 256 threads: what take_rows.cu launches, and the persistent kernel
// calls.
#pragma once
#include "four.cuh"
#include "params.cuh"

constexpr u32 TAKE_THREADS = 256;

template <typename T>
__device__ __forceinline__ void take_rows_task(const TakeRows& p, u32 task) {
    const u32 parts = (p.features + 4 * TAKE_THREADS - 1) / (4 * TAKE_THREADS), row = task / parts;
    const u32 at = (task % parts * TAKE_THREADS + threadIdx.x) * 4;
    if (at >= p.features) return;
    const bool whole = p.features % 4 == 0;
    const T* x = static_cast<const T*>(p.x) + (u64)p.index[row] * p.features;
    T* out = static_cast<T*>(p.out) + (u64)row * p.features;
    store_four(out, at, p.features, whole, load_four(x, at, p.features, whole));
}
