// What adapters add to the product of a weight, for the rows that have one: low[t] = a x[t], then out[t] += b low[t].
// Two launches, since every number of out needs all of low. Rows of any adapters share both: a tile of rows says whose they
// are (Punica's SGMV, Chen et al. 2023, arXiv:2310.18547), in a buffer of the step, so that a launch depends on how many rows
// a step has and not on whose they are. Tiles of one row are for few rows, wide ones of eight read a and b once for them.
//
//         shrink                                             expand
// thread  every 128th group of 4 inputs of each row of a     one output of its tile's rows: a column of b
// block   128 threads: one row of a and one of x, or         128 threads: 128 outputs of one row, or of eight
//         4 of a and 8 of x
// grid    ceil(ranks / 1 or 4), tiles                        ceil(outputs / 128), tiles
// bytes   ranks * inputs * 4                                 rank * outputs * 4, and out twice
// floor   those / memory bandwidth, for each adapter of the step; with few rows the two launches
// order   shrink: that of norm.cuh with 128 threads. expand: one chain of fused multiply-adds over a part's ranks from 0,
//         its sum is added to what is there, and that is rounded. A row's bits are the same in both widths.
//
// Any sizes. a is [ranks, inputs], all parts' one below the other; b is [rank, rows] for each part, so that neighbouring
// threads read neighbours.
#include "adapter.cuh"
#include "dependent.cuh"
#include "four.cuh"

constexpr u32 THREADS = 128, WARPS = THREADS / WARP;

// What the tile's adapter adds here; null where it is none of this launch's.
__device__ __forceinline__ const AdapterHead* head_of(const Adapt& p, u32 adapter) {
    const u32 index = adapter - p.first;
    return index < ADAPTERS ? p.adapters[index] : nullptr;
}

__device__ __forceinline__ u32 at_most(u32 index, u32 count) { return index < count ? index : count - 1; }

__device__ __forceinline__ float dot(float4 a, float4 x, float acc) {
    return fmaf(a.w, x.w, fmaf(a.z, x.z, fmaf(a.y, x.y, fmaf(a.x, x.x, acc))));
}

// A lane passes on the half of its values that the partner `STEP` lanes away ends with, until one is left.
template <u32 STEP>
__device__ __forceinline__ void halve(float (&values)[WARP]) {
    const bool upper = threadIdx.x & STEP;
#pragma unroll
    for (u32 i = 0; i < STEP; i++) {
        const float given = upper ? values[i] : values[i + STEP];
        values[i] = (upper ? values[i + STEP] : values[i]) + __shfl_xor_sync(ALL_LANES, given, STEP);
    }
    if constexpr (STEP > 1) halve<STEP / 2>(values);
}

// The sums over a warp of 32 values of each lane: lane i gets the i-th, with the bits of warp_sum.
__device__ __forceinline__ float fold(float (&values)[WARP]) {
    halve<WARP / 2>(values);
    return values[0];
}

__device__ __forceinline__ float fold(float (&value)[1]) { return warp_sum(value[0]); }

// Adds up what the threads have of RANKS rows of a times ROWS of x. A rank or row too many is the last once more.
template <typename T, u32 RANKS, u32 ROWS>
__device__ __forceinline__ void multiply(const Adapt& p, const AdapterHead& head, u32 rank, const AdapterTile& tile,
                                         float (&sums)[RANKS * ROWS]) {
    const bool whole = p.inputs % 4 == 0;
    const T* x = static_cast<const T*>(p.x) + (u64)tile.first * p.inputs;
    const float* a[RANKS];
#pragma unroll
    for (u32 r = 0; r < RANKS; r++) a[r] = head.a + (u64)at_most(rank + r, head.ranks) * p.inputs;
    for (u32 at = 4 * threadIdx.x; at < p.inputs; at += 4 * THREADS) {
        float4 weights[RANKS];
#pragma unroll
        for (u32 r = 0; r < RANKS; r++) weights[r] = load_four(a[r], at, p.inputs, whole);
#pragma unroll
        for (u32 t = 0; t < ROWS; t++) {
            const float4 v = load_four(x + (u64)at_most(t, tile.rows) * p.inputs, at, p.inputs, whole);
#pragma unroll
            for (u32 r = 0; r < RANKS; r++) sums[t * RANKS + r] = dot(weights[r], v, sums[t * RANKS + r]);
        }
    }
}

