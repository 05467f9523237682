// gemv over f16 weights: see gemv.cuh for the frame.
//
// Repacked weights: as gemv_bf16.cu's.
//
// Activations are bf16, whose range f16 does not have, so the weight moves instead: its 11 significant bits are exactly a
// bf16 (the leading 8) plus a bf16 (the rest), and two mma multiply both by x exactly.
#include "gemv.cuh"

// d += weights * x for one step, the weights four pairs of f16.
__device__ __forceinline__ void mma_split(float (&d)[4], uint4 weights, u32 b0, u32 b1) {
    const u32 pairs[4] = {weights.x, weights.y, weights.z, weights.w};
    Fragment leading, rest;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const float2 w = __half22float2(*reinterpret_cast<const __half2*>(&pairs[i]));
        leading.pair[i] = pack_bf16(w.x, w.y);
        rest.pair[i] = pack_bf16(w.x - low_f32(leading.pair[i]), w.y - high_f32(leading.pair[i]));
    }
    mma_bf16(d, leading, b0, b1);
    mma_bf16(d, rest, b0, b1);
}

extern "C" __global__ void __launch_bounds__(256)
gemv_f16_bf16(void* __restrict__ out, const uint4* __restrict__ weights, const bf16* __restrict__ x, u32 rows,
               u32 inputs, u32 columns, u32 out_is_f32) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 tiles = (inputs + TILE_INPUTS - 1) / TILE_INPUTS;
    const uint4* row_tile = weights + (u64)blockIdx.x * tiles * 2 * WARP + lane;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (u32 tile = warp; tile < tiles; tile += GEMV_WARPS) {
        const uint4 w0 = __ldg(row_tile + (u64)tile * 2 * WARP), w1 = __ldg(row_tile + (u64)tile * 2 * WARP + WARP);
        const uint4 b = column_inputs(x, tile, inputs, columns);
        mma_split(sum, w0, b.x, b.y);
        mma_split(sum, w1, b.z, b.w);
    }
    write_rows(out, out_is_f32, sum, rows, columns);
}
