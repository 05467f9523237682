// Embedding: residual[token] = table[id[token]], widened from bf16 to the residual's f32.
//
// thread  8 consecutive features: 16 bytes read, 32 written
// block   256 threads along one row; gridDim = (ceil(hidden / 2048), tokens)
// bytes   6 a feature; floor = 6 bytes / memory bandwidth
//
// hidden must be a multiple of 8; ids are checked against the vocabulary on the host.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
embed_bf16(float4* __restrict__ residual, const uint4* __restrict__ table, const u32* __restrict__ ids, u32 hidden) {
    const u32 groups = hidden / 8, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= groups) return;
    const uint4 v = table[(u64)ids[blockIdx.y] * groups + i];
    float4* out = residual + ((u64)blockIdx.y * groups + i) * 2;
    out[0] = make_float4(low_f32(v.x), high_f32(v.x), low_f32(v.y), high_f32(v.y));
    out[1] = make_float4(low_f32(v.z), high_f32(v.z), low_f32(v.w), high_f32(v.w));
}
