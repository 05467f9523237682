// F16 weights.
//
// Activations are bf16, whose range f16 does not have, so the weight moves instead: its 11 significant bits are exactly a
// bf16 (the leading 8) plus a bf16 (the rest), and two mma multiply both by x exactly.
//
// Tile, 16 x 64: as BF16's.
#pragma once
#include "format.cuh"

struct F16 {
    static constexpr u32 INPUTS = 64, GROUP = 32, TILE_BYTES = 2048, DEPTH = 2;
    static constexpr bool SCALED = false, MIN = false, SPLIT = true;

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
        Fragment leading;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float2 w = halves(word(t.step[step], i));
            leading.pair[i] = pack_bf16(w.x, w.y);
        }
        return leading;
    }

    // What the leading bf16 leaves.
    static __device__ __forceinline__ Fragment rest(const Tile& t, u32 step) {
        const Fragment leading = fragment(t, step);
        Fragment rest;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float2 w = halves(word(t.step[step], i));
            rest.pair[i] = pack_bf16(w.x - low_f32(leading.pair[i]), w.y - high_f32(leading.pair[i]));
        }
        return rest;
    }

    static __device__ __forceinline__ void codes(const Tile& t, u32 step, float (&w)[8]) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float2 pair = halves(word(t.step[step], i));
            w[2 * i] = pair.x;
            w[2 * i + 1] = pair.y;
        }
    }
};
