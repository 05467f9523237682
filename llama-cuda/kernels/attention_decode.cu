// Attention of one new token a sequence over its paged KV cache, in two kernels: partitions of the context, then their
// combination. The heads of a group share one read of k and v.
//
// attention_decode_bf16_{64,128} (by head_dim)
//   thread  lane 4 g + q: head g of the group; of the scores positions 2q, 2q+1, 2q+8, 2q+9 of its warp's 16
//   warp    16 positions of every tile of 64, on its own: scores by mma from k in registers, softmax, p v by mma from v
//           in shared memory (two stages of cp.async: the next tile's v is under way while this one is used)
//   block   one partition of 256 positions of one kv head of one sequence; its 4 warps merge at the end
//   grid    (partitions of the longest context, kv_heads, sequences)
// attention_combine_bf16
//   thread  one feature of one head; block = one head of one sequence; grid = (heads, sequences), blockDim.x = head_dim
//
// bytes   k and v once: 4 * head_dim a position and kv head; floor = that / memory bandwidth. The partials are 1/64 of
//         it at 256 positions and a group of 4.
// order   partitions lie at absolute positions and are merged in order, so neither batch nor grid changes a bit.
//
// The cache is [blocks, kv_heads, block_len, head_dim] (rope_kv.cu). A group has at most 8 heads. m, l and the scores
// are in base 2: scale = log2(e) / sqrt(head_dim).
#include "common.cuh"

constexpr u32 PARTITION = 256, TILE = 64, WARP_TILE = 16, WARPS = 4, GROUP = 8;

__device__ __forceinline__ void mma_rows_0_to_7(float (&d)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%5}, {%7,%8}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void copy_16_bytes(void* shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(inside ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_for_all_but_the_last_group() {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}
__device__ __forceinline__ void wait_for_all_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ __forceinline__ void load_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}

// 16 rows of v; each row's 16-byte chunks are permuted by its number, so that 8 rows of a chunk lie in different banks.
template <u32 D>
struct Stage {
    bf16 rows[WARP_TILE][D];
    __device__ __forceinline__ bf16* chunk(u32 row, u32 chunk) { return rows[row] + (chunk ^ (row & 7)) * 8; }
};

template <u32 D>
union Shared {
    Stage<D> v[WARPS][2];
    float sums[WARPS][GROUP][D];
};

// Where a position's row of one kv head lies in the cache.
struct Cache {
    const u32* table;
    u32 kv_head, kv_heads, block_len, head_dim;
    __device__ __forceinline__ u64 row(u32 position) const {
        const u64 block = table[position / block_len];
        return ((block * kv_heads + kv_head) * block_len + position % block_len) * head_dim;
    }
};

template <u32 D>
__device__ __forceinline__ void load_values(Stage<D>& stage, const bf16* v, const Cache& cache, u32 first, u32 end) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 i = lane; i < WARP_TILE * D / 8; i += WARP) {
        const u32 row = i / (D / 8), chunk = i % (D / 8), position = first + row;
        const bool inside = position < end;
        copy_16_bytes(stage.chunk(row, chunk), v + (inside ? cache.row(position) + chunk * 8 : 0), inside);
    }
    commit_copies();
}

// scores[j] = q . k for positions first + 8 j + (0..7), in base 2; -inf past the end.
template <u32 D>
__device__ __forceinline__ void score(float (&scores)[2][2], const uint4 (&q)[D / 32], const bf16* k,
                                      const Cache& cache, u32 first, u32 end, float scale) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 j = 0; j < 2; j++) {
        const u32 position = first + 8 * j + lane / 4;
        const uint4* row = reinterpret_cast<const uint4*>(k + (position < end ? cache.row(position) : 0)) + lane % 4;
        float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (u32 c = 0; c < D / 32; c++) {
            const uint4 b = position < end ? __ldg(row + 4 * c) : make_uint4(0, 0, 0, 0);
            mma_rows_0_to_7(dot, q[c].x, q[c].y, b.x, b.y);
            mma_rows_0_to_7(dot, q[c].z, q[c].w, b.z, b.w);
        }
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            scores[j][i] = first + 8 * j + lane % 4 * 2 + i < end ? dot[i] * scale : __int_as_float(0xff800000);
        }
    }
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

template <u32 D>
__device__ __forceinline__ void add_values(float (&acc)[D / 8][4], Stage<D>& stage, u32 p0, u32 p1) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 j = 0; j < D / 16; j++) {
        u32 b[4];
        load_transposed(b, stage.chunk(lane % 16, 2 * j + lane / 16));
        mma_rows_0_to_7(acc[2 * j], p0, p1, b[0], b[1]);
        mma_rows_0_to_7(acc[2 * j + 1], p0, p1, b[2], b[3]);
    }
}

