// From rows of blocks to tiles: every word of a tile is gathered from where its bits lie in the checkpoint.
//
// thread  words threadIdx.x, + 256, ... of one tile: a word's bits come from up to eight rows' or inputs' bytes
// block   256 threads, one tile
// grid    (tiles along the inputs, row groups)
// bytes   a checkpoint read once (its lines are shared through L1) and written once: it happens when a model is loaded
//
// What lies past the last row or input is zero. The tiles are those of format.cuh's formats; blocks those of blocks.cuh.
#pragma once
#include "blocks.cuh"
#include "dependent.cuh"
#include "format.cuh"

// One tile's part of the rows: a row and an input within it find a block, or nothing in the padding.
struct Patch {
    const Repack& p;
    u32 row, input;

    template <class B>
    __device__ __forceinline__ const u8* block(u32 r, u32 i) const {
        if (row + r >= p.rows || input + i >= p.inputs) return nullptr;
        return p.raw + (u64)(row + r) * p.row_bytes + (input + i) / B::LEN * B::BYTES;
    }
    template <class B>
    __device__ __forceinline__ u32 code(u32 r, u32 i) const {
        const u8* b = block<B>(r, i);
        return b ? B::code(b, (input + i) % B::LEN) : 0;
    }
    // The half or the word at byte `at` of the block with an input.
    template <class B>
    __device__ __forceinline__ u32 half(u32 r, u32 i, u32 at) const {
        const u8* b = block<B>(r, i);
        return b ? half_at(b + at) : 0;
    }
    template <class B>
    __device__ __forceinline__ u32 word(u32 r, u32 i, u32 at) const {
        const u8* b = block<B>(r, i);
        return b ? word_at(b + at) : 0;
    }
};

// Row and first input of a pair of a lane's fragment.
struct Place {
    u32 row, input;
};

template <class F>
__device__ __forceinline__ Place place(u32 lane, u32 step, u32 pair) {
    return Place{lane / 4 + pair % 2 * 8, first_input<F>(step, lane % 4) + pair / 2 * 2};
}

// COUNT bits, from bit `from` on, of every code of 16 / (4 COUNT) steps from `step` on: pair by pair in each half.
template <class F, class B, u32 COUNT>
__device__ __forceinline__ u32 bits(const Patch& patch, u32 lane, u32 step, u32 from) {
    u32 word = 0;
#pragma unroll 1
    for (u32 i = 0; i < 16 / COUNT; i++) {
        const Place at = place<F>(lane, step + i / 4, i % 4);
        const u32 low = patch.code<B>(at.row, at.input), high = patch.code<B>(at.row, at.input + 1);
        word |= (low >> from & ((1 << COUNT) - 1)) << (COUNT * i);
        word |= (high >> from & ((1 << COUNT) - 1)) << (COUNT * i + 16);
    }
    return word;
}

// Word i of the planes of nibbles: [steps / 4][32 lanes][4 steps].
template <class F, class B>
__device__ __forceinline__ u32 nibbles(const Patch& patch, u32 i) {
    return bits<F, B, 4>(patch, i / 4 % 32, i / 128 * 4 + i % 4, 0);
}

// Word i of the planes of bytes: [steps / 2][32 lanes][2 steps][2 words], see byte_fragment in nibbles.cuh.
template <class F, class B>
__device__ __forceinline__ u32 bytes(const Patch& patch, u32 i) {
    const u32 lane = i / 4 % 32, step = i / 128 * 2 + i / 2 % 2, pair = i % 2 * 2;
    const Place a = place<F>(lane, step, pair), b = place<F>(lane, step, pair + 1);
    return patch.code<B>(a.row, a.input) | patch.code<B>(b.row, b.input) << 8 |
           patch.code<B>(a.row, a.input + 1) << 16 | patch.code<B>(b.row, b.input + 1) << 24;
}

// A field of rows g and g + 8 as the halves of a word.
template <class B>
__device__ __forceinline__ u32 halves_of(const Patch& patch, u32 g, u32 input, u32 at) {
    return patch.half<B>(g, input, at) | patch.half<B>(g + 8, input, at) << 16;
}

// COUNT numbers of six bits from `first` on, of each BITS from bit `from` on, of rows g and g + 8: see k_scales.cuh.
template <class B, u32 COUNT, u32 BITS>
__device__ __forceinline__ u32 six_bits_of(const Patch& patch, u32 g, u32 first, u32 from) {
    u32 word = 0;
#pragma unroll 1
    for (u32 i = 0; i < 2 * COUNT; i++) {
        const u8* b = patch.block<B>(g + i / COUNT * 8, 0);
        const u32 six = b ? six_bits_at(b + 4, first + i % COUNT) : 0;
        word |= (six >> from & ((1 << BITS) - 1)) << (i % COUNT * BITS + i / COUNT * 16);
    }
    return word;
}

// Word i of the scales of Q4_K and Q5_K: [2][8 g][4 words].
template <class B>
__device__ __forceinline__ u32 k_scales(const Patch& patch, u32 i) {
    const u32 g = i / 4 % 8, k = i / 32 * 4 + i % 4;
    if (k < 2) return halves_of<B>(patch, g, 0, 2 * k);
    if (k < 6) return six_bits_of<B, 4, 4>(patch, g, (k - 2) * 4, 0);
    return six_bits_of<B, 8, 2>(patch, g, (k - 6) * 8, 4);
}

// The body of a kernel: R::word is word i of a tile. It does not let the next kernel begin early: that one may fetch
// weights before it waits, and these are weights.
template <class R>
__device__ __forceinline__ void repack(const Repack& p) {
    wait_for_earlier();
    const Patch patch{p, blockIdx.y * TILE_ROWS, blockIdx.x * R::Format::INPUTS};
    constexpr u32 WORDS = R::Format::TILE_BYTES / 4;
    u32* tile = reinterpret_cast<u32*>(p.tiles) + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * WORDS;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < WORDS; i += blockDim.x) tile[i] = R::word(patch, i);
}
