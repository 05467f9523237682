// A matrix times 1 to 8 columns, weights streamed once: the shared frame of every gemv_*.cu.
//
// The tensor core does the arithmetic even for one column: mma m16n8k16 takes 16 rows of weights and up to 8 columns of
// activations, multiplies bf16 exactly and adds in f32, so a weight costs its dequantisation and nothing else, and the
// bits of a column do not depend on how many columns there are.
//
// thread  per tile of 16 rows x 32 inputs: the A fragments of two mma (rows g, g+8; see below) and 16 bytes of x
// warp    one tile at a time; tiles 8 apart
// block   16 rows, 8 warps that split the inputs; their partial sums meet in shared memory, added in warp order
// bytes   the weights once (that is the floor: weight bytes / memory bandwidth); x comes from L1
//
// Lane = 4 g + q. The order of inputs inside a tile is free as long as both operands agree, so lane q takes the eight
// consecutive inputs 8q .. 8q+7, the first four in the first mma and the last four in the second: mma columns
// 2q, 2q+1, 2q+8, 2q+9 are inputs 8q + 4 step + 0, 1, 2, 3. Weights are repacked on load to match; x needs no repacking.
#pragma once
#include "common.cuh"

constexpr u32 TILE_ROWS = 16, TILE_INPUTS = 32, GEMV_WARPS = 8, MAX_COLUMNS = 8;

// The A operand of one mma: (row g, inputs 0 1), (row g+8, inputs 0 1), (row g, inputs 2 3), (row g+8, inputs 2 3).
struct Fragment {
    u32 pair[4];
};

// d += a b
__device__ __forceinline__ void mma_bf16(float (&d)[4], const Fragment& a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "r"(b0), "r"(b1));
}

// Inputs 8q .. 8q+7 of tile `tile` of this lane's column; zeros past the last column or input.
__device__ __forceinline__ uint4 column_inputs(const bf16* x, u32 tile, u32 inputs, u32 columns) {
    const u32 lane = threadIdx.x % WARP, column = lane / 4, at = tile * TILE_INPUTS + lane % 4 * 8;
    if (column >= columns || at >= inputs) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(x + (u64)column * inputs + at);
}

// Adds the warps' partial sums in order and writes out[column][row]: f32 for logits, else bf16.
__device__ __forceinline__ void write_rows(void* out, u32 out_is_f32, const float (&sum)[4], u32 rows, u32 columns) {
    __shared__ float partial[GEMV_WARPS][TILE_ROWS * MAX_COLUMNS];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        partial[warp][column * TILE_ROWS + row] = sum[i];
    }
    __syncthreads();
    const u32 row = blockIdx.x * TILE_ROWS + threadIdx.x % TILE_ROWS, column = threadIdx.x / TILE_ROWS;
    if (column >= columns || row >= rows) return;
    float total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < GEMV_WARPS; i++) total += partial[i][threadIdx.x];
    const u64 at = (u64)column * rows + row;
    if (out_is_f32) {
        static_cast<float*>(out)[at] = total;
    } else {
        static_cast<bf16*>(out)[at] = __float2bfloat16_rn(total);
    }
}
