// Rows in groups of four consecutive elements, widened to f32: what the elementwise kernels have in common.
//
// A group at the end of a row may be short; what is missing reads as zero and is not written. `whole` says that rows are
// multiples of four elements, so that every group is full and aligned and goes in one access of 16 (f32) or 8 (bf16) bytes;
// otherwise rows begin anywhere and elements go one by one. Both ways give the same bits.
#pragma once
#include "common.cuh"

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ void narrow(float* at, float value) { *at = value; }
__device__ __forceinline__ void narrow(bf16* at, float value) { *at = __float2bfloat16_rn(value); }

__device__ __forceinline__ float4 whole_four(const float* at) { return *reinterpret_cast<const float4*>(at); }
__device__ __forceinline__ float4 whole_four(const bf16* at) {
    const uint2 v = *reinterpret_cast<const uint2*>(at);
    return make_float4(low_f32(v.x), high_f32(v.x), low_f32(v.y), high_f32(v.y));
}
__device__ __forceinline__ void put_whole_four(float* at, float4 v) { *reinterpret_cast<float4*>(at) = v; }
__device__ __forceinline__ void put_whole_four(bf16* at, float4 v) {
    *reinterpret_cast<uint2*>(at) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}

// Elements at, at + 1, ... of a row of `count`. MOST: how many there can be where the row is not whole.
template <u32 MOST = 4, typename T>
__device__ __forceinline__ float4 load_four(const T* row, u32 at, u32 count, bool whole) {
    if (whole) return whole_four(row + at);
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (u32 i = 0; i < MOST; i++) v[i] = at + i < count ? widen(row[at + i]) : 0.0f;
    return make_float4(v[0], v[1], v[2], v[3]);
}

template <u32 MOST = 4, typename T>
__device__ __forceinline__ void store_four(T* row, u32 at, u32 count, bool whole, float4 v) {
    if (whole) return put_whole_four(row + at, v);
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (u32 i = 0; i < MOST; i++)
        if (at + i < count) narrow(row + at + i, values[i]);
}
