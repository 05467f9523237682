// Weights as a checkpoint has them: rows of blocks, and how to find a number in one. The layouts are ggml's, as in
// llama-core/src/format. Blocks may begin at any address.
#pragma once
#include "params.cuh"

// Bytes 0 and 1 as a word, for example an f16.
__device__ __forceinline__ u32 half_at(const u8* at) { return at[0] | (u32)at[1] << 8; }
__device__ __forceinline__ u32 word_at(const u8* at) { return half_at(at) | half_at(at + 2) << 16; }
__device__ __forceinline__ u32 nibble_at(const u8* at, u32 high) { return at[0] >> (4 * high) & 15; }

// A block format: LEN weights in BYTES bytes; `code` is weight i of a block as the unsigned number stored there.
template <u32 LEN_, u32 BYTES_>
struct Block {
    static constexpr u32 LEN = LEN_, BYTES = BYTES_;
};

struct Q8_0Block : Block<32, 34> {
    static __device__ __forceinline__ u32 code(const u8* b, u32 i) { return b[2 + i]; }
};

struct Q4_0Block : Block<32, 18> {
    static __device__ __forceinline__ u32 code(const u8* b, u32 i) { return nibble_at(b + 2 + i % 16, i / 16); }
};

struct Q4_1Block : Block<32, 20> {
    static __device__ __forceinline__ u32 code(const u8* b, u32 i) { return nibble_at(b + 4 + i % 16, i / 16); }
};

struct Q4_KBlock : Block<256, 144> {
    static __device__ __forceinline__ u32 code(const u8* b, u32 i) {
        return nibble_at(b + 16 + i / 64 * 32 + i % 32, i / 32 % 2);
    }
};

struct Q5_KBlock : Block<256, 176> {
    static __device__ __forceinline__ u32 code(const u8* b, u32 i) {
        const u32 low = nibble_at(b + 48 + i / 64 * 32 + i % 32, i / 32 % 2);
        return low | (b[16 + i % 32] >> (i / 32) & 1) << 4;
    }
};

struct Q6_KBlock : Block<256, 210> {
    static __device__ __forceinline__ u32 code(const u8* b, u32 i) {
        const u32 low = nibble_at(b + i / 128 * 64 + i % 64, i / 64 % 2);
        return low | (b[128 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) << 4;
    }
};

struct GroupedBlock : Block<16, 24> {
    static __device__ __forceinline__ u32 code(const u8* b, u32 i) { return b[i]; }
};

// Scale i, or minimum i - 8, of the twelve bytes of Q4_K and Q5_K.
__device__ __forceinline__ u32 six_bits_at(const u8* packed, u32 i) {
    const u32 min = i / 8, j = i % 8;
    if (j < 4) return packed[j + 4 * min] & 63;
    return nibble_at(packed + j + 4, min) | packed[j - 4 + 4 * min] >> 6 << 4;
}
