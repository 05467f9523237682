// What every kernel shares: fixed-width names (NVRTC has no <stdint.h>), bf16 pairs, and reductions in a fixed order.
//
// A sum is a chain per lane, then a butterfly over the warp, then the warps in index order: a function of the row alone,
// so the same bits come out run to run and whatever else is in the batch.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// Two bf16 in one register: the element with the lower index in the low half.
__device__ __forceinline__ float low_f32(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_f32(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (u32 step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

// The sum over a block of whole warps; every thread gets it. `scratch` holds one float a warp.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    value = warp_sum(value);
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    float total = 0.0f;
    for (u32 i = 0; i < blockDim.x / WARP; i++) total += scratch[i];
    return total;
}
