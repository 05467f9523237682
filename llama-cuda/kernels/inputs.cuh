// Where a gemv's inputs come from: bf16 columns as they lie in memory, or staged in shared memory as bf16 on the way from
// the residual (RMSNorm) or from gate and up (SwiGLU), with the arithmetic of norm.cuh and swiglu.cuh to the bit. bf16
// columns of a length that is not a multiple of 64 are staged too: then no lane need ever look whether its inputs exist.
//
// Staged columns take min(columns, 8) x staged_stride elements of dynamic shared memory: the inputs, padded with zeros to a
// multiple of 64, and a gap that puts neighbouring columns into different banks.
#pragma once
#include "format.cuh"
#include "norm.cuh"
#include "swiglu.cuh"

constexpr u32 SEGMENTS = 8, COLUMNS = 8, GEMV_THREADS = 256;
constexpr u32 COLUMN_STRIDE = 20; // 16 rows and a gap: lanes of a warp hit different banks

// What a block shares beside its staged inputs.
struct Meeting {
    float partial[SEGMENTS][COLUMNS * COLUMN_STRIDE];
    float squares[COLUMNS][GEMV_THREADS / WARP];
};

__device__ __forceinline__ u32 input_row(const Linear& p, u32 column) { return p.gather ? p.gather[column] : column; }

__device__ __forceinline__ u32 columns_of(const Linear& p, u32 column_group) {
    const u32 left = p.columns - column_group * COLUMNS;
    return left < COLUMNS ? left : COLUMNS;
}

__device__ __forceinline__ u32 padded_inputs(u32 inputs) { return (inputs + 63) / 64 * 64; }

// Elements from one staged column to the next. The lanes that load together have 2 columns x 64 bytes (groups of 32) or 4
// columns x 32 bytes (groups of 16).
template <class F>
__device__ __forceinline__ u32 staged_stride(u32 inputs) { return padded_inputs(inputs) + F::GROUP; }

// Four consecutive inputs of a row of `inputs`, zeros past its end. Rows of scaled formats are whole fours, of K-quants
// whole tiles.
template <class F, typename T>
__device__ __forceinline__ float4 four_inputs(const T* row, u32 at, u32 inputs) {
    if (F::INPUTS < 256 && at >= inputs) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return load_four(row, at, inputs, F::SCALED || inputs % 4 == 0);
}

// This thread's sum of squares of a row of the residual, in the order of norm.cuh.
template <class F>
__device__ __forceinline__ float squares_of(const float* row, u32 inputs) {
    float squares = 0.0f;
    for (u32 at = 4 * threadIdx.x; at < inputs; at += 4 * NORM_THREADS) {
        squares = sum_of_squares(four_inputs<F>(row, at, inputs), squares);
    }
    return squares;
}

template <class F>
__device__ __forceinline__ void stage_normed(const Linear& p, u64 row, bf16* staged, float* scratch) {
    const float* residual = static_cast<const float*>(p.input) + row * p.inputs;
    const float factor = norm_factor(squares_of<F>(residual, p.inputs), p.inputs, p.eps, scratch);
    for (u32 at = 4 * threadIdx.x; at < padded_inputs(p.inputs); at += 4 * NORM_THREADS) {
        const float4 v = four_inputs<F>(residual, at, p.inputs), gain = four_inputs<F>(p.gain, at, p.inputs);
        put_whole_four(staged + at, normed(v, factor, gain));
    }
}

template <class F>
__device__ __forceinline__ void stage_gated(const Linear& p, u64 row, bf16* staged) {
    const bf16* gate = static_cast<const bf16*>(p.input) + row * 2 * p.inputs;
    for (u32 at = 4 * threadIdx.x; at < padded_inputs(p.inputs); at += 4 * GEMV_THREADS) {
        const float4 g = four_inputs<F>(gate, at, p.inputs), u = four_inputs<F>(gate + p.inputs, at, p.inputs);
        put_whole_four(staged + at, gated_four(g, u, gate));
    }
}

template <class F>
__device__ __forceinline__ void stage_copied(const Linear& p, u64 row, bf16* staged) {
    const bf16* x = static_cast<const bf16*>(p.input) + row * p.inputs;
    for (u32 at = 4 * threadIdx.x; at < padded_inputs(p.inputs); at += 4 * GEMV_THREADS) {
        put_whole_four(staged + at, four_inputs<F>(x, at, p.inputs));
    }
}

// This lane's column (lane / 4 of the group; the last one where that is none, its products are dropped), in global memory
// or in shared, after the whole block has staged its columns if they must be.
template <class F>
__device__ __forceinline__ const bf16* take_column(const Linear& p, u32 column_group, Meeting& meeting, bf16* staged) {
    const u32 c = min(threadIdx.x % WARP / 4, columns_of(p, column_group) - 1), stride = staged_stride<F>(p.inputs);
    if (p.source == SOURCE_BF16 && (F::INPUTS == 256 || p.inputs % 64 == 0)) {
        return static_cast<const bf16*>(p.input) + (u64)input_row(p, column_group * COLUMNS + c) * p.inputs;
    }
#pragma unroll 1
    for (u32 i = 0; i < columns_of(p, column_group); i++) {
        const u64 row = input_row(p, column_group * COLUMNS + i);
        if (p.source == SOURCE_NORM) stage_normed<F>(p, row, staged + i * stride, meeting.squares[i]);
        if (p.source == SOURCE_SWIGLU) stage_gated<F>(p, row, staged + i * stride);
        if (F::INPUTS != 256 && p.source == SOURCE_BF16) stage_copied<F>(p, row, staged + i * stride);
    }
    __syncthreads();
    return staged + c * stride;
}
