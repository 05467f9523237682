// Flat elementwise kernels: acc += x into the f32 residual, and bf16 <-> f32 for tensors that come and go.
//
// thread  4 consecutive elements
// block   1,024 elements: 256 threads; gridDim = ceil(count / 1024)
// bytes   an element: add_bf16 10, add_f32 12, widen and narrow 6; floor = those / memory bandwidth
#include "dependent.cuh"
#include "four.cuh"
#include "params.cuh"

constexpr u32 THREADS = 256;

__device__ __forceinline__ u32 element(u32 task) { return (task * THREADS + threadIdx.x) * 4; }

// All elements are one row; only its last group can be short, and no full group goes element by element.
__device__ __forceinline__ bool full(u32 at, u32 count) { return count - at >= 4; }

template <typename T>
__device__ __forceinline__ void add_task(const Add& p, u32 task) {
    const u32 at = element(task);
    if (at >= p.count) return;
    const bool whole = full(at, p.count);
    const float4 a = load_four<3>(p.acc, at, p.count, whole);
    const float4 x = load_four<3>(static_cast<const T*>(p.x), at, p.count, whole);
    store_four<3>(p.acc, at, p.count, whole, make_float4(a.x + x.x, a.y + x.y, a.z + x.z, a.w + x.w));
}

template <typename To, typename From>
__device__ __forceinline__ void convert_task(const Convert& p, u32 task) {
    const u32 at = element(task);
    if (at >= p.count) return;
    const bool whole = full(at, p.count);
    const float4 v = load_four<3>(static_cast<const From*>(p.x), at, p.count, whole);
    store_four<3>(static_cast<To*>(p.out), at, p.count, whole, v);
}

extern "C" __global__ void __launch_bounds__(THREADS) add_bf16(const __grid_constant__ Add p) {
    begin_dependents();
    wait_for_earlier();
    add_task<bf16>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) add_f32(const __grid_constant__ Add p) {
    begin_dependents();
    wait_for_earlier();
    add_task<float>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) widen_bf16(const __grid_constant__ Convert p) {
    begin_dependents();
    wait_for_earlier();
    convert_task<float, bf16>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) narrow_f32(const __grid_constant__ Convert p) {
    begin_dependents();
    wait_for_earlier();
    convert_task<bf16, float>(p, blockIdx.x);
}
