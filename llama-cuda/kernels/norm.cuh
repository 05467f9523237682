// RMSNorm of one row by one block of 256 threads: out = residual * factor * gain, factor = 1 / sqrt(mean(residual^2) + eps).
//
// Order of the sum, which every kernel that norms must keep: thread t takes features 4 (t + 256 k) + 0, 1, 2, 3 for k = 0,
// 1, ... in one chain of fused multiply-adds; a butterfly folds each warp, then the warps are added in order, as block_sum
// does for any number of threads.
#pragma once
#include "four.cuh"
#include "params.cuh"

constexpr u32 NORM_THREADS = 256;

__device__ __forceinline__ float sum_of_squares(float4 v, float acc) {
    return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, acc))));
}

// The factor of a row whose squares this thread has summed. `scratch` holds 8 floats.
__device__ __forceinline__ float norm_factor(float squares, u32 features, float eps, float* scratch) {
    squares = warp_sum(squares);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = squares;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < NORM_THREADS / WARP; i++) total += scratch[i];
    return 1.0f / sqrtf(total / (float)features + eps);
}

__device__ __forceinline__ float4 normed(float4 v, float factor, float4 gain) {
    return make_float4(v.x * factor * gain.x, v.y * factor * gain.y, v.z * factor * gain.z, v.w * factor * gain.w);
}

__device__ __forceinline__ float4 plus(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// out[row] = norm(residual[row]), after residual[row] += x[row] where there is an x.
template <typename T>
__device__ __forceinline__ void norm_row(const Norm& p, u32 row, float* scratch) {
    const bool whole = p.features % 4 == 0;
    const u64 start = (u64)row * p.features;
    float* residual = p.residual + start;
    const T* x = static_cast<const T*>(p.x);
    float squares = 0.0f;
    for (u32 at = 4 * threadIdx.x; at < p.features; at += 4 * NORM_THREADS) {
        float4 v = load_four(residual, at, p.features, whole);
        if (x) {
            v = plus(v, load_four(x + start, at, p.features, whole));
            store_four(residual, at, p.features, whole, v);
        }
        squares = sum_of_squares(v, squares);
    }
    const float factor = norm_factor(squares, p.features, p.eps, scratch);
    // Each thread reads back only what it wrote itself: the barrier inside the sum is for the sum.
    T* out = static_cast<T*>(p.out) + start;
    for (u32 at = 4 * threadIdx.x; at < p.features; at += 4 * NORM_THREADS) {
        const float4 v = load_four(residual, at, p.features, whole), gain = load_four(p.gain, at, p.features, whole);
        store_four(out, at, p.features, whole, normed(v, factor, gain));
    }
}
