// Weights as exact f32: what llama-core's Format::decode gives, to the bit.
#pragma once
#include "format.cuh"

// The eight weights of a lane in a step, in the order of a fragment: scale * code, rounded, then + min, rounded.
template <class F>
__device__ __forceinline__ void decode(const typename F::Tile& tile, u32 step, float (&w)[8]) {
    F::codes(tile, step, w);
    if constexpr (F::SCALED) {
        const float2 scale = F::scale(tile, step * 16 / F::GROUP);
#pragma unroll
        for (u32 i = 0; i < 8; i++) w[i] = __fmul_rn(i / 2 % 2 == 0 ? scale.x : scale.y, w[i]);
    }
    if constexpr (F::MIN) {
        const float2 min = F::min(tile, step * 16 / F::GROUP);
#pragma unroll
        for (u32 i = 0; i < 8; i++) w[i] = __fadd_rn(w[i], i / 2 % 2 == 0 ? min.x : min.y);
    }
}

// The four consecutive weights of row g (half 0) or g + 8 (half 1).
__device__ __forceinline__ float4 row_of(const float (&w)[8], u32 half) {
    return half == 0 ? make_float4(w[0], w[1], w[4], w[5]) : make_float4(w[2], w[3], w[6], w[7]);
}
