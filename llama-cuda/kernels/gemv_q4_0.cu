// gemv over Q4_0 weights (32 four-bit quants with one f16 scale, value = scale * (quant - 8)): see gemv.cuh for the frame.
//
// Repacked quants: nibbles.cuh.
// Repacked scales: [rows / 16][inputs / 64][8 g][4] f16: (row g, row g + 8) of the first block, then of the second.
// Padding has scale zero.
#include "nibbles.cuh"

constexpr u32 OFFSET = 0xc308c308u; // -136 twice: takes off the magic number and the format's 8

// sum += scale * (weights . x) over one block of 32 inputs; `scale` holds rows g and g + 8.
__device__ __forceinline__ void add_block(float (&sum)[4], u32 word0, u32 word1, u32 scale, uint4 b) {
    float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_bf16(dot, unpack_nibbles(word0, OFFSET), b.x, b.y);
    mma_bf16(dot, unpack_nibbles(word1, OFFSET), b.z, b.w);
    const float2 s = __half22float2(*reinterpret_cast<const __half2*>(&scale));
    sum[0] = fmaf(s.x, dot[0], sum[0]);
    sum[1] = fmaf(s.x, dot[1], sum[1]);
    sum[2] = fmaf(s.y, dot[2], sum[2]);
    sum[3] = fmaf(s.y, dot[3], sum[3]);
}

extern "C" __global__ void __launch_bounds__(256)
gemv_q4_0_bf16(void* __restrict__ out, const uint4* __restrict__ quants, const uint2* __restrict__ scales,
               const bf16* __restrict__ x, u32 rows, u32 inputs, u32 columns, u32 out_is_f32) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 tiles = (inputs + 2 * TILE_INPUTS - 1) / (2 * TILE_INPUTS);
    const uint4* row_tile = quants + (u64)blockIdx.x * tiles * WARP + lane;
    const uint2* row_scales = scales + (u64)blockIdx.x * tiles * 8 + lane / 4;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (u32 tile = warp; tile < tiles; tile += GEMV_WARPS) {
        const uint4 w = __ldg(row_tile + (u64)tile * WARP);
        const uint2 scale = __ldg(row_scales + (u64)tile * 8);
        add_block(sum, w.x, w.y, scale.x, column_inputs(x, 2 * tile, inputs, columns));
        add_block(sum, w.z, w.w, scale.y, column_inputs(x, 2 * tile + 1, inputs, columns));
    }
    write_rows(out, out_is_f32, sum, rows, columns);
}
