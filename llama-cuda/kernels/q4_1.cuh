// Q4_1 weights: 32 four-bit codes with an f16 scale and an f16 minimum, weight = scale * code + min.
//
// Tile, 16 x 64: [32 lanes][4 steps] words of nibbles (nibbles.cuh), then [8 g][2 groups][rows g, g+8] of (scale, min),
// two f16
#pragma once
#include "nibbles.cuh"

struct Q4_1 {
    static constexpr u32 INPUTS = 64, GROUP = 32, TILE_BYTES = 640, DEPTH = 3;
    static constexpr bool SCALED = true, MIN = true, SPLIT = false;

    struct Tile {
        uint4 quants;
        uint4 scales;
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        return Tile{M::load16(tile + lane * 16), M::load16(tile + 512 + lane / 4 * 16)};
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        return nibble_fragment(word(t.quants, step), 0xc300c300u); // -128
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }

    static __device__ __forceinline__ float2 scale(const Tile& t, u32 group) {
        return make_float2(halves(word(t.scales, 2 * group)).x, halves(word(t.scales, 2 * group + 1)).x);
    }

    static __device__ __forceinline__ float2 min(const Tile& t, u32 group) {
        return make_float2(halves(word(t.scales, 2 * group)).y, halves(word(t.scales, 2 * group + 1)).y);
    }
};
