// Attention in plain f32, for the precise numerics and for caches of f32: the fold of attention.cuh with every score, weight
// and sum in f32, for decode and prefill alike, after RoPE has turned q and stored k and v.
//
// attention_f32_{bf16,f32}_{bf16,e4m3,f32} (by activation and cache)
//   thread  the scores of two positions of a unit of 64; every 32nd column of its p v
//   warp    one head of one token, at most 256 features. Units in order; a unit's p meets its v through shared memory
//   block   8 heads of one token; grid = (tokens, ceil(heads / 8))
//   bytes   k and v once a head: there is no sharing within a group but by L1. The floor is what the other kernels are for
//   order   a score is one chain over the features; l the warp's butterfly over the sums of two; acc one chain over the
//           positions the token sees. A function of the row alone
#include "dependent.cuh"
#include "rope.cuh"

constexpr u32 UNIT = 64, WARPS = 8, MOST_FEATURES = 256, COLUMNS = MOST_FEATURES / WARP;

// Reads of the cache go through L1: within a launch nobody writes it.
__device__ __forceinline__ float cached_f32(const float* at) { return *at; }
__device__ __forceinline__ float cached_f32(const bf16* at) { return __bfloat162float(*at); }
__device__ __forceinline__ float cached_f32(const E4m3* at) { return from_e4m3(at->code); }

// 2^x for x <= 0, to the last bits of f32: 2^n times Taylor's series on [-1/2, 1/2]. Below 2^-126 it is 0.
__device__ __forceinline__ float exact_power_of_2(float x) {
    if (x < -126.0f) return 0.0f;
    const float n = rintf(x), f = x - n;
    const float terms[] = {1.5252734e-5f, 1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f,
                           5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f};
    float sum = terms[0];
#pragma unroll
    for (u32 i = 1; i < 8; i++) sum = fmaf(sum, f, terms[i]);
    return sum * __uint_as_float((u32)((int)n + 127) << 23);
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (u32 step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// A head's share of shared memory: its q, and p of a unit.
struct Scratch {
    float q[MOST_FEATURES], p[UNIT];
};

// A head of a token, and what it sees.
template <class Kv>
struct Head {
    const Kv *k, *v; // of the kv head, in block 0
    const u32* table;
    u32 block_elements, padded, head_dim;
    u32 first, last; // positions, both included
    __device__ __forceinline__ u64 row(u32 position) const {
        return (u64)table[position / BLOCK_TOKENS] * block_elements + position % BLOCK_TOKENS * padded;
    }
};

template <class Kv>
__device__ __forceinline__ float score(const Head<Kv>& head, const float* q, u32 position, float scale) {
    if (position < head.first || position > head.last) return __int_as_float(0xff800000);
    const Kv* k = head.k + head.row(position);
    float dot = 0.0f;
#pragma unroll 1
    for (u32 i = 0; i < head.head_dim; i += 2) { // an even number
        dot = fmaf(q[i], cached_f32(k + i), dot);
        dot = fmaf(q[i + 1], cached_f32(k + i + 1), dot);
    }
    return dot * scale;
}

// Folds a unit into m, l and this lane's columns.
template <class Kv>
__device__ __forceinline__ void fold_unit(const Head<Kv>& head, Scratch& scratch, u32 unit, float scale, float& m, float& l,
                                          float (&acc)[COLUMNS]) {
    const u32 lane = threadIdx.x % WARP, first = unit * UNIT;
    const float low = score(head, scratch.q, first + lane, scale);
    const float high = score(head, scratch.q, first + WARP + lane, scale);
    const float m_unit = warp_max(fmaxf(low, high)), next = fmaxf(m, m_unit);
    const float p_low = exact_power_of_2(low - m_unit), p_high = exact_power_of_2(high - m_unit);
    const float of_total = exact_power_of_2(m - next), of_unit = exact_power_of_2(m_unit - next);
    __syncwarp();
    scratch.p[lane] = p_low;
    scratch.p[WARP + lane] = p_high;
    __syncwarp();
    l = fmaf(warp_sum(p_low + p_high), of_unit, l * of_total);
    m = next;
    float sums[COLUMNS] = {};
    u32 position = max(first, head.first);
#pragma unroll 1
    do {
        const Kv* v = head.v + head.row(position);
        const float p = scratch.p[position % UNIT];
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) {
            if (WARP * i < head.padded) sums[i] = fmaf(p, cached_f32(v + WARP * i + lane), sums[i]);
        }
    } while (++position <= min(head.last, first + UNIT - 1));
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) acc[i] = fmaf(sums[i], of_unit, acc[i] * of_total);
}

template <class Kv>
__device__ __forceinline__ Head<Kv> head_of(const Attention& p, u32 token, u32 index) {
    const u32 kv_head = index / (p.shape.heads / p.shape.kv_heads), position = p.positions[token];
    const u32 at = kv_head * BLOCK_TOKENS * p.shape.padded;
    const u32 first = p.window != 0 && position >= p.window ? position - p.window + 1 : 0;
    return {static_cast<const Kv*>(p.k) + at, static_cast<const Kv*>(p.v) + at,
            p.block_ids + p.kv_indptr[p.sequence_of[token]], p.shape.kv_heads * BLOCK_TOKENS * p.shape.padded,
            p.shape.padded, p.shape.head_dim, first, position};
}

// A task: eight heads of one token. Warps never wait for each other.
template <class Act, class Kv>
__device__ __forceinline__ void attention_f32(const Attention& p, u32 token, u32 eight, Scratch* scratch) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, index = eight * WARPS + warp;
    if (index >= p.shape.heads) return;
    const Head<Kv> head = head_of<Kv>(p, token, index);
    const u64 width = (p.shape.heads + 2 * p.shape.kv_heads) * p.shape.head_dim;
    const Act* q = static_cast<const Act*>(p.qkv) + token * width + index * head.head_dim;
#pragma unroll 1
    for (u32 i = lane; i < head.head_dim; i += WARP) scratch[warp].q[i] = load_f32(q + i);
    __syncwarp();
    float m = __int_as_float(0xff800000), l = 0.0f, acc[COLUMNS] = {};
    u32 unit = head.first / UNIT; // there is one at least
    do {
        fold_unit(head, scratch[warp], unit, p.scale, m, l, acc);
    } while (++unit <= head.last / UNIT);
    const float inverse = 1.0f / l;
    Act* out = static_cast<Act*>(p.out) + ((u64)token * p.shape.heads + index) * head.head_dim;
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) {
        if (WARP * i + lane < head.head_dim) store_rounded(out + WARP * i + lane, acc[i] * inverse);
    }
}

// One entry point a type of activation and of cache.
#define ATTENTION_F32(act, kv, Act, Kv) \
    extern "C" __global__ void __launch_bounds__(256, 4) attention_f32_##act##_##kv(const __grid_constant__ Attention p) { \
        __shared__ Scratch scratch[WARPS]; \
        begin_dependents(); \
        wait_for_earlier(); \
        attention_f32<Act, Kv>(p, blockIdx.x, blockIdx.y, scratch); \
    }
ATTENTION_F32(bf16, bf16, bf16, bf16)
ATTENTION_F32(bf16, e4m3, bf16, E4m3)
ATTENTION_F32(bf16, f32, bf16, float)
ATTENTION_F32(f32, bf16, float, bf16)
ATTENTION_F32(f32, e4m3, float, E4m3)
ATTENTION_F32(f32, f32, float, float)
