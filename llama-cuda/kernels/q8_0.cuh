// Q8_0 weights: 32 signed bytes with one f16 scale, weight = scale * code.
//
// Tile, 16 x 64: [2 groups][32 lanes][2 steps][2 words of bytes] (byte_fragment in nibbles.cuh), then
// [8 g][2 groups][rows g, g+8] f16 scales
#pragma once
#include "nibbles.cuh"

struct Q8_0 {
    static constexpr u32 INPUTS = 64, GROUP = 32, TILE_BYTES = 1088, DEPTH = 2;
    static constexpr bool SCALED = true, MIN = false, SPLIT = false;

    struct Tile {
        uint4 quants[2];
        uint2 scales;
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        return Tile{{M::load16(tile + lane * 16), M::load16(tile + 512 + lane * 16)},
                    M::load8(tile + 1024 + lane / 4 * 8)};
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        const uint4 quants = t.quants[step / 2];
        return byte_fragment(word(quants, step % 2 * 2), word(quants, step % 2 * 2 + 1));
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }

    static __device__ __forceinline__ float2 scale(const Tile& t, u32 group) {
        return halves(group == 0 ? t.scales.x : t.scales.y);
    }
};
