// The scales of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima of two f16 super-scales, scale = d * s and
// min = -(dmin * m), both exact in f32.
//
// [2][8 g][16 bytes]; a word serves rows g and g + 8, in its low and its high half. First 16 bytes: d, dmin, the low
// nibbles of scales 0..3 and of scales 4..7. Second: those of the minima, then the two high bits of the eight scales and
// of the eight minima. So two of them become bf16 as codes do (nibbles.cuh).
#pragma once
#include "nibbles.cuh"

struct KScales {
    uint4 first, second;

    template <class M>
    static __device__ __forceinline__ KScales load(const u8* at, u32 lane) {
        return KScales{M::load16(at + lane / 4 * 16), M::load16(at + 128 + lane / 4 * 16)};
    }

    __device__ __forceinline__ float2 scale(u32 group) const {
        const u32 s = six_bits(group < 4 ? first.z : first.w, second.z, group);
        const float2 d = halves(first.x);
        return make_float2(d.x * low_f32(s), d.y * high_f32(s));
    }

    __device__ __forceinline__ float2 min(u32 group) const {
        const u32 m = six_bits(group < 4 ? second.x : second.y, second.w, group);
        const float2 d = halves(first.y);
        return make_float2(-d.x * low_f32(m), -d.y * high_f32(m));
    }

    // Two 6-bit numbers as a bf16 pair.
    static __device__ __forceinline__ u32 six_bits(u32 low, u32 high, u32 group) {
        const u32 four = masked(low >> (group % 4 * 4), 0x000f000fu, MAGIC);
        return add_bf16(masked(moved(high, 2 * group, 4), 0x00300030u, four), 0xc300c300u); // -128
    }
};
