// BF16 weights: the numbers are the A operand.
//
// Tile, 16 x 64: [4 steps][32 lanes][the four pairs of a fragment]
#pragma once
#include "format.cuh"

struct BF16 {
    static constexpr u32 INPUTS = 64, GROUP = 32, TILE_BYTES = 2048, DEPTH = 2;
    static constexpr bool SCALED = false, MIN = false, SPLIT = false;

    struct Tile {
        uint4 step[4];
    };

    template <class M>
    static __device__ __forceinline__ Tile load(const u8* tile, u32 lane) {
        Tile t;
#pragma unroll
        for (u32 i = 0; i < 4; i++) t.step[i] = M::load16(tile + i * 512 + lane * 16);
        return t;
    }

    static __device__ __forceinline__ Fragment fragment(const Tile& t, u32 step) {
        return Fragment{t.step[step].x, t.step[step].y, t.step[step].z, t.step[step].w};
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
        widen_fragment(fragment(t, step), w);
    }
};
