// Repacking of each format: where word i of its tile comes from. See repack.cuh; the tiles are described by each format.
#include "bf16.cuh"
#include "f16.cuh"
#include "f32.cuh"
#include "grouped.cuh"
#include "q4_0.cuh"
#include "q4_1.cuh"
#include "q4_k.cuh"
#include "q5_k.cuh"
#include "q6_k.cuh"
#include "q8_0.cuh"
#include "repack.cuh"

// Plain numbers are blocks of one.
template <class F>
struct Repack16 {
    typedef F Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        const Place at = place<F>(i / 4 % 32, i / 128, i % 4);
        return patch.half<Block<1, 2>>(at.row, at.input, 0) | patch.half<Block<1, 2>>(at.row, at.input + 1, 0) << 16;
    }
};

struct RepackF32 {
    typedef F32 Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        const Place at = place<F32>(i / 4 % 32, i / 256, i / 128 % 2 * 2 + i / 2 % 2);
        return patch.word<Block<1, 4>>(at.row, at.input + i % 2, 0);
    }
};

struct RepackQ8_0 {
    typedef Q8_0 Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        if (i < 256) return bytes<Q8_0, Q8_0Block>(patch, i);
        return halves_of<Q8_0Block>(patch, i / 2 % 8, i % 2 * 32, 0);
    }
};

struct RepackQ4_0 {
    typedef Q4_0 Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        if (i < 128) return nibbles<Q4_0, Q4_0Block>(patch, i);
        return halves_of<Q4_0Block>(patch, i / 2 % 8, i % 2 * 32, 0);
    }
};

struct RepackQ4_1 {
    typedef Q4_1 Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        if (i < 128) return nibbles<Q4_1, Q4_1Block>(patch, i);
        return patch.word<Q4_1Block>(i / 4 % 8 + i % 2 * 8, i / 2 % 2 * 32, 0);
    }
};

struct RepackQ4_K {
    typedef Q4_K Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        return i < 512 ? nibbles<Q4_K, Q4_KBlock>(patch, i) : k_scales<Q4_KBlock>(patch, i - 512);
    }
};

struct RepackQ5_K {
    typedef Q5_K Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        if (i < 512) return nibbles<Q5_K, Q5_KBlock>(patch, i);
        if (i < 640) return bits<Q5_K, Q5_KBlock, 1>(patch, i / 4 % 32, i % 4 * 4, 4);
        return k_scales<Q5_KBlock>(patch, i - 640);
    }
};

struct RepackQ6_K {
    typedef Q6_K Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        if (i < 512) return nibbles<Q6_K, Q6_KBlock>(patch, i);
        if (i < 768) return bits<Q6_K, Q6_KBlock, 2>(patch, i / 4 % 32, i / 128 % 2 * 8 + i % 4 * 2, 4);
        if (i < 832) return halves_of<Q6_KBlock>(patch, i / 4 % 8, 0, 192 + i / 32 % 2 * 8 + i % 4 * 2);
        return halves_of<Q6_KBlock>(patch, i % 8, 0, 208);
    }
};

struct RepackGROUPED {
    typedef GROUPED Format;
    static __device__ __forceinline__ u32 word(const Patch& patch, u32 i) {
        if (i < 256) return bytes<GROUPED, GroupedBlock>(patch, i);
        return patch.word<GroupedBlock>(i / 4 % 8 + i % 2 * 8, i / 32 % 4 * 16, 16 + i / 2 % 2 * 4);
    }
};

extern "C" __global__ void __launch_bounds__(256) repack_bf16(const __grid_constant__ Repack p) { repack<Repack16<BF16>>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_f16(const __grid_constant__ Repack p) { repack<Repack16<F16>>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_f32(const __grid_constant__ Repack p) { repack<RepackF32>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_q8_0(const __grid_constant__ Repack p) { repack<RepackQ8_0>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_q4_0(const __grid_constant__ Repack p) { repack<RepackQ4_0>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_q4_1(const __grid_constant__ Repack p) { repack<RepackQ4_1>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_q4_k(const __grid_constant__ Repack p) { repack<RepackQ4_K>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_q5_k(const __grid_constant__ Repack p) { repack<RepackQ5_K>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_q6_k(const __grid_constant__ Repack p) { repack<RepackQ6_K>(p); }
extern "C" __global__ void __launch_bounds__(256) repack_grouped(const __grid_constant__ Repack p) { repack<RepackGROUPED>(p); }
