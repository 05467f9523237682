// What a weight format is to a kernel: tiles of 16 rows x INPUTS inputs, and a lane's way from their bytes to numbers.
//
// A weight is its tiles, those of one group of 16 rows next to each other along the inputs, row groups one after the
// other; rows and inputs are padded with zeros. Inside a tile the quants come first, in the order in which mma m16n8k16
// wants its A operand, then the scales. Lane = 4 g + q has rows g and g + 8 of
//   groups of 32, or no groups: within 32 inputs 8q .. 8q+7, the first four in one mma, the last four in the next;
//   groups of 16:               within 16 inputs 4q .. 4q+3
// so that mma columns 2q, 2q+1, 2q+8, 2q+9 are four consecutive inputs, and a lane reads its activations 16 (8) bytes at
// once. The tensor core does not care about the order as long as both operands agree.
//
// A format is a struct of constants and functions (bf16.cuh, q4_0.cuh, ...):
//   INPUTS, TILE_BYTES   of a tile; TILE_BYTES is a multiple of 16
//   GROUP                inputs that share a scale: 32, or 16; 32 where there is none
//   SCALED, MIN          whether weight = scale * code, and whether + min
//   SPLIT                whether a weight is the sum of two bf16: `fragment` and `rest`
//   DEPTH                tiles that gemv keeps in flight
//   Tile                 what one lane holds of a tile
//   load<M>(tile, lane)  from memory M (Global or Shared)
//   fragment(tile, step) the A operand of inputs 16 step .. 16 step + 15 (as above), codes exact in bf16
//   codes(tile, step, w) the same eight numbers, exact in f32, in the order of the fragment
//   scale, min(t, group) of rows g and g + 8: the f32 that decoding the checkpoint's block gives, to the bit
// Arithmetic of an output, the same in every kernel: gemv.cuh.
#pragma once
#include "common.cuh"

constexpr u32 TILE_ROWS = 16;

// The A operand of one mma: (row g, inputs 0 1), (row g+8, inputs 0 1), (row g, inputs 2 3), (row g+8, inputs 2 3).
struct Fragment {
    u32 pair[4];
};

// d += a b
__device__ __forceinline__ void mma_bf16(float (&d)[4], const Fragment& a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "r"(b0), "r"(b1));
}

// d += weights of one step times activations.
template <class F>
__device__ __forceinline__ void mma_step(float (&d)[4], const typename F::Tile& tile, u32 step, u32 b0, u32 b1) {
    mma_bf16(d, F::fragment(tile, step), b0, b1);
    if constexpr (F::SPLIT) mma_bf16(d, F::rest(tile, step), b0, b1);
}

// A times one: what a minimum multiplies.
__device__ __forceinline__ Fragment ones() {
    return Fragment{0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
}

// The first of the four inputs (within a tile) that lanes of quarter q have in a step.
template <class F>
__device__ __forceinline__ u32 first_input(u32 step, u32 q) {
    return F::GROUP == 32 ? step / 2 * 32 + q * 8 + step % 2 * 4 : step * 16 + q * 4;
}

// Weights in global memory: read once, so not kept in L1 where that can be said.
struct Global {
    static __device__ __forceinline__ uint4 load16(const u8* at) {
#if __CUDA_ARCH__ >= 900
        uint4 v;
        asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
            : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(at)));
        return v;
#else
        return __ldg(reinterpret_cast<const uint4*>(at));
#endif
    }
    static __device__ __forceinline__ uint2 load8(const u8* at) { return __ldg(reinterpret_cast<const uint2*>(at)); }
    static __device__ __forceinline__ u32 load4(const u8* at) { return __ldg(reinterpret_cast<const u32*>(at)); }
};

// Tiles that were copied to shared memory.
struct Shared {
    static __device__ __forceinline__ uint4 load16(const u8* at) { return *reinterpret_cast<const uint4*>(at); }
    static __device__ __forceinline__ uint2 load8(const u8* at) { return *reinterpret_cast<const uint2*>(at); }
    static __device__ __forceinline__ u32 load4(const u8* at) { return *reinterpret_cast<const u32*>(at); }
};

// A lane's 16 bytes as words that a constant picks.
__device__ __forceinline__ u32 word(uint4 v, u32 i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Two f16 in a register, exactly.
__device__ __forceinline__ float2 halves(u32 pair) { return __half22float2(*reinterpret_cast<const __half2*>(&pair)); }

__device__ __forceinline__ void widen_fragment(const Fragment& fragment, float (&w)[8]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        w[2 * i] = low_f32(fragment.pair[i]);
        w[2 * i + 1] = high_f32(fragment.pair[i]);
    }
}
