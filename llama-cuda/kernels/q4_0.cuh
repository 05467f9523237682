// Q4_0 weights: 32 four-bit codes with one f16 scale, weight = scale * (code - 8).
//
// Tile, 16 x 64: [32 lanes][4 steps] words of nibbles (nibbles.cuh), then [8 g][2 groups][rows g, g+8] f16 scales
#pragma once
#include "nibbles.cuh"

struct Q4_0 {
    static constexpr u32 INPUTS = 64, GROUP = 32, TILE_BYTES = 576, DEPTH = 4;
    static constexpr bool SCALED = true, MIN = false, SPLIT = false;

    struct Tile {
        uint4 quants;
        uint2 scales;
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        return Tile{M::load16(tile + lane * 16), M::load8(tile + 512 + lane / 4 * 8)};
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        return nibble_fragment(word(t.quants, step), 0xc308c308u); // -136: the magic 128 and the format's 8
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }

    static __device__ __forceinline__ float2 scale(const Tile& t, u32 group) {
        return halves(group == 0 ? t.scales.x : t.scales.y);
    }
};
