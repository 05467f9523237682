// Packs a linear's activations for wgmma: packed.cuh says how. Four kernels: for formats in groups of 32 (or none) and of
// 16, without and with the sums that minima multiply.
//
// thread  half a chunk (32 inputs) of one column: 64 bytes read, four units of 16 bytes written
// warp    with sums: two groups of 8 columns, a row of ones times them by mma, as in gemv
// block   one chunk of 128 columns: 256 threads; gridDim = column tiles * chunks (whole tiles of the weights' inputs)
// bytes   4 an input; floor = that / memory bandwidth, and it comes from and stays in L2
#include "dependent.cuh"
#include "format.cuh"
#include "packed.cuh"

// The 32 inputs from `at` on, as words of two; zeros past the last.
template <u32 GROUP, bool SUMS>
struct Half {
    u32 word[16];

    // Only weights without scales, which are packed without sums in groups of 32, have rows of any length.
    __device__ __forceinline__ Half(const bf16* row, u32 at, u32 inputs) {
        if (GROUP == 32 && !SUMS && inputs % 8 != 0) {
            read_each(reinterpret_cast<const u16*>(row), at, inputs);
            return;
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            uint4 v = make_uint4(0, 0, 0, 0);
            if (row && at + 8 * i < inputs) v = *reinterpret_cast<const uint4*>(row + at + 8 * i);
            word[4 * i] = v.x, word[4 * i + 1] = v.y, word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
        }
    }

    __device__ __forceinline__ void read_each(const u16* row, u32 at, u32 inputs) {
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            const u32 low = row && at + 2 * i < inputs ? row[at + 2 * i] : 0;
            word[i] = low | (row && at + 2 * i + 1 < inputs ? row[at + 2 * i + 1] : 0) << 16;
        }
    }

    // Mma columns 8 side .. 8 side + 7 of step `step` of the half's two.
    __device__ __forceinline__ uint4 unit(u32 step, u32 side) const {
        const u32 first = GROUP == 32 ? 2 * step + side : 8 * step + side, stride = GROUP == 32 ? 4 : 2;
        return make_uint4(word[first], word[first + stride], word[first + 2 * stride], word[first + 3 * stride]);
    }
};

// The sums of the groups of a packed chunk in shared memory, to global memory.
template <u32 GROUP>
__device__ __forceinline__ void add_up(const uint4* tile, float* sums) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, q = lane % 4;
#pragma unroll
    for (u32 column = warp * 8; column < PACKED_COLUMNS; column += 64) {
        const u32* units = reinterpret_cast<const u32*>(tile + (column + g) * 8) + q;
#pragma unroll
        for (u32 group = 0; group < CHUNK / GROUP; group++) {
            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (u32 step = group * GROUP / 16; step < (group + 1) * GROUP / 16; step++)
                mma_bf16(sum, ones(), units[(2 * step ^ g) * 4], units[((2 * step + 1) ^ g) * 4]);
            float2* to = reinterpret_cast<float2*>(sums + group * PACKED_COLUMNS + column + 2 * q);
            if (g == 0) *to = make_float2(sum[0], sum[1]);
        }
    }
}

template <u32 GROUP, bool SUMS>
__device__ __forceinline__ void pack_task(const Pack& p, u32 task, uint4* tile) {
    const u32 chunk = task % p.chunks, column = threadIdx.x / 2, half = threadIdx.x % 2;
    const u32 c = task / p.chunks * PACKED_COLUMNS + column;
    const bf16* row = static_cast<const bf16*>(p.x) + (c < p.columns ? (u64)(p.gather ? p.gather[c] : c) * p.inputs : 0);
    const Half<GROUP, SUMS> x(c < p.columns ? row : nullptr, chunk * CHUNK + half * 32, p.inputs);
    u8* out = p.packed + (u64)task * packed_bytes(GROUP, SUMS);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 at = column * 8 + ((half * 4 + i) ^ column % 8);
        const uint4 unit = x.unit(i / 2, i % 2);
        reinterpret_cast<uint4*>(out)[at] = unit;
        if (SUMS) tile[at] = unit;
    }
    if (!SUMS) return;
    __syncthreads();
    add_up<GROUP>(tile, reinterpret_cast<float*>(out + INPUT_TILE_BYTES));
}

#define PACK_KERNEL(name, GROUP, SUMS)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) name(const __grid_constant__ Pack p) {                           \
        __shared__ uint4 tile[SUMS ? INPUT_TILE_BYTES / 16 : 1];                                                             \
        begin_dependents();                                                                                            \
        wait_for_earlier();                                                                                            \
        pack_task<GROUP, SUMS>(p, blockIdx.x, tile);                                                                   \
    }

PACK_KERNEL(pack_32, 32, false)
PACK_KERNEL(pack_32_sums, 32, true)
PACK_KERNEL(pack_16, 16, false)
PACK_KERNEL(pack_16_sums, 16, true)
