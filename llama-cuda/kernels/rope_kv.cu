// RoPE in two kernels: the angles once a step, then per layer the rotation of q in place and the paged write of k and v.
//
// rope_angles
//   thread  one (token, frequency): cos and sin of position * inv_freq
//   block   the frequencies of one token; gridDim.x = tokens, blockDim.x = head_dim / 2
// rope_kv_bf16
//   thread  one pair of features of one head of one token: 4 bytes, rotated; on a kv head also 4 bytes of v copied
//   block   one head of one token; gridDim = (tokens, heads + kv_heads), blockDim.x = head_dim / 2
//   bytes   8 a pair of q; 16 a pair of k and v; floor = those / memory bandwidth, or one launch
//
// A row of qkv is [heads | kv_heads of k | kv_heads of v] x head_dim. The cache is
// [blocks, kv_heads, block_len, head_dim] for k and for v: attention reads one head of one block as one run of bytes.
// slots[token] = block * block_len + offset within the block.
#include "common.cuh"

// Reduction by pi/2 in two steps (Cody and Waite), then Taylor on [-pi/4, pi/4], all in f64: the CPU's method, but for a
// product in place of each division by a constant, so the two differ at most in f64's last bits.
__device__ __forceinline__ float2 cos_sin(float angle) {
    const double n = rint((double)angle * 0.6366197723675814);
    const double r = fma(-n, 6.077100506506192e-11, fma(-n, 1.5707963267341256, (double)angle));
    const double r2 = r * r;
    double s = 1.0, c = 1.0;
#pragma unroll
    for (int k = 8; k >= 1; k--) {
        s = fma(r2 * (-1.0 / (2.0 * k * (2.0 * k + 1.0))), s, 1.0);
        c = fma(r2 * (-1.0 / (2.0 * k * (2.0 * k - 1.0))), c, 1.0);
    }
    s *= r;
    const int quadrant = (int)(long long)n & 3;
    const double cosine = quadrant & 1 ? s : c, sine = quadrant & 1 ? c : s;
    return make_float2((float)((quadrant + 1) & 2 ? -cosine : cosine), (float)(quadrant & 2 ? -sine : sine));
}

extern "C" __global__ void __launch_bounds__(128)
rope_angles(float2* __restrict__ angles, const u32* __restrict__ positions, const float* __restrict__ inv_freq) {
    const u32 i = threadIdx.x;
    angles[(u64)blockIdx.x * blockDim.x + i] = cos_sin((float)positions[blockIdx.x] * inv_freq[i]);
}

extern "C" __global__ void __launch_bounds__(128)
rope_kv_bf16(bf16* __restrict__ qkv, bf16* __restrict__ k_cache, bf16* __restrict__ v_cache,
             const float2* __restrict__ angles, const u32* __restrict__ slots, u32 heads, u32 kv_heads, u32 block_len,
             u32 interleaved) {
    const u32 token = blockIdx.x, head = blockIdx.y, i = threadIdx.x, half = blockDim.x, head_dim = 2 * half;
    const u32 first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
    bf16* source = qkv + ((u64)token * (heads + 2 * kv_heads) + head) * head_dim;
    const float2 turn = angles[(u64)token * half + i];
    const float a = __bfloat162float(source[first]), b = __bfloat162float(source[second]);
    const bf16 turned_a = __float2bfloat16_rn(fmaf(a, turn.x, -b * turn.y));
    const bf16 turned_b = __float2bfloat16_rn(fmaf(b, turn.x, a * turn.y));
    if (head < heads) {
        source[first] = turned_a;
        source[second] = turned_b;
        return;
    }
    const u32 slot = slots[token], block = slot / block_len, offset = slot % block_len;
    const u64 at = (((u64)block * kv_heads + (head - heads)) * block_len + offset) * head_dim;
    const bf16* v = source + (u64)kv_heads * head_dim;
    k_cache[at + first] = turned_a;
    k_cache[at + second] = turned_b;
    v_cache[at + first] = v[first];
    v_cache[at + second] = v[second];
}
