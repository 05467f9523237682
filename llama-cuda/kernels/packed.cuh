// Activations as wgmma.cuh wants them: [column tile of 128][chunk of 64 inputs], each 16 KiB of bf16 and, for formats with
// minima, the sums of every group of inputs: [groups][128] f32.
//
// A column's 64 inputs are 128 bytes: 4 steps of 16, each in the order of mma columns, where lane quarter q has columns 2q,
// 2q+1, 2q+8, 2q+9 for its four inputs (format.cuh); 16-byte unit u of column c lies at u ^ (c mod 8), Hopper's 128-byte
// swizzle. Columns and inputs past the last are zero.
#pragma once
#include "common.cuh"

constexpr u32 CHUNK = 64, PACKED_COLUMNS = 128, INPUT_TILE_BYTES = PACKED_COLUMNS * CHUNK * 2;

__device__ constexpr u32 packed_bytes(u32 group, bool sums) {
    return INPUT_TILE_BYTES + (sums ? CHUNK / group * PACKED_COLUMNS * 4 : 0);
}

// What the host passes to the kernels that pack, as in params.cuh.
struct Pack {
    u8* packed;        // [ceil(columns / 128)][chunks] packed chunks
    const void* x;     // bf16 [.., inputs]
    const u32* gather; // [columns]: column c is row gather[c] of x; null: row c
    u32 columns, inputs;
    u32 chunks;        // of 64 inputs, as many as the weights' tiles have
    u32 unused;
};
