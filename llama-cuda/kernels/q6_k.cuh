// Q6_K weights: 256 six-bit codes; every 16 share a signed byte as scale of one f16 super-scale,
// weight = (d * s) * (code - 32), the product of scales exact in f32.
//
// Tile, 16 x 256: [4][32 lanes][4 steps] words of nibbles (nibbles.cuh); [2][32 lanes][4 words of the two high bits, a word
// for two steps]; [2][8 g][4 words of scales, a word for two groups: (row g, first), (g, second), (g+8, first), (g+8,
// second)]; [8 g][rows g, g+8] f16 super-scales
#pragma once
#include "nibbles.cuh"

struct Q6_K {
    static constexpr u32 INPUTS = 256, GROUP = 16, TILE_BYTES = 3360, DEPTH = 1;
    static constexpr bool SCALED = true, MIN = false, SPLIT = false;

    struct Tile {
        uint4 quants[4];
        uint4 high[2];
        uint4 scales[2];
        u32 d;
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        Tile t;
#pragma unroll
        for (u32 i = 0; i < 4; i++) t.quants[i] = M::load16(tile + i * 512 + lane * 16);
#pragma unroll
        for (u32 i = 0; i < 2; i++) t.high[i] = M::load16(tile + 2048 + i * 512 + lane * 16);
#pragma unroll
        for (u32 i = 0; i < 2; i++) t.scales[i] = M::load16(tile + 3072 + i * 128 + lane / 4 * 16);
        t.d = M::load4(tile + 3328 + lane / 4 * 4);
        return t;
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        const u32 low = word(t.quants[step / 4], step % 4), high = word(t.high[step / 8], step / 2 % 4);
        return nibble_fragment<2>(low, high, step % 2 * 8, 0xc320c320u); // -160: the magic 128 and the format's 32
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }

    static __device__ __forceinline__ float2 scale(const Tile& t, u32 group) {
        const u32 s = byte_pair(word(t.scales[group / 8], group / 2 % 4) >> (group % 2 * 8));
        const float2 d = halves(t.d);
        return make_float2(d.x * low_f32(s), d.y * high_f32(s));
    }
};
