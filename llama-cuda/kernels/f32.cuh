// F32 weights: exact for the precise kernels, rounded to bf16 on the way to the tensor core.
//
// Tile, 16 x 64: [4 steps][2][32 lanes][half a fragment: its first two pairs, then its last two]
#pragma once
#include "format.cuh"

struct F32 {
    static constexpr u32 INPUTS = 64, GROUP = 32, TILE_BYTES = 4096, DEPTH = 1;
    static constexpr bool SCALED = false, MIN = false, SPLIT = false;

    struct Tile {
        uint4 half[8];
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        Tile t;
#pragma unroll
        for (u32 i = 0; i < 8; i++) t.half[i] = M::load16(tile + i * 512 + lane * 16);
        return t;
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        float w[8];
        codes(t, step, w);
        return Fragment{pack_bf16(w[0], w[1]), pack_bf16(w[2], w[3]), pack_bf16(w[4], w[5]), pack_bf16(w[6], w[7])};
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) w[i] = __uint_as_float(word(t.half[2 * step + i / 4], i % 4));
    }
};
