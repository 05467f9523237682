// Four-bit quants in fragment order, and their way to bf16.
//
// [rows / 16][inputs / 64][32 lanes][16 bytes]: four words, one a step, two steps a block of 32 inputs. Nibble i of a
// word's low half and nibble i of its high half are pair i of the mma's A operand, so (word >> 4 i) & 0x000f000f isolates
// a pair, and or-ing 0x4300 makes each half the bf16 number 128 + quant; one packed multiply-add takes the rest off,
// exactly.
#pragma once
#include "gemv.cuh"

// Two quants, one in the low four bits of each half, as the bf16 pair of 128 + quant + offset.
__device__ __forceinline__ u32 nibble_pair(u32 nibbles, u32 offset) {
    u32 pair;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(pair) : "r"((nibbles & 0x000f000fu) | 0x43004300u), "r"(0x3f803f80u), "r"(offset));
    return pair;
}

__device__ __forceinline__ Fragment unpack_nibbles(u32 word, u32 offset) {
    return Fragment{nibble_pair(word, offset), nibble_pair(word >> 4, offset), nibble_pair(word >> 8, offset),
                    nibble_pair(word >> 12, offset)};
}
