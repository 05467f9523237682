// RMSNorm of every head of queries and of keys, in place: h = h / sqrt(mean(h^2) + eps) * gain, for models that norm them
// before they turn.
//
// thread  every 32nd feature of one head
// warp    one head of one token: a chain of fused multiply-adds a lane, then a butterfly
// block   8 heads of one token: 256 threads; grid = tokens x ceil((heads + kv_heads) / 8)
// bytes   a feature: 4 (bf16) or 8 (f32) and its gain, shared by all heads; floor = those / memory bandwidth, or one launch
//
// Any head_dim. The arithmetic is f32, and the result is rounded once.
#include "dependent.cuh"
#include "kv.cuh"

constexpr u32 HEADS_OF_A_BLOCK = 8;

// What the host passes: `HeadNorm` of src/params.rs.
struct HeadNorm {
    void* qkv;           // bf16 or f32 [tokens, (heads + 2 kv_heads) head_dim], by kernel
    const float* q_gain; // [head_dim]
    const float* k_gain;
    u32 heads, kv_heads, head_dim;
    float eps;
};

template <class Act>
__device__ __forceinline__ void norm_head(Act* head, const float* gain, u32 features, float eps) {
    const u32 lane = threadIdx.x % WARP;
    float squares = 0.0f;
    for (u32 at = lane; at < features; at += WARP) {
        const float x = load_f32(head + at);
        squares = fmaf(x, x, squares);
    }
    const float factor = 1.0f / sqrtf(warp_sum(squares) / (float)features + eps);
    // Each thread reads again only what no other writes.
    for (u32 at = lane; at < features; at += WARP) store_rounded(head + at, load_f32(head + at) * factor * gain[at]);
}

template <class Act>
__device__ __forceinline__ void head_norm(const HeadNorm& p) {
    begin_dependents();
    wait_for_earlier();
    const u32 head = blockIdx.y * HEADS_OF_A_BLOCK + threadIdx.x / WARP;
    if (head >= p.heads + p.kv_heads) return;
    const u64 row = (u64)blockIdx.x * (p.heads + 2 * p.kv_heads);
    Act* at = static_cast<Act*>(p.qkv) + (row + head) * p.head_dim;
    norm_head(at, head < p.heads ? p.q_gain : p.k_gain, p.head_dim, p.eps);
}

extern "C" __global__ void __launch_bounds__(HEADS_OF_A_BLOCK * WARP)
head_norm_bf16(const __grid_constant__ HeadNorm p) {
    head_norm<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(HEADS_OF_A_BLOCK * WARP)
head_norm_f32(const __grid_constant__ HeadNorm p) {
    head_norm<float>(p);
}
