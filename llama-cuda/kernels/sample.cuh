// What the sampling kernels share: the order of tokens, their weights, and how the blocks of a row meet.
//
// The arithmetic is that of llama-core's sampler bit for bit. Exponentials are f64 multiplications and additions in its
// order. Weights become integers, so sums are exact and any number of threads may add in any order.
#pragma once
#include "params.cuh"

namespace sample {

constexpr u32 THREADS = 256;
constexpr u32 EACH = SAMPLE_CHUNK / THREADS; // tokens of a thread

// A token among the others: greater is more probable, and of equals the lower id. Adding zero makes -0 a 0.
__device__ __forceinline__ u64 key(float logit, u32 token) {
    const u32 bits = __float_as_uint(__fadd_rn(logit, 0.0f));
    const u32 order = bits ^ ((u32)((int)bits >> 31) | 0x80000000u);
    return (u64)order << 32 | (u32)~token;
}

__device__ __forceinline__ float logit_of(u64 key) {
    const u32 order = (u32)(key >> 32);
    return __uint_as_float(order ^ ((order >> 31) - 1 | 0x80000000u));
}

__device__ __forceinline__ u32 token_of(u64 key) { return ~(u32)key; }

// Above every key of a token that is forbidden.
constexpr u64 ALLOWED = (u64)0x00800000u << 32;

// e^x for x <= 0: round(x / ln 2), the Taylor series of the rest, a power of two.
__device__ __forceinline__ float exp_exact(float x) {
    constexpr double ROUND = 6755399441055744.0, LOG2_E = 1.44269504088896340736, LN_2 = 0.693147180559945309417;
    constexpr double SERIES[11] = {1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
                                   1.0 / 24.0,      1.0 / 6.0,      1.0 / 2.0,     1.0,          1.0};
    if (x < -87.0f) return 0.0f;
    const double shifted = __dadd_rn(__dmul_rn((double)x, LOG2_E), ROUND);
    const double r = __dsub_rn((double)x, __dmul_rn(__dsub_rn(shifted, ROUND), LN_2));
    double p = SERIES[0];
#pragma unroll
    for (u32 i = 1; i < 11; i++) p = __dadd_rn(__dmul_rn(p, r), SERIES[i]);
    const u64 power = ((u64)__double_as_longlong(shifted) << 52) + (u64)__double_as_longlong(1.0);
    return __double2float_rn(__dmul_rn(p, __longlong_as_double((long long)power)));
}

// One draw's row of logits.
struct Row {
    const float* logits;
    u32 vocab;
    float greatest, temperature, min_p;
    float one; // what a weight of 1 is as an integer: whole vocabularies of them stay below 2^63
    u64 floor; // keys below are cut

    __device__ __forceinline__ Row(const Sample& p, u32 i, u64 floor)
        : logits(p.logits + (u64)p.draws[i].row * p.vocab), vocab(p.vocab), greatest(p.states[i].greatest),
          temperature(p.draws[i].temperature), min_p(p.draws[i].min_p),
          one(__uint_as_float((127 + 31 + __clz(p.vocab)) << 23)), floor(floor) {}

    // Probability relative to the most probable token's.
    __device__ __forceinline__ float weight(float logit) const {
        return exp_exact(__fdiv_rn(__fsub_rn(logit, greatest), temperature));
    }
    __device__ __forceinline__ u64 units(float weight) const { return __float2ull_rz(__fmul_rn(weight, one)); }

    // Eighths of a nat below the most probable token, in steps that rise as probability falls.
    __device__ __forceinline__ u32 bin(float logit) const {
        const float below = __fdiv_rn(__fsub_rn(greatest, logit), temperature);
        return below < 31.875f ? (u32)(below * 8.0f) : SAMPLE_BINS - 1;
    }
};

// A thread's tokens of a chunk lie side by side with its neighbours'.
__device__ __forceinline__ u32 token_at(u32 chunk, u32 step) {
    return chunk * SAMPLE_CHUNK + step * THREADS + threadIdx.x;
}

// Their logits; beyond the vocabulary everything is forbidden.
__device__ __forceinline__ void load(float (&logits)[EACH], const float* row, u32 vocab, u32 chunk) {
#pragma unroll
    for (u32 j = 0; j < EACH; j++) {
        const u32 token = token_at(chunk, j);
        logits[j] = token < vocab ? row[token] : __int_as_float(0xff800000);
    }
}

__device__ __forceinline__ u32 chunks_of(u32 vocab) { return (vocab + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK; }

// Whether this is the last block of its row to come here. What the others passed on by atomics is visible to it then, and
// the count is zero again for the next launch.
__device__ __forceinline__ bool last_to_arrive(DrawState& state, u32 blocks) {
    __shared__ u32 last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(&state.arrived, blocks - 1) == blocks - 1;
    __syncthreads();
    __threadfence();
    return last;
}

// The sums of all values up to each thread's own, and of all. `warps` holds one sum a warp.
struct Scan {
    u64 up_to, all;
};
__device__ __forceinline__ Scan block_scan(u64 value, u64* warps) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u64 sum = value;
#pragma unroll
    for (u32 step = 1; step < WARP; step *= 2) {
        const u64 left = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane >= step) sum += left;
    }
    __syncthreads(); // the sums of an earlier scan have been read
    if (lane == WARP - 1) warps[warp] = sum;
    __syncthreads();
    Scan scan{sum, 0};
#pragma unroll
    for (u32 i = 0; i < THREADS / WARP; i++) {
        if (i < warp) scan.up_to += warps[i];
        scan.all += warps[i];
    }
    return scan;
}

// In which thread's value the sum reaches `need`, and how much of that value is needed. Only if it does reach it.
struct Found {
    u64 need;
    u32 at;
};
__device__ __forceinline__ Found find(const Scan& scan, u64 value, u64 need, Found* found) {
    const u64 before = scan.up_to - value;
    if (before < need && need <= scan.up_to) *found = Found{need - before, threadIdx.x};
    __syncthreads();
    return *found;
}

} // namespace sample
