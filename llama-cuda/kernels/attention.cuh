// The arithmetic of attention, the same for decode and prefill, so that both give the same bits.
//
// Positions are taken in units of 64 at absolute multiples of 64. For a row (a query token and one of its heads) a unit
// gives, from nothing, the maximum m of its scores, p = 2^(score - m) rounded to bf16, and both the sum l of p and the sum
// acc of p v by mma with f32 accumulators: l is what a column of ones would give. Units are folded in order, from the first
// that the row sees to the last:
//
//     next = max(m, m_unit); total = total * 2^(m - next) + unit * 2^(m_unit - next)      (m = -inf before the first)
//
// and the output is acc / l. Nothing depends on which warp or block computed a unit, nor on the other rows of its tile: an
// mma computes each row of its result from that row of A alone. So neither batch nor chunking nor grid changes a bit.
// Scores are in base 2: the scale has log2(e) in it. (Dao et al. 2022, arXiv:2205.14135; FlashDecoding, Dao et al. 2023.)
//
// A tile has 16 rows, the rows of mma's A. Lane 4 g + q holds of a tile's scores rows g and g + 8, of every 8 positions 2q
// and 2q + 1; of every 8 columns of acc likewise.
#pragma once
#include "attention_tiles.cuh"

constexpr u32 TILE_ROWS = 16, ONES = 0x3f803f80; // ones: two bf16

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// 2^x: 0 for -inf, 1 for 0, the same bits wherever it is used.
__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Lane 8 m + r names row r of the m-th matrix.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// A's fragments of 16 rows in shared memory, for columns 16 step to 16 step + 15.
template <u32 D>
__device__ __forceinline__ void load_rows(u32 (&a)[4], const Tile<D>& rows, u32 step) {
    const u32 lane = threadIdx.x % WARP;
    load_matrices(a, rows.chunk(lane % 16, 2 * step + lane / 16));
}

// Dots of q's rows with the 8 positions of k from `first` on.
template <u32 D>
__device__ __forceinline__ void score(float (&dots)[4], const u32 (&q)[D / 16][4], const Tile<D>& k, u32 first) {
    const u32 lane = threadIdx.x % WARP, row = k.chunk(lane % 8, lane / 8);
    dots[0] = dots[1] = dots[2] = dots[3] = 0.0f;
#pragma unroll
    for (u32 i = 0; i < D / 32; i++) {
        u32 b[4];
        load_matrices(b, (row ^ i * 64) + first * (2 * D));
        mma(dots, q[2 * i], b[0], b[1]);
        mma(dots, q[2 * i + 1], b[2], b[3]);
    }
}

// acc of a unit for columns 8 n to 8 n + 7; p in A's fragments.
template <u32 D>
__device__ __forceinline__ void weigh(float (&acc)[4], const u32 (&p)[UNIT / 16][4], const Tile<D>& v, u32 n) {
    const u32 row = v.row(threadIdx.x % WARP);
    acc[0] = acc[1] = acc[2] = acc[3] = 0.0f;
#pragma unroll
    for (u32 i = 0; i < UNIT / 32; i++) {
        u32 b[4];
        load_transposed(b, (row ^ n * 16) + i * (64 * D));
        mma(acc, p[2 * i], b[0], b[1]);
        mma(acc, p[2 * i + 1], b[2], b[3]);
    }
}

// l of a unit: [0] of row g, [2] of row g + 8.
__device__ __forceinline__ void add_weights(float (&sums)[4], const u32 (&p)[UNIT / 16][4]) {
    sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
#pragma unroll
    for (u32 i = 0; i < UNIT / 16; i++) mma(sums, p[i], ONES, ONES);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// The positions a row sees, both ends included.
struct Visible {
    u32 first, last;
    __device__ __forceinline__ bool sees(u32 position) const { return position - first <= last - first; }
};

__device__ __forceinline__ Visible visible_from(u32 position, u32 window) {
    return {window != 0 && position >= window ? position - window + 1 : 0, position};
}

// What the two sides of a fold are multiplied by.
struct Weights {
    float total, unit;
};

__device__ __forceinline__ Weights weights_of(float m, float m_unit, float next) {
    return {power_of_2(m - next), power_of_2(m_unit - next)};
}
__device__ __forceinline__ float folded(float total, float unit, Weights weights) {
    return fmaf(unit, weights.unit, total * weights.total);
}

// Folds a unit's m and l, and says how to fold its acc. A unit the row does not see at all changes nothing: its acc is +0,
// and +0 * -0 added to anything is that.
struct Softmax {
    float m = minus_infinity(), l = 0.0f;
    __device__ __forceinline__ Weights fold(float m_unit, float l_unit) {
        const bool sees = m_unit != minus_infinity();
        const float next = fmaxf(m, m_unit);
        Weights weights = weights_of(m, m_unit, next);
        weights = {sees ? weights.total : 1.0f, sees ? weights.unit : -0.0f};
        m = next;
        l = folded(l, l_unit, weights);
        return weights;
    }
};

// Two columns of a row of the output, from `column` on, if the head has them.
__device__ __forceinline__ void store_output(const Attention& p, u32 token, u32 head, u32 column, float a, float b,
                                             float inverse) {
    if (column >= p.shape.head_dim) return;
    const u64 at = ((u64)token * p.shape.heads + head) * p.shape.head_dim + column;
    *reinterpret_cast<u32*>(static_cast<bf16*>(p.out) + at) = pack_bf16(a * inverse, b * inverse);
}
