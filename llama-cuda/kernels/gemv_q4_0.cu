// gemv over Q4_0 weights (32 four-bit quants with one f16 scale, value = scale * (quant - 8)): see gemv.cuh for the frame.
//
// Repacked quants: [rows / 16][inputs / 64][32 lanes][16 bytes]: four words, one a step, two steps a scale block.
// Nibble i of a word's low half and nibble i of its high half are pair i of the mma's A operand, so (word >> 4 i) &
// 0x000f000f isolates a pair, and or-ing 0x4300 makes each half the bf16 number 128 + quant; one packed
// multiply-add takes 136 off, exactly.
// Repacked scales: [rows / 16][inputs / 64][8 g][4] f16: (row g, row g + 8) of the first block, then of the second.
// Padding has scale zero.
#include "gemv.cuh"

// Two quants, one in the low four bits of each half, as the bf16 pair of quant - 8.
__device__ __forceinline__ u32 quant_pair(u32 nibbles) {
    u32 pair;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(pair) : "r"((nibbles & 0x000f000fu) | 0x43004300u), "r"(0x3f803f80u), "r"(0xc308c308u));
    return pair;
}

__device__ __forceinline__ Fragment dequantise(u32 word) {
    return Fragment{quant_pair(word), quant_pair(word >> 4), quant_pair(word >> 8), quant_pair(word >> 12)};
}

// sum += scale * (weights . x) over one block of 32 inputs; `scale` holds rows g and g + 8.
__device__ __forceinline__ void add_block(float (&sum)[4], u32 word0, u32 word1, u32 scale, uint4 b) {
    float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_bf16(dot, dequantise(word0), b.x, b.y);
    mma_bf16(dot, dequantise(word1), b.z, b.w);
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
