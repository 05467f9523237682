// A matrix times 1 to 8 columns, weights streamed once: what every gemv_*_bf16 does, whatever the format of its weights.
//
// The tensor core does the arithmetic even for one column: mma m16n8k16 takes 16 rows of weights and up to 8 columns of
// activations, multiplies bf16 exactly and adds in f32, so a weight costs its way to bf16 and nothing else, and the bits
// of a column do not depend on how many columns there are.
//
// thread  of each tile what the format gives a lane: the A operands of its mma, and as many inputs of one column
// warp    one of 8 contiguous segments of a row group's tiles, DEPTH of them in flight
// block   16 rows x 8 columns at a time; the segments' sums meet in shared memory
// grid    (row groups, ceil(columns / 8)); fewer blocks along x take several row groups each, and their inputs once
// bytes   the weights once (that is the floor: weight bytes / memory bandwidth); x comes from L1 or shared memory
//
// order   An output is a function of its row and its column alone. With n tiles in the row group, segment s is tiles
//         [s n / 8, (s + 1) n / 8). A segment is one chain: unscaled formats accumulate in the mma; scaled ones take, group
//         by group, dot = mma from zero, sum = fma(scale, dot, sum), and with a minimum sum = fma(min, ones . x, sum). The
//         8 segments are added in order to 0, then the bias. gemm.cuh does the same.
#pragma once
#include "dependent.cuh"
#include "format.cuh"
#include "inputs.cuh"

// The weights of one warp: its segment of one row group, the first DEPTH tiles on their way.
template <class F>
struct Stream {
    typename F::Tile ring[F::DEPTH];
    const u8* next; // the tile to fetch next
    u32 left;       // tiles to multiply
};

template <class F>
__device__ __forceinline__ u32 tiles_of(const Linear& p) { return (p.inputs + F::INPUTS - 1) / F::INPUTS; }

__device__ __forceinline__ u32 segment_start(u32 segment, u32 tiles) { return segment * tiles / SEGMENTS; }

__device__ __forceinline__ u32 row_groups_of(const Linear& p) { return (p.rows + TILE_ROWS - 1) / TILE_ROWS; }

template <class F>
__device__ __forceinline__ void fetch(Stream<F>& stream, u32 slot) {
    stream.ring[slot] = F::template load<Global>(stream.next, threadIdx.x % WARP);
    stream.next += F::TILE_BYTES;
}

// Starts to fetch; of a row group past the last, nothing.
template <class F>
__device__ __forceinline__ void open(Stream<F>& stream, const Linear& p, u32 row_group) {
    const u32 tiles = row_group < row_groups_of(p) ? tiles_of<F>(p) : 0, warp = threadIdx.x / WARP;
    const u32 first = segment_start(warp, tiles);
    stream.next = p.weights + ((u64)row_group * tiles + first) * F::TILE_BYTES;
    stream.left = segment_start(warp + 1, tiles) - first;
#pragma unroll
    for (u32 slot = 0; slot < F::DEPTH; slot++) {
        if (slot < stream.left) fetch(stream, slot);
    }
}

// A lane's inputs of one group: two words a step. `x` is the lane's first input of the group.
template <class F>
struct Group {
    static constexpr u32 STEPS = F::GROUP / 16;
    u32 x[2 * STEPS];

    __device__ __forceinline__ explicit Group(const bf16* at) {
        if constexpr (STEPS == 2) {
            const uint4 v = *reinterpret_cast<const uint4*>(at);
            x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
        } else {
            const uint2 v = *reinterpret_cast<const uint2*>(at);
            x[0] = v.x, x[1] = v.y;
        }
    }
};

// sum += factor * dot, where factor is of rows g and g + 8.
__device__ __forceinline__ void add_scaled(float (&sum)[4], float2 factor, const float (&dot)[4]) {
    sum[0] = fmaf(factor.x, dot[0], sum[0]);
    sum[1] = fmaf(factor.x, dot[1], sum[1]);
    sum[2] = fmaf(factor.y, dot[2], sum[2]);
    sum[3] = fmaf(factor.y, dot[3], sum[3]);
}

