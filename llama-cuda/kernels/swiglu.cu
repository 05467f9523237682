// SwiGLU: out = silu(gate) * up, where a row of gate_up is [gate | up].
//
// thread  4 consecutive features
// block   1,024 features of one row: 256 threads; gridDim = rows * ceil(ffn / 1024), a row's blocks together
// bytes   a feature: 6 (bf16) or 12 (f32); floor = those / memory bandwidth
//
// Any ffn. The arithmetic is f32 in both; see swiglu.cuh for what it costs and how exact it is.
#include "dependent.cuh"
#include "swiglu.cuh"

constexpr u32 THREADS = 256;

template <typename T>
__device__ __forceinline__ void swiglu_task(const SwiGlu& p, u32 task) {
    const u32 parts = (p.ffn + 4 * THREADS - 1) / (4 * THREADS), row = task / parts;
    const u32 at = (task % parts * THREADS + threadIdx.x) * 4;
    if (at >= p.ffn) return;
    const bool whole = p.ffn % 4 == 0;
    const T* gate = static_cast<const T*>(p.gate_up) + (u64)row * 2 * p.ffn;
    T* out = static_cast<T*>(p.out) + (u64)row * p.ffn;
    const float4 g = load_four(gate, at, p.ffn, whole), u = load_four(gate + p.ffn, at, p.ffn, whole);
    store_four(out, at, p.ffn, whole, gated_four(g, u, gate));
}

extern "C" __global__ void __launch_bounds__(THREADS) swiglu_bf16(const __grid_constant__ SwiGlu p) {
    begin_dependents();
    wait_for_earlier();
    swiglu_task<bf16>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) swiglu_f32(const __grid_constant__ SwiGlu p) {
    begin_dependents();
    wait_for_earlier();
    swiglu_task<float>(p, blockIdx.x);
}
