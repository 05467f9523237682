// Embedding: the token's row of a table of any format, decoded exactly, multiplied, into the f32 residual.
//
// thread  the quarter of a row that one lane has in a tile: its 16-byte loads bring two rows of which one is kept
// block   256 threads, one token
// grid    tokens
// bytes   twice the row, and 4 a feature written; a token is a few microseconds at most
//
// Ids are checked against the vocabulary before they come here.
#include "bf16.cuh"
#include "decode.cuh"
#include "dependent.cuh"
#include "f16.cuh"
#include "f32.cuh"
#include "four.cuh"
#include "grouped.cuh"
#include "params.cuh"
#include "q4_0.cuh"
#include "q4_1.cuh"
#include "q4_k.cuh"
#include "q5_k.cuh"
#include "q6_k.cuh"
#include "q8_0.cuh"

// What the host passes: `Embed` of src/params.rs.
struct ScaledEmbed {
    Embed of;
    float scale; // multiplies what was decoded
    u32 unused;
};

// Two rows of a tile, of which the odd or the even is wanted, times scale.
__device__ __forceinline__ float4 scaled_row(const float (&w)[8], u32 row, float scale) {
    const float4 v = row_of(w, row);
    return make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
}

// The features of a tile that lanes of quarter q have.
template <class F>
__device__ __forceinline__ void embed_quarter(const ScaledEmbed& p, const u8* tile, float* out, u32 row, u32 q, u32 first) {
    const typename F::Tile t = F::template load<Global>(tile, row % 8 * 4 + q);
#pragma unroll
    for (u32 step = 0; step < F::INPUTS / 16; step++) {
        float w[8];
        decode<F>(t, step, w);
        const u32 at = first + first_input<F>(step, q);
        if (F::INPUTS < 256 && at >= p.of.hidden) continue;
        const float4 four = scaled_row(w, row / 8, p.scale);
        store_four(out, at, p.of.hidden, F::SCALED || p.of.hidden % 4 == 0, four);
    }
}

template <class F>
__device__ __forceinline__ void embed_task(const ScaledEmbed& p, u32 index) {
    const u32 token = p.of.tokens[index], tiles = (p.of.hidden + F::INPUTS - 1) / F::INPUTS;
    const u8* row_group = p.of.table + (u64)(token / TILE_ROWS) * tiles * F::TILE_BYTES;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < tiles * 4; i += blockDim.x) {
        const u8* tile = row_group + (u64)(i / 4) * F::TILE_BYTES;
        embed_quarter<F>(p, tile, p.of.out + (u64)index * p.of.hidden, token % TILE_ROWS, i % 4, i / 4 * F::INPUTS);
    }
}

template <class F>
__device__ __forceinline__ void embed(const ScaledEmbed& p) {
    begin_dependents();
    wait_for_earlier();
    embed_task<F>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(256) embed_bf16(const __grid_constant__ ScaledEmbed p) { embed<BF16>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_f16(const __grid_constant__ ScaledEmbed p) { embed<F16>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_f32(const __grid_constant__ ScaledEmbed p) { embed<F32>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_q8_0(const __grid_constant__ ScaledEmbed p) { embed<Q8_0>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_0(const __grid_constant__ ScaledEmbed p) { embed<Q4_0>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_1(const __grid_constant__ ScaledEmbed p) { embed<Q4_1>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_q4_k(const __grid_constant__ ScaledEmbed p) { embed<Q4_K>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_q5_k(const __grid_constant__ ScaledEmbed p) { embed<Q5_K>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_q6_k(const __grid_constant__ ScaledEmbed p) { embed<Q6_K>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_grouped(const __grid_constant__ ScaledEmbed p) { embed<GROUPED>(p); }