template <typename T, u32 RANKS, u32 ROWS>
__device__ __forceinline__ void shrink(const Adapt& p) {
    constexpr u32 SUMS = RANKS * ROWS;
    __shared__ float scratch[WARPS][SUMS];
    begin_dependents();
    const AdapterTile tile = p.tiles[blockIdx.y];
    const AdapterHead* head = head_of(p, tile.adapter);
    const u32 rank = blockIdx.x * RANKS, lane = threadIdx.x % WARP;
    wait_for_earlier();
    if (!head || rank >= head->ranks) return;
    float sums[SUMS] = {};
    multiply<T, RANKS, ROWS>(p, *head, rank, tile, sums);
    const float sum = fold(sums);
    if (lane < SUMS) scratch[threadIdx.x / WARP][lane] = sum;
    __syncthreads();
    const u32 t = threadIdx.x / RANKS, r = rank + threadIdx.x % RANKS;
    if (threadIdx.x >= SUMS || t >= tile.rows || r >= head->ranks) return;
    float total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) total += scratch[i][threadIdx.x];
    p.low[(u64)(tile.first + t) * p.room + r] = total;
}

// The part that adds to an output, if one does.
__device__ __forceinline__ const AdapterPart* part_of(const AdapterHead* head, u32 output) {
    for (u32 i = 0; head && i < head->count; i++) {
        const AdapterPart* part = head->parts + i;
        if (output - part->first < part->rows) return part;
    }
    return nullptr;
}

template <typename T, u32 ROWS>
__device__ __forceinline__ void expand(const Adapt& p) {
    begin_dependents();
    const AdapterTile tile = p.tiles[blockIdx.y];
    const u32 output = blockIdx.x * THREADS + threadIdx.x;
    const AdapterPart* part = part_of(head_of(p, tile.adapter), output);
    wait_for_earlier();
    if (!part) return;
    const u32 ranks = part->ranks, rows = part->rows;
    const float* b = part->b + (output - part->first);
    const float* low = p.low + (u64)tile.first * p.room + part->low;
    float sums[ROWS] = {};
#pragma unroll 4
    for (u32 k = 0; k < ranks; k++) {
        const float weight = b[(u64)k * rows];
#pragma unroll
        for (u32 t = 0; t < ROWS; t++) sums[t] = fmaf(weight, low[(u64)at_most(t, tile.rows) * p.room + k], sums[t]);
    }
    T* out = static_cast<T*>(p.out) + (u64)tile.first * p.outputs + output;
#pragma unroll
    for (u32 t = 0; t < ROWS; t++)
        if (t < tile.rows) narrow(out + (u64)t * p.outputs, widen(out[(u64)t * p.outputs]) + sums[t]);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_shrink_bf16(const __grid_constant__ Adapt p) {
    shrink<bf16, 1, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_shrink_f32(const __grid_constant__ Adapt p) {
    shrink<float, 1, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_shrink_wide_bf16(const __grid_constant__ Adapt p) {
    shrink<bf16, 4, 8>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_shrink_wide_f32(const __grid_constant__ Adapt p) {
    shrink<float, 4, 8>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_expand_bf16(const __grid_constant__ Adapt p) {
    expand<bf16, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_expand_f32(const __grid_constant__ Adapt p) {
    expand<float, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_expand_wide_bf16(const __grid_constant__ Adapt p) {
    expand<bf16, 8>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) adapt_expand_wide_f32(const __grid_constant__ Adapt p) {
    expand<float, 8>(p);
}
