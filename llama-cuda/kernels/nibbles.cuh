// Codes of four to eight bits on their way to bf16, exactly.
//
// 128 + n, n < 128, is the bf16 number 0x4300 | n: masking a code into each half of a word and or-ing 0x4300 is one lop3
// for two of them, and one packed multiply-add takes off the 128 together with the format's own zero point.
//
// A word of nibbles: nibble i of its low half and nibble i of its high half are pair i of a step's fragment, so
// (word >> 4 i) & 0x000f000f isolates a pair. Further bits lie in words of their own, arranged the same way: bit (or two
// bits) j of the low and of the high half belong to pair j % 4 of step j / 4.
#pragma once
#include "format.cuh"

constexpr u32 MAGIC = 0x43004300u; // bf16 128 twice

// a + b, halves apart. A multiplication by one, because an addition of bf16 is sm_90's.
__device__ __forceinline__ u32 add_bf16(u32 a, u32 b) {
    u32 sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return sum;
}

// (v & mask) | bits in one instruction, which the compiler makes two of where both are constants.
__device__ __forceinline__ u32 masked(u32 v, u32 mask, u32 bits) {
    u32 result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(v), "r"(mask), "r"(bits));
    return result;
}

// The bits of `v` moved so that bit `from` comes to bit `to`.
__device__ __forceinline__ u32 moved(u32 v, u32 from, u32 to) { return from > to ? v >> (from - to) : v << (to - from); }

// Four pairs of nibbles, as code + 128 + offset.
__device__ __forceinline__ Fragment nibble_fragment(u32 low, u32 offset) {
    Fragment f;
#pragma unroll
    for (u32 i = 0; i < 4; i++) f.pair[i] = add_bf16(masked(low >> (4 * i), 0x000f000fu, MAGIC), offset);
    return f;
}

// The same with BITS further bits a code, the first pair's `at` in the halves of `high`.
template <u32 BITS>
__device__ __forceinline__ Fragment nibble_fragment(u32 low, u32 high, u32 at, u32 offset) {
    constexpr u32 MASK = ((1u << BITS) - 1) * 0x00100010u;
    Fragment f;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 four = masked(low >> (4 * i), 0x000f000fu, MAGIC);
        f.pair[i] = add_bf16(masked(moved(high, at + BITS * i, 4), MASK, four), offset);
    }
    return f;
}

// Signed bytes 0 and 2 of `v` as a pair: the seven low bits, less 128 where the sign bit is set. 0xc300 is -128 and
// 0xc380 is -256: the sign bit lies where it makes the one out of the other.
__device__ __forceinline__ u32 byte_pair(u32 v) {
    return add_bf16(masked(v, 0x007f007fu, MAGIC), masked(v, 0x00800080u, 0xc300c300u));
}

// Eight signed bytes: the halves' low bytes of `first` are pair 0, its high bytes pair 1, `second` pairs 2 and 3.
__device__ __forceinline__ Fragment byte_fragment(u32 first, u32 second) {
    return Fragment{byte_pair(first), byte_pair(first >> 8), byte_pair(second), byte_pair(second >> 8)};
}
