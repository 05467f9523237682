// What an element of an activation and of the KV cache is: how it is read as f32, and how f32 is rounded to it.
//
// e4m3 (Micikevicius et al. 2022, arXiv:2209.05433) has a sign, four bits of exponent and three of fraction, no infinity,
// and 0x7f for NaN. Here it is made by integer arithmetic, since the instruction for it needs sm_89: to nearest, ties to
// even, at most 448 as `llama_core::numerics::round_to_e4m3` says. Read, its seven bits are those of a bf16 whose exponent
// is 120 too low: one exact multiplication by 2^120 away. (A stored NaN is thereby read as 480.)
#pragma once
#include "common.cuh"

__device__ __forceinline__ u8 to_e4m3(float value) {
    const u32 sign = __float_as_uint(value) >> 24 & 0x80;
    // 480 would be 0x7f.
    const float size = value == value ? fminf(fabsf(value), 448.0f) : 480.0f;
    // Below 2^-6 steps are of 2^-9: what one unit is at 2^14, so an addition rounds.
    if (size < 0.015625f) return (u8)(sign | (__float_as_uint(size + 16384.0f) - __float_as_uint(16384.0f)));
    // Above, twenty bits of fraction go; a carry into the exponent is what it should be.
    const u32 magnitude = __float_as_uint(size);
    return (u8)(sign | ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3));
}

__device__ __forceinline__ float from_e4m3(u8 code) {
    const u32 bits = (code & 0x80u) << 24 | (code & 0x7fu) << 20;
    return __uint_as_float(bits) * __uint_as_float((127 + 120) << 23);
}

// Four codes to four bf16, in order.
__device__ __forceinline__ uint2 bf16_of_e4m3(u32 codes) {
    const u32 pairs[2] = {__byte_perm(codes, 0, 0x1404), __byte_perm(codes, 0, 0x3424)};
    u32 exact[2];
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const u32 small = (pairs[i] & 0x80008000u) | (pairs[i] & 0x7f007f00u) >> 4;
        // Times 2^120 plus -0, which leaves the sign of a zero alone.
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(exact[i]) : "r"(small), "r"(0x7b807b80), "r"(0x80008000));
    }
    return make_uint2(exact[0], exact[1]);
}

// Elements of a matrix of activations or of the cache, by type.
struct E4m3 {
    u8 code;
};

// Read from L2, past L1: inside a persistent kernel another SM may just have written it.
__device__ __forceinline__ float load_f32(const float* at) { return __ldcg(at); }
__device__ __forceinline__ float load_f32(const bf16* at) {
    return __uint_as_float((u32)__ldcg(reinterpret_cast<const u16*>(at)) << 16);
}

__device__ __forceinline__ void store_rounded(float* at, float value) { *at = value; }
__device__ __forceinline__ void store_rounded(bf16* at, float value) { *at = __float2bfloat16_rn(value); }
__device__ __forceinline__ void store_rounded(E4m3* at, float value) { at->code = to_e4m3(value); }

// What of a value the cache keeps, where that is less than a bf16.
template <class Kv>
__device__ __forceinline__ float kept(float value) { return value; }
template <>
__device__ __forceinline__ float kept<E4m3>(float value) { return from_e4m3(to_e4m3(value)); }
