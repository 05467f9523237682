// RoPE in two kernels: the angles once a step, then per layer the rotation of q in place and the paged write of k and v.
//
// rope_angles
//   thread  one (token, frequency): cos and sin of position * inv_freq, times the scale
//   block   256 of them; grid = ceil(tokens * half / 256)
// rope_kv_{bf16,f32}_{bf16,e4m3,f32} (by activation and cache)
//   thread  every 256th pair of features of one token: of q turned in place, of k turned into the cache, of v copied there,
//           each rounded once; past head_dim zeros are written, since a block of the cache may hold anything before.
//           Where attention has a temperature all of q is multiplied, what does not turn too
//   block   one token; grid = tokens
//   bytes   8 a pair of q, 8 to 16 a pair of k and v; floor = those / memory bandwidth, or one launch
#include "dependent.cuh"
#include "rope.cuh"

// Reduction by pi/2 in two steps (Cody and Waite), then Taylor on [-pi/4, pi/4], all in f64: the CPU's method, but for a
// product in place of each division by a constant, so the two differ at most in f64's last bits.
__device__ __forceinline__ float2 cos_sin(float angle) {
    const double n = rint((double)angle * 0.6366197723675814);
    const double r = fma(-n, 6.077100506506192e-11, fma(-n, 1.5707963267341256, (double)angle));
    const double r2 = r * r;
    double s = 1.0, c = 1.0;
#pragma unroll
    for (int k = 8; k >= 1; k--) {
        s = fma(r2 * (-1.0 / (2.0 * k * (2.0 * k + 1.0))), s, 1.0);
        c = fma(r2 * (-1.0 / (2.0 * k * (2.0 * k - 1.0))), c, 1.0);
    }
    s *= r;
    const int quadrant = (int)(long long)n & 3;
    const double cosine = quadrant & 1 ? s : c, sine = quadrant & 1 ? c : s;
    return make_float2((float)((quadrant + 1) & 2 ? -cosine : cosine), (float)(quadrant & 2 ? -sine : sine));
}

extern "C" __global__ void __launch_bounds__(256) rope_angles(const __grid_constant__ Angles p) {
    begin_dependents();
    wait_for_earlier();
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.tokens * p.half) return;
    const float2 turn = cos_sin((float)p.positions[i / p.half] * p.inv_freq[i % p.half]);
    p.angles[i] = make_float2(turn.x * p.scale, turn.y * p.scale);
}

template <class Act>
__device__ __forceinline__ void turn_queries(const Rope& p, Act* row, const float2* angles, u32 token) {
    const u32 pairs = p.factors ? p.shape.head_dim / 2 : p.shape.half;
    const float factor = factor_of(p, token);
    for (u32 i = threadIdx.x; i < p.shape.heads * pairs; i += 256) {
        Act* head = row + i / pairs * p.shape.head_dim;
        store_pair(head, times(turned_pair(head, i % pairs, p.shape, angles), factor));
    }
}

template <class Act, class Kv>
__device__ __forceinline__ void store_keys_and_values(const Rope& p, const Act* row, const float2* angles, u32 slot) {
    const u32 pairs = p.shape.padded / 2;
    for (u32 i = threadIdx.x; i < p.shape.kv_heads * pairs; i += 256) {
        const u32 kv_head = i / pairs;
        const Act* k = row + (p.shape.heads + kv_head) * p.shape.head_dim;
        const Act* v = k + p.shape.kv_heads * p.shape.head_dim;
        const u64 at = cache_row(slot, kv_head, p.shape);
        store_pair(static_cast<Kv*>(p.k) + at, turned_pair(k, i % pairs, p.shape, angles));
        store_pair(static_cast<Kv*>(p.v) + at, pair_of(v, i % pairs, p.shape));
    }
}

template <class Act, class Kv>
__device__ __forceinline__ void rope_kv(const Rope& p, u32 token) {
    Act* row = static_cast<Act*>(p.qkv) + (u64)token * (p.shape.heads + 2 * p.shape.kv_heads) * p.shape.head_dim;
    const float2* angles = p.angles + (u64)token * p.shape.half;
    turn_queries(p, row, angles, token);
    store_keys_and_values<Act, Kv>(p, row, angles, p.slots[token]);
}

// One entry point a type of activation and of cache.
#define ROPE_KV(act, kv, Act, Kv) \
    extern "C" __global__ void __launch_bounds__(256) rope_kv_##act##_##kv(const __grid_constant__ Rope p) { \
        begin_dependents(); \
        wait_for_earlier(); \
        rope_kv<Act, Kv>(p, blockIdx.x); \
    }
ROPE_KV(bf16, bf16, bf16, bf16)
ROPE_KV(bf16, e4m3, bf16, E4m3)
ROPE_KV(bf16, f32, bf16, float)
ROPE_KV(f32, bf16, float, bf16)
ROPE_KV(f32, e4m3, float, E4m3)
ROPE_KV(f32, f32, float, float)