// partials[sequence][head][partition][D] (not yet divided by l) and stats[sequence][head][partition] = (m, l)
template <u32 D>
__device__ __forceinline__ void attention_decode(float* partials, float2* stats, const bf16* qkv, const bf16* k,
                                                 const bf16* v, const u32* contexts, const u32* tables, u32 max_blocks,
                                                 u32 block_len, u32 heads, u32 q_stride, float scale) {
    __shared__ __align__(16) Shared<D> shared;
    __shared__ float maxima[WARPS][GROUP], lengths[WARPS][GROUP];
    const u32 partition = blockIdx.x, kv_head = blockIdx.y, kv_heads = gridDim.y, sequence = blockIdx.z;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, group = heads / kv_heads;
    const u32 begin = partition * PARTITION, end = min(contexts[sequence], begin + PARTITION);
    if (begin >= end) return;

    const Cache cache{tables + (u64)sequence * max_blocks, kv_head, kv_heads, block_len, D};
    const bf16* head = qkv + (u64)sequence * q_stride + (kv_head * group + g) * D;
    uint4 q[D / 32];
#pragma unroll
    for (u32 c = 0; c < D / 32; c++) {
        q[c] = g < group ? reinterpret_cast<const uint4*>(head)[4 * c + lane % 4] : make_uint4(0, 0, 0, 0);
    }

    float acc[D / 8][4] = {}, m = __int_as_float(0xff800000), l = 0.0f;
    u32 first = begin + warp * WARP_TILE;
    load_values(shared.v[warp][0], v, cache, first, end);
    for (u32 stage = 0; first < end; stage ^= 1, first += TILE) {
        load_values(shared.v[warp][stage ^ 1], v, cache, first + TILE, end);
        float scores[2][2];
        score<D>(scores, q, k, cache, first, end, scale);
        const float highest = quad_max(fmaxf(fmaxf(scores[0][0], scores[0][1]), fmaxf(scores[1][0], scores[1][1])));
        const float next = fmaxf(m, highest), fade = exp2f(m - next);
        u32 p[2];
        l *= fade;
        m = next;
#pragma unroll
        for (u32 j = 0; j < 2; j++) {
            const float p0 = exp2f(scores[j][0] - m), p1 = exp2f(scores[j][1] - m);
            l += p0 + p1;
            p[j] = pack_bf16(p0, p1);
        }
#pragma unroll
        for (u32 j = 0; j < D / 8; j++) {
            acc[j][0] *= fade;
            acc[j][1] *= fade;
        }
        wait_for_all_but_the_last_group();
        __syncwarp();
        add_values<D>(acc, shared.v[warp][stage], p[0], p[1]);
        __syncwarp();
    }
    wait_for_all_copies();

    // Merge the warps: a warp without positions has m = -inf and l = 0, and so no weight.
    l = quad_sum(l);
    if (lane % 4 == 0) {
        maxima[warp][g] = m;
        lengths[warp][g] = l;
    }
    __syncthreads();
    float highest = maxima[0][g], length = 0.0f;
#pragma unroll
    for (u32 w = 1; w < WARPS; w++) highest = fmaxf(highest, maxima[w][g]);
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) length += lengths[w][g] * exp2f(maxima[w][g] - highest);
    const float weight = exp2f(m - highest);
#pragma unroll
    for (u32 j = 0; j < D / 8; j++) {
        *reinterpret_cast<float2*>(&shared.sums[warp][g][8 * j + lane % 4 * 2]) =
            make_float2(acc[j][0] * weight, acc[j][1] * weight);
    }
    __syncthreads();
    const u32 first_head = sequence * heads + kv_head * group, partitions = gridDim.x;
    if (warp == 0 && lane % 4 == 0 && g < group) {
        stats[(u64)(first_head + g) * partitions + partition] = make_float2(highest, length);
    }
    for (u32 i = threadIdx.x; i < group * D; i += blockDim.x) {
        float sum = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) sum += shared.sums[w][i / D][i % D];
        partials[((u64)(first_head + i / D) * partitions + partition) * D + i % D] = sum;
    }
}

// One entry point a head_dim.
#define DECODE(D) \
    extern "C" __global__ void __launch_bounds__(128) attention_decode_bf16_##D( \
        float* __restrict__ partials, float2* __restrict__ stats, const bf16* __restrict__ qkv, \
        const bf16* __restrict__ k, const bf16* __restrict__ v, const u32* __restrict__ contexts, \
        const u32* __restrict__ tables, u32 max_blocks, u32 block_len, u32 heads, u32 q_stride, float scale) { \
        attention_decode<D>(partials, stats, qkv, k, v, contexts, tables, max_blocks, block_len, heads, q_stride, scale); \
    }
DECODE(64)
DECODE(128)

extern "C" __global__ void __launch_bounds__(128)
attention_combine_bf16(bf16* __restrict__ out, const float* __restrict__ partials, const float2* __restrict__ stats,
                       const u32* __restrict__ contexts, u32 partitions) {
    const u32 head = blockIdx.y * gridDim.x + blockIdx.x, used = (contexts[blockIdx.y] + PARTITION - 1) / PARTITION;
    const float2* stat = stats + (u64)head * partitions;
    const float* partial = partials + (u64)head * partitions * blockDim.x + threadIdx.x;
    float m = __int_as_float(0xff800000), l = 0.0f, sum = 0.0f;
    for (u32 i = 0; i < used; i++) {
        const float2 s = stat[i];
        const float next = fmaxf(m, s.x), fade = exp2f(m - next), weight = exp2f(s.x - next);
        sum = fmaf(sum, fade, partial[(u64)i * blockDim.x] * weight);
        l = fmaf(l, fade, s.y * weight);
        m = next;
    }
    out[(u64)head * blockDim.x + threadIdx.x] = __float2bfloat16_rn(sum / l);
}
