// gemv over Q4_1 weights (32 four-bit quants with an f16 scale and an f16 minimum, value = scale * quant + min): see
// gemv.cuh for the frame.
//
// Repacked quants: nibbles.cuh.
// Repacked scales: [rows / 16][inputs / 64][8 g][4] pairs of f16 (scale, min): (row g, row g + 8) of the first block, then
// of the second. Padding is zero.
//
// The minimum multiplies the sum of a block's inputs, which the tensor core gives for nothing: a row of ones times x.
#include "nibbles.cuh"

constexpr u32 OFFSET = 0xc300c300u; // -128 twice: takes off the magic number
constexpr u32 ONES = 0x3f803f80u;

__device__ __forceinline__ float2 scale_and_min(u32 pair) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// sum += scale * (quants . x) + min * (ones . x) over one block of 32 inputs, for rows g and g + 8.
__device__ __forceinline__ void add_block(float (&sum)[4], u32 word0, u32 word1, u32 low_row, u32 high_row, uint4 b) {
    float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f}, inputs[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const Fragment ones{ONES, ONES, ONES, ONES};
    mma_bf16(dot, unpack_nibbles(word0, OFFSET), b.x, b.y);
    mma_bf16(dot, unpack_nibbles(word1, OFFSET), b.z, b.w);
    mma_bf16(inputs, ones, b.x, b.y);
    mma_bf16(inputs, ones, b.z, b.w);
    const float2 low = scale_and_min(low_row), high = scale_and_min(high_row);
    sum[0] = fmaf(low.y, inputs[0], fmaf(low.x, dot[0], sum[0]));
    sum[1] = fmaf(low.y, inputs[1], fmaf(low.x, dot[1], sum[1]));
    sum[2] = fmaf(high.y, inputs[2], fmaf(high.x, dot[2], sum[2]));
    sum[3] = fmaf(high.y, inputs[3], fmaf(high.x, dot[3], sum[3]));
}

// Three blocks an SM, two tiles a warp in flight: 24 KiB, what the bandwidth needs; aiming at more, ptxas spills.
extern "C" __global__ void __launch_bounds__(256, 3)
gemv_q4_1_bf16(void* __restrict__ out, const uint4* __restrict__ quants, const uint4* __restrict__ scales,
               const bf16* __restrict__ x, u32 rows, u32 inputs, u32 columns, u32 out_is_f32) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 tiles = (inputs + 2 * TILE_INPUTS - 1) / (2 * TILE_INPUTS);
    const uint4* row_tile = quants + (u64)blockIdx.x * tiles * WARP + lane;
    const uint4* row_scales = scales + (u64)blockIdx.x * tiles * 8 + lane / 4;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
    for (u32 tile = warp; tile < tiles; tile += GEMV_WARPS) {
        const uint4 w = __ldg(row_tile + (u64)tile * WARP);
        const uint4 scale = __ldg(row_scales + (u64)tile * 8);
        add_block(sum, w.x, w.y, scale.x, scale.y, column_inputs(x, 2 * tile, inputs, columns));
        add_block(sum, w.z, w.w, scale.z, scale.w, column_inputs(x, 2 * tile + 1, inputs, columns));
    }
    write_rows(out, out_is_f32, sum, rows, columns);
}
