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
// That a multiprocessor is to hold. Left to itself ptxas saves registers for more of them, and adds up what it has fetched
// before it fetches the next.
constexpr u32 BLOCKS = 4;

// What the tile's adapter adds here; null where it is none of this launch's.
__device__ __forceinline__ const AdapterHead* head_of(const Adapt& p, u32 adapter) {
    const u32 index = adapter - p.first;
    return index < ADAPTERS ? p.adapters[index] : nullptr;
}

__device__ __forceinline__ u32 at_most(u32 index, u32 count) { return index == 0 || index < count ? index : count - 1; }

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

// An adapter's numbers, which no kernel writes.
__device__ __forceinline__ float constant(const float* at) {
    return __uint_as_float(__ldg(reinterpret_cast<const u32*>(at)));
}

__device__ __forceinline__ float4 constant_four(const float* at) {
    const uint4 v = __ldg(reinterpret_cast<const uint4*>(at));
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

__device__ __forceinline__ float4 where(bool there, float4 v) {
    return make_float4(there ? v.x : 0.0f, there ? v.y : 0.0f, there ? v.z : 0.0f, there ? v.w : 0.0f);
}

// Adds up what a thread has of RANKS rows of a times ROWS of x, which are of whole groups. A rank or row too many is the last
// once more. A lone row has DEPTH groups on their way at once: of those past its end, the first comes again and counts nothing.
template <u32 RANKS, u32 ROWS, typename T>
__device__ __forceinline__ void multiply(const float* a, u32 ranks, const T* x, u32 rows, u32 inputs, float* sums) {
    constexpr u32 DEPTH = RANKS * ROWS == 1 ? 8 : 1;
    for (u32 first = 4 * threadIdx.x; first < inputs; first += 4 * THREADS * DEPTH) {
        float4 weights[DEPTH][RANKS], values[DEPTH][ROWS];
#pragma unroll
        for (u32 d = 0; d < DEPTH; d++) {
            const u32 at = first + 4 * THREADS * d;
            const bool there = d == 0 || at < inputs;
#pragma unroll
            for (u32 r = 0; r < RANKS; r++)
                weights[d][r] = where(there, constant_four(a + (u64)at_most(r, ranks) * inputs + (there ? at : first)));
#pragma unroll
            for (u32 t = 0; t < ROWS; t++)
                values[d][t] = where(there, whole_four(x + (u64)at_most(t, rows) * inputs + (there ? at : first)));
        }
#pragma unroll
        for (u32 d = 0; d < DEPTH; d++)
#pragma unroll
            for (u32 i = 0; i < RANKS * ROWS; i++) sums[i] = dot(weights[d][i % RANKS], values[d][i / RANKS], sums[i]);
    }
}

// The same of rows that begin anywhere, number by number.
template <u32 RANKS, u32 ROWS, typename T>
__device__ __forceinline__ void multiply_odd(const float* a, u32 ranks, const T* x, u32 rows, u32 inputs, float* sums) {
#pragma unroll 1
    for (u32 at = 4 * threadIdx.x; at < inputs; at += at % 4 == 3 ? 4 * THREADS - 3 : 1) {
        float weights[RANKS];
#pragma unroll
        for (u32 r = 0; r < RANKS; r++) weights[r] = constant(a + (u64)at_most(r, ranks) * inputs + at);
#pragma unroll
        for (u32 t = 0; t < ROWS; t++) {
            const float v = widen(x[(u64)at_most(t, rows) * inputs + at]);
#pragma unroll
            for (u32 r = 0; r < RANKS; r++) sums[t * RANKS + r] = fmaf(weights[r], v, sums[t * RANKS + r]);
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
    const u32 first = blockIdx.x * RANKS, ranks = head ? head->ranks : 0;
    const float* a = head ? head->a + (u64)first * p.inputs : nullptr;
    wait_for_earlier();
    if (first >= ranks) return;
    const T* x = static_cast<const T*>(p.x) + (u64)tile.first * p.inputs;
    float sums[SUMS] = {};
    if (p.inputs % 4 == 0)
        multiply<RANKS, ROWS>(a, ranks - first, x, tile.rows, p.inputs, sums);
    else
        multiply_odd<RANKS, ROWS>(a, ranks - first, x, tile.rows, p.inputs, sums);
    const float sum = fold(sums);
    const u32 lane = threadIdx.x % WARP;
    if (lane < SUMS) scratch[threadIdx.x / WARP][lane] = sum;
    __syncthreads();
    const u32 t = threadIdx.x / RANKS, rank = first + threadIdx.x % RANKS;
    if (threadIdx.x >= SUMS || t >= tile.rows || rank >= ranks) return;
    float total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) total += scratch[i][threadIdx.x];
    p.low[(u64)(tile.first + t) * p.room + rank] = total;
}

// The part that adds to an output: of no ranks, where none does.
__device__ __forceinline__ AdapterPart part_of(const AdapterHead* head, u32 output) {
    for (u32 i = 0; head && i < head->count; i++)
        if (output - head->parts[i].first < head->parts[i].rows) return head->parts[i];
    return AdapterPart{};
}

template <typename T, u32 ROWS>
__device__ __forceinline__ void expand(const Adapt& p) {
    begin_dependents();
    const AdapterTile tile = p.tiles[blockIdx.y];
    const u32 output = blockIdx.x * THREADS + threadIdx.x;
    const AdapterPart part = part_of(head_of(p, tile.adapter), output);
    wait_for_earlier();
    if (part.ranks == 0) return;
    const float* b = part.b + (output - part.first);
    const float* low = p.low + (u64)tile.first * p.room + part.low;
    float sums[ROWS] = {};
#pragma unroll 4
    for (u32 k = 0; k < part.ranks; k++) {
        const float weight = constant(b + (u64)k * part.rows);
#pragma unroll
        for (u32 t = 0; t < ROWS; t++) sums[t] = fmaf(weight, low[(u64)at_most(t, tile.rows) * p.room + k], sums[t]);
    }
    T* out = static_cast<T*>(p.out) + (u64)tile.first * p.outputs + output;
#pragma unroll
    for (u32 t = 0; t < ROWS; t++)
        if (t < tile.rows) narrow(out + (u64)t * p.outputs, widen(out[(u64)t * p.outputs]) + sums[t]);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_shrink_bf16(const __grid_constant__ Adapt p) {
    shrink<bf16, 1, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_shrink_f32(const __grid_constant__ Adapt p) {
    shrink<float, 1, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_shrink_wide_bf16(const __grid_constant__ Adapt p) {
    shrink<bf16, 4, 8>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_shrink_wide_f32(const __grid_constant__ Adapt p) {
    shrink<float, 4, 8>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_expand_bf16(const __grid_constant__ Adapt p) {
    expand<bf16, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_expand_f32(const __grid_constant__ Adapt p) {
    expand<float, 1>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_expand_wide_bf16(const __grid_constant__ Adapt p) {
    expand<bf16, 8>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) adapt_expand_wide_f32(const __grid_constant__ Adapt p) {
    expand<float, 8>(p);
}
