// SwiGLU: out = silu(gate) * up, where a row of gate_up is [gate | up].
//
// thread  8 consecutive features: 16 bytes of gate, 16 of up, 16 written
// block   256 threads along one row; gridDim = (ceil(ffn / 2048), rows)
// bytes   6 a feature; floor = 6 bytes / memory bandwidth
//
// ffn must be a multiple of 8. The arithmetic is f32; silu(x) = x / (1 + 2^(-x log2 e)).
#include "common.cuh"

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + exp2f(x * -1.44269504f)); }

__device__ __forceinline__ u32 gated(u32 gate, u32 up) {
    return pack_bf16(silu(low_f32(gate)) * low_f32(up), silu(high_f32(gate)) * high_f32(up));
}

extern "C" __global__ void __launch_bounds__(256)
swiglu_bf16(uint4* __restrict__ out, const uint4* __restrict__ gate_up, u32 ffn) {
    const u32 groups = ffn / 8, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= groups) return;
    const uint4* row = gate_up + (u64)blockIdx.y * groups * 2;
    const uint4 gate = row[i], up = row[groups + i];
    out[(u64)blockIdx.y * groups + i] =
        make_uint4(gated(gate.x, up.x), gated(gate.y, up.y), gated(gate.z, up.z), gated(gate.w, up.w));
}
