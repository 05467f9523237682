// Q5_K weights: Q4_K with a fifth bit for each code.
//
// Tile, 16 x 256: [4][32 lanes][4 steps] words of nibbles (nibbles.cuh), [32 lanes][4 words of the fifth bits, a word for
// four steps], then the scales (k_scales.cuh)
#pragma once
#include "k_scales.cuh"

struct Q5_K {
    static constexpr u32 INPUTS = 256, GROUP = 32, TILE_BYTES = 2816, DEPTH = 1;
    static constexpr bool SCALED = true, MIN = true, SPLIT = false;

    struct Tile {
        uint4 quants[4];
        uint4 high;
        KScales scales;
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        Tile t;
#pragma unroll
        for (u32 i = 0; i < 4; i++) t.quants[i] = M::load16(tile + i * 512 + lane * 16);
        t.high = M::load16(tile + 2048 + lane * 16);
        t.scales = KScales::load<M>(tile + 2560, lane);
        return t;
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        const u32 low = word(t.quants[step / 4], step % 4);
        return nibble_fragment<1>(low, word(t.high, step / 4), step % 4 * 4, 0xc300c300u); // -128
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }

    static __device__ __forceinline__ float2 scale(const Tile& t, u32 group) { return t.scales.scale(group); }
    static __device__ __forceinline__ float2 min(const Tile& t, u32 group) { return t.scales.min(group); }
};
