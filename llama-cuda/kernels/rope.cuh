// RoPE of one pair of features, and where a token's key and value go in the cache: shared by the kernel that turns a whole
// batch (rope_kv.cu) and by decode attention, which turns what it needs itself, so both get the same bits.
//
// Of a head's features the first rope_dim = 2 half turn in pairs, (i, i + half) or (2i, 2i + 1); the rest stay. A row of the
// cache is padded with zeros to 64, 128 or 256 features: matrix instructions see whole tiles.
#pragma once
#include "kv.cuh"
#include "params.cuh"

constexpr u32 BLOCK_TOKENS = 16;

// Two features of one head, in the order they are told apart by.
struct Pair {
    u32 first, second;
    float a, b;
};

// Features of pair i of a head: of those that turn while i < half, then the others two by two, then zeros.
template <class Act>
__device__ __forceinline__ Pair pair_of(const Act* head, u32 i, const Heads& shape) {
    const bool apart = i < shape.half && !shape.interleaved;
    const u32 first = apart ? i : 2 * i, second = apart ? i + shape.half : 2 * i + 1;
    if (2 * i >= shape.head_dim) return {first, second, 0.0f, 0.0f};
    return {first, second, load_f32(head + first), load_f32(head + second)};
}

__device__ __forceinline__ Pair turned(const Pair& pair, float2 turn) {
    return {pair.first, pair.second, fmaf(pair.a, turn.x, -(pair.b * turn.y)), fmaf(pair.b, turn.x, pair.a * turn.y)};
}

// Pair i of a head of q or k after the turn; `angles` are those of its token.
template <class Act>
__device__ __forceinline__ Pair turned_pair(const Act* head, u32 i, const Heads& shape, const float2* angles) {
    const Pair pair = pair_of(head, i, shape);
    return i < shape.half ? turned(pair, angles[i]) : pair;
}

// What a token's q is multiplied by after the turn: the temperature of attention at its position, where a model has one.
// `p`: Rope or Attention.
template <class Params>
__device__ __forceinline__ float factor_of(const Params& p, u32 token) {
    return p.factors ? __uint_as_float(p.slots[p.factors + token]) : 1.0f;
}

__device__ __forceinline__ Pair times(const Pair& pair, float factor) {
    return {pair.first, pair.second, pair.a * factor, pair.b * factor};
}

template <class Element>
__device__ __forceinline__ void store_pair(Element* row, const Pair& pair) {
    store_rounded(row + pair.first, pair.a);
    store_rounded(row + pair.second, pair.b);
}

// The first feature, within k or v of a layer, of a slot's row of one kv head: [blocks][kv_heads][16][padded].
__device__ __forceinline__ u64 cache_row(u32 slot, u32 kv_head, const Heads& shape) {
    const u64 block = slot / BLOCK_TOKENS;
    return ((block * shape.kv_heads + kv_head) * BLOCK_TOKENS + slot % BLOCK_TOKENS) * shape.padded;
}
