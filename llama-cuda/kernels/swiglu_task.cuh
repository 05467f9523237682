// SwiGLU of 1,024 features of one row by a block of 256 threads: what swiglu.cu launches, and the persistent kernel calls.
#pragma once
#include "params.cuh"
#include "swiglu.cuh"

constexpr u32 SWIGLU_THREADS = 256;

template <typename T>
__device__ __forceinline__ void swiglu_task(const SwiGlu& p, u32 task) {
    const u32 parts = (p.ffn + 4 * SWIGLU_THREADS - 1) / (4 * SWIGLU_THREADS), row = task / parts;
    const u32 at = (task % parts * SWIGLU_THREADS + threadIdx.x) * 4;
    if (at >= p.ffn) return;
    const bool whole = p.ffn % 4 == 0;
    const T* gate = static_cast<const T*>(p.gate_up) + (u64)row * 2 * p.ffn;
    T* out = static_cast<T*>(p.out) + (u64)row * p.ffn;
    const float4 g = load_four(gate, at, p.ffn, whole), u = load_four(gate + p.ffn, at, p.ffn, whole);
    store_four(out, at, p.ffn, whole, gated_four(g, u, gate));
}
