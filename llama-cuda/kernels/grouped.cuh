// GROUPED weights: 16 signed bytes with an f32 scale and an f32 minimum, weight = scale * code + min. No checkpoint has
// it: it is the exact common form of the formats that have no kernels of their own (Q5_0, Q5_1, Q2_K, Q3_K, IQ4_NL,
// IQ4_XS), made on the host. A format without minima has -0 there, which changes no sum.
//
// Tile, 16 x 64: [2][32 lanes][2 steps][2 words of bytes] (byte_fragment in nibbles.cuh), then
// [4 groups][8 g][scale of row g, of row g+8, min of row g, of row g+8] f32
#pragma once
#include "nibbles.cuh"

struct GROUPED {
    static constexpr u32 INPUTS = 64, GROUP = 16, TILE_BYTES = 1536, DEPTH = 1;
    static constexpr bool SCALED = true, MIN = true, SPLIT = false;

    struct Tile {
        uint4 quants[2];
        uint4 scales[4];
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        Tile t;
#pragma unroll
        for (u32 i = 0; i < 2; i++) t.quants[i] = M::load16(tile + i * 512 + lane * 16);
#pragma unroll
        for (u32 i = 0; i < 4; i++) t.scales[i] = M::load16(tile + 1024 + i * 128 + lane / 4 * 16);
        return t;
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        const uint4 quants = t.quants[step / 2];
        return byte_fragment(word(quants, step % 2 * 2), word(quants, step % 2 * 2 + 1));
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }

    static __device__ __forceinline__ float2 scale(const Tile& t, u32 group) {
        return make_float2(__uint_as_float(t.scales[group].x), __uint_as_float(t.scales[group].y));
    }

    static __device__ __forceinline__ float2 min(const Tile& t, u32 group) {
        return make_float2(__uint_as_float(t.scales[group].z), __uint_as_float(t.scales[group].w));
    }
};
