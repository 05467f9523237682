// gemv over bf16 weights: see gemv.cuh for the frame.
//
// Repacked weights: [rows / 16][inputs / 32][2 steps][32 lanes][8 bf16], rows and inputs padded with zeros.
// A lane's 16 bytes are the four pairs of one mma's A operand, in order; a warp reads 512 consecutive bytes a load.
#include "gemv.cuh"

extern "C" __global__ void __launch_bounds__(256)
gemv_bf16_bf16(void* __restrict__ out, const uint4* __restrict__ weights, const bf16* __restrict__ x, u32 rows,
               u32 inputs, u32 columns, u32 out_is_f32) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 tiles = (inputs + TILE_INPUTS - 1) / TILE_INPUTS;
    const uint4* row_tile = weights + (u64)blockIdx.x * tiles * 2 * WARP + lane;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (u32 tile = warp; tile < tiles; tile += GEMV_WARPS) {
        const uint4 w0 = __ldg(row_tile + (u64)tile * 2 * WARP), w1 = __ldg(row_tile + (u64)tile * 2 * WARP + WARP);
        const uint4 b = column_inputs(x, tile, inputs, columns);
        mma_bf16(sum, Fragment{w0.x, w0.y, w0.z, w0.w}, b.x, b.y);
        mma_bf16(sum, Fragment{w1.x, w1.y, w1.z, w1.w}, b.z, b.w);
    }
    write_rows(out, out_is_f32, sum, rows, columns);
}
