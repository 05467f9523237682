// RMSNorm, alone and with the residual addition before it: out = residual / sqrt(mean(residual^2) + eps) * gain.
//
// thread  every 256th group of 4 consecutive features of one row
// warp    folds its 32 partial sums of squares in a butterfly
// block   one row (token): 256 threads; the row stays in registers only as sums and is read again from L1 to be scaled
// bytes   a feature: residual 4 read + 4 written, x 2 read, gain 4 read (shared by all rows), out 2 written
// floor   12 bytes a feature / memory bandwidth; at one token the launch itself is the floor, hence the fusion
//
// features must be a multiple of 4; rows = gridDim.x. The residual stream and every accumulator are f32.
#include "common.cuh"

__device__ __forceinline__ float4 add_pairs(float4 r, uint2 x) {
    return make_float4(r.x + low_f32(x.x), r.y + high_f32(x.x), r.z + low_f32(x.y), r.w + high_f32(x.y));
}

__device__ __forceinline__ float sum_of_squares(float4 v, float acc) {
    return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, acc))));
}

__device__ __forceinline__ void scale_row(uint2* out, const float4* row, const float4* gain, u32 groups, float factor) {
    for (u32 i = threadIdx.x; i < groups; i += blockDim.x) {
        const float4 v = row[i], g = gain[i];
        out[i] = make_uint2(pack_bf16(v.x * factor * g.x, v.y * factor * g.y),
                            pack_bf16(v.z * factor * g.z, v.w * factor * g.w));
    }
}

__device__ __forceinline__ float norm_factor(float squares, u32 features, float eps, float* scratch) {
    return 1.0f / sqrtf(block_sum(squares, scratch) / (float)features + eps);
}

// out[row] = norm(residual[row])
extern "C" __global__ void __launch_bounds__(256)
rms_norm_bf16(uint2* __restrict__ out, const float4* __restrict__ residual, const float4* __restrict__ gain,
              u32 features, float eps) {
    __shared__ float scratch[8];
    const u32 groups = features / 4;
    const float4* row = residual + (u64)blockIdx.x * groups;
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < groups; i += blockDim.x) squares = sum_of_squares(row[i], squares);
    const float factor = norm_factor(squares, features, eps, scratch);
    scale_row(out + (u64)blockIdx.x * groups, row, gain, groups, factor);
}

// residual[row] += x[row]; out[row] = norm(residual[row])
extern "C" __global__ void __launch_bounds__(256)
add_rms_norm_bf16(uint2* __restrict__ out, float4* __restrict__ residual, const uint2* __restrict__ x,
                  const float4* __restrict__ gain, u32 features, float eps) {
    __shared__ float scratch[8];
    const u32 groups = features / 4;
    float4* row = residual + (u64)blockIdx.x * groups;
    const uint2* addend = x + (u64)blockIdx.x * groups;
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < groups; i += blockDim.x) {
        const float4 v = add_pairs(row[i], addend[i]);
        row[i] = v;
        squares = sum_of_squares(v, squares);
    }
    // Each thread reads back only what it wrote itself: the barrier inside the sum is for the sum.
    const float factor = norm_factor(squares, features, eps, scratch);
    scale_row(out + (u64)blockIdx.x * groups, row, gain, groups, factor);
}
