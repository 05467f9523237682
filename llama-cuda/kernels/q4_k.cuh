// Q4_K weights: 256 four-bit codes; every 32 share a scale and a minimum (k_scales.cuh), weight = scale * code + min.
//
// Tile, 16 x 256: [4][32 lanes][4 steps] words of nibbles (nibbles.cuh), then the scales
#pragma once
#include "k_scales.cuh"

struct Q4_K {
    static constexpr u32 INPUTS = 256, GROUP = 32, TILE_BYTES = 2304, DEPTH = 1;
    static constexpr bool SCALED = true, MIN = true, SPLIT = false;

    struct Tile {
        uint4 quants[4];
        KScales scales;
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        Tile t;
#pragma unroll
        for (u32 i = 0; i < 4; i++) t.quants[i] = M::load16(tile + i * 512 + lane * 16);
        t.scales = KScales::load<M>(tile + 2048, lane);
        return t;
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        return nibble_fragment(word(t.quants[step / 4], step % 4), 0xc300c300u); // -128
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }

    static __device__ __forceinline__ float2 scale(const Tile& t, u32 group) { return t.scales.scale(group); }
    static __device__ __forceinline__ float2 min(const Tile& t, u32 group) { return t.scales.min(group); }
};
