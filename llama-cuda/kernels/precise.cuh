// A matrix times columns in f32: the linear of the precise numerics. Weights are decoded exactly, everything after that is
// one fused multiply-add a weight.
//
// thread  rows g and g + 8 and a quarter of the inputs, of 4 columns at a time
// warp    one of 8 contiguous segments of a row group's tiles, as in gemv.cuh
// block   16 rows x 8 columns; the segments' sums meet in shared memory
// grid    (row groups, ceil(columns / 8)), for any number of columns
// bytes   the weights once for every 8 columns, and again from L2 where there are more than 4; x comes from L1
//
// order   A lane chains its inputs in ascending order from 0: sum = fma(weight, x, sum). Lanes q, q ^ 1, then q ^ 2 are
//         added, then the 8 segments in order to 0, then the bias. Nothing depends on the number of columns.
#pragma once
#include "decode.cuh"
#include "gemv.cuh"

constexpr u32 AT_ONCE = 4; // columns

// Sums of rows g and g + 8 for each column.
struct Sums {
    float of[AT_ONCE][2];
};

__device__ __forceinline__ float add_four(float4 w, float4 x, float sum) {
    return fmaf(w.w, x.w, fmaf(w.z, x.z, fmaf(w.y, x.y, fmaf(w.x, x.x, sum))));
}

// Adds a tile's products. `rows`: of the input, one a column; `first`: the tile's first input.
template <class F>
__device__ __forceinline__ void add_tile(Sums& sums, const Linear& p, const typename F::Tile& tile,
                                         const u32 (&rows)[AT_ONCE], u32 columns, u32 first) {
#pragma unroll
    for (u32 step = 0; step < F::INPUTS / 16; step++) {
        float w[8];
        decode<F>(tile, step, w);
        const u32 at = first + first_input<F>(step, threadIdx.x % 4);
#pragma unroll
        for (u32 c = 0; c < AT_ONCE; c++) {
            if (c < columns) {
                const float* column = static_cast<const float*>(p.input) + (u64)rows[c] * p.inputs;
                const float4 x = four_inputs<F>(column, at, p.inputs);
                sums.of[c][0] = add_four(row_of(w, 0), x, sums.of[c][0]);
                sums.of[c][1] = add_four(row_of(w, 1), x, sums.of[c][1]);
            }
        }
        __syncwarp(); // or the compiler fetches the inputs of a whole tile at once, into registers it does not have
    }
}

// Adds the quarters of a warp and hands the block what they sum to, for columns from `first` on.
__device__ __forceinline__ void leave(Meeting& meeting, const Sums& sums, u32 first) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (u32 i = 0; i < AT_ONCE * 2; i++) {
        float sum = sums.of[i / 2][i % 2];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        if (lane % 4 == 0) meeting.partial[warp][(first + i / 2) * COLUMN_STRIDE + i % 2 * 8 + lane / 4] = sum;
    }
}

// A warp's segment times columns first, first + 1, ... of a row group.
template <class F>
__device__ __forceinline__ void add_segment(Sums& sums, const Linear& p, u32 row_group, u32 first) {
    const u32 tiles = tiles_of<F>(p), warp = threadIdx.x / WARP, columns = p.columns - first;
    u32 rows[AT_ONCE];
#pragma unroll
    for (u32 c = 0; c < AT_ONCE; c++) rows[c] = c < columns ? input_row(p, first + c) : 0;
#pragma unroll 1
    for (u32 i = segment_start(warp, tiles); i < segment_start(warp + 1, tiles); i++) {
        const u8* tile = p.weights + ((u64)row_group * tiles + i) * F::TILE_BYTES;
        add_tile<F>(sums, p, F::template load<Global>(tile, threadIdx.x % WARP), rows, columns, i * F::INPUTS);
    }
}

// One row group of one group of 8 columns. 256 threads; may be called again at once.
template <class F>
__device__ __forceinline__ void precise_task(const Linear& p, u32 row_group, u32 column_group, Meeting& meeting) {
#pragma unroll 1
    for (u32 first = 0; first < columns_of(p, column_group); first += AT_ONCE) {
        Sums sums = {};
        add_segment<F>(sums, p, row_group, column_group * COLUMNS + first);
        leave(meeting, sums, first);
    }
    meet(p, row_group, column_group, meeting);
}

// The body of a kernel.
template <class F>
__device__ __forceinline__ void precise(const Linear& p) {
    __shared__ Meeting meeting;
    begin_dependents();
    wait_for_earlier();
    precise_task<F>(p, blockIdx.x, blockIdx.y, meeting);
}
