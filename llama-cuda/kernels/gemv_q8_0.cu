// gemv over Q8_0 weights (32 int8 with one f16 scale): see gemv.cuh for the frame.
//
// Repacked quants: [rows / 16][inputs / 32][32 lanes][16 int8]: the lane's bytes are step 0's four pairs, then step 1's.
// Repacked scales: [rows / 16][inputs / 32][8 g][2] f16: rows g and g + 8. Padding has scale zero.
//
// An int8 is exact in bf16, but 128 + u is not for all u: so the byte becomes f32 first (0x4b0000uu = 2^23 + u, minus
// 2^23 + 128 for the sign bias put on by the xor) and the upper halves of two such floats are the bf16 pair.
#include "gemv.cuh"

template <u32 BYTE>
__device__ __forceinline__ u32 quant_as_f32(u32 biased) {
    return __float_as_uint(__uint_as_float(__byte_perm(biased, 0x4b000000u, 0x7650 + BYTE)) - 8388736.0f);
}

// Bytes BYTE and BYTE + 1 of four quants (each with its sign bit flipped) as a bf16 pair.
template <u32 BYTE>
__device__ __forceinline__ u32 quant_pair(u32 biased) {
    return __byte_perm(quant_as_f32<BYTE>(biased), quant_as_f32<BYTE + 1>(biased), 0x7632);
}

__device__ __forceinline__ Fragment dequantise(u32 first, u32 second) {
    const u32 a = first ^ 0x80808080u, b = second ^ 0x80808080u;
    return Fragment{quant_pair<0>(a), quant_pair<2>(a), quant_pair<0>(b), quant_pair<2>(b)};
}

extern "C" __global__ void __launch_bounds__(256)
gemv_q8_0_bf16(void* __restrict__ out, const uint4* __restrict__ quants, const __half2* __restrict__ scales,
               const bf16* __restrict__ x, u32 rows, u32 inputs, u32 columns, u32 out_is_f32) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 tiles = (inputs + TILE_INPUTS - 1) / TILE_INPUTS;
    const uint4* row_tile = quants + (u64)blockIdx.x * tiles * WARP + lane;
    const __half2* row_scales = scales + (u64)blockIdx.x * tiles * 8 + lane / 4;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (u32 tile = warp; tile < tiles; tile += GEMV_WARPS) {
        const uint4 w = __ldg(row_tile + (u64)tile * WARP);
        const float2 scale = __half22float2(row_scales[(u64)tile * 8]);
        const uint4 b = column_inputs(x, tile, inputs, columns);
        float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        mma_bf16(dot, dequantise(w.x, w.y), b.x, b.y);
        mma_bf16(dot, dequantise(w.z, w.w), b.z, b.w);
        sum[0] = fmaf(scale.x, dot[0], sum[0]);
        sum[1] = fmaf(scale.x, dot[1], sum[1]);
        sum[2] = fmaf(scale.y, dot[2], sum[2]);
        sum[3] = fmaf(scale.y, dot[3], sum[3]);
    }
    write_rows(out, out_is_f32, sum, rows, columns);
}