// sum += weights . x over one group of a tile.
template <class F>
__device__ __forceinline__ void add_group(float (&sum)[4], const typename F::Tile& tile, u32 group, const Group<F>& b) {
    constexpr u32 STEPS = Group<F>::STEPS;
    float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f}, total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (u32 i = 0; i < STEPS; i++) {
        mma_step<F>(F::SCALED ? dot : sum, tile, group * STEPS + i, b.x[2 * i], b.x[2 * i + 1]);
        if constexpr (F::MIN) mma_bf16(total, ones(), b.x[2 * i], b.x[2 * i + 1]);
    }
    if constexpr (F::SCALED) add_scaled(sum, F::scale(tile, group), dot);
    if constexpr (F::MIN) add_scaled(sum, F::min(tile, group), total);
}

// sum = the segment's weights . x, for rows g and g + 8 and columns 2q and 2q + 1. `x`: the lane's first input of the segment.
template <class F>
__device__ __forceinline__ void drain(float (&sum)[4], Stream<F>& stream, const bf16* x) {
#pragma unroll 1
    while (stream.left > 0) {
#pragma unroll
        for (u32 slot = 0; slot < F::DEPTH; slot++) {
            if (stream.left > 0) {
#pragma unroll
                for (u32 group = 0; group < F::INPUTS / F::GROUP; group++) {
                    add_group<F>(sum, stream.ring[slot], group, Group<F>(x + group * F::GROUP));
                }
                if (stream.left > F::DEPTH) fetch(stream, slot);
                stream.left--;
                x += F::INPUTS;
            }
        }
    }
}

// Hands a lane's sums to the block: see drain.
__device__ __forceinline__ void leave(Meeting& meeting, const float (&sum)[4]) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        meeting.partial[warp][column * COLUMN_STRIDE + row] = sum[i];
    }
}

__device__ __forceinline__ void store(const Linear& p, u32 row, u32 column, float value) {
    const u64 at = (u64)column * p.stride + row;
    if (p.sink == SINK_BF16) {
        static_cast<bf16*>(p.out)[at] = __float2bfloat16_rn(value);
    } else {
        float* out = static_cast<float*>(p.out) + at;
        *out = p.sink == SINK_ADD ? *out + value : value;
    }
}

// Adds the segments that the warps left, in order, and stores the outputs. Ends with the block in step.
__device__ __forceinline__ void meet(const Linear& p, u32 row_group, u32 column_group, const Meeting& meeting) {
    __syncthreads();
    const u32 row = row_group * TILE_ROWS + threadIdx.x % TILE_ROWS;
    const u32 column = column_group * COLUMNS + threadIdx.x / TILE_ROWS;
    if (threadIdx.x < TILE_ROWS * COLUMNS && column < p.columns && row < p.rows) {
        float total = 0.0f;
#pragma unroll
        for (u32 i = 0; i < SEGMENTS; i++) {
            total += meeting.partial[i][threadIdx.x / TILE_ROWS * COLUMN_STRIDE + threadIdx.x % TILE_ROWS];
        }
        store(p, row, column, p.bias ? total + p.bias[row] : total);
    }
    __syncthreads();
}

// Row groups row_group, row_group + step, ... of one group of 8 columns. 256 threads; `staged` as inputs.cuh says. May be
// called again at once: shared memory is free when it returns.
template <class F>
__device__ __forceinline__ void gemv_task(const Linear& p, u32 row_group, u32 step, u32 column_group, Meeting& meeting,
                                          bf16* staged) {
    Stream<F> stream;
    open(stream, p, row_group);
    wait_for_earlier();
    const u32 first = segment_start(threadIdx.x / WARP, tiles_of<F>(p)) * F::INPUTS;
    const bf16* x = take_column<F>(p, column_group, meeting, staged) + first + first_input<F>(0, threadIdx.x % 4);
#pragma unroll 1
    for (; row_group < row_groups_of(p); row_group += step) {
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        drain(sum, stream, x);
        open(stream, p, row_group + step);
        leave(meeting, sum);
        meet(p, row_group, column_group, meeting);
    }
}

// The body of a kernel.
template <class F>
__device__ __forceinline__ void gemv(const Linear& p) {
    __shared__ Meeting meeting;
    extern __shared__ uint4 staged[];
    begin_dependents();
    gemv_task<F>(p, blockIdx.x, gridDim.x, blockIdx.y, meeting, reinterpret_cast<bf16*>(staged));
}
