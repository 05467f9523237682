// Copies whole blocks of one layer's keys and values: a sequence that shares its prefix begins to differ.
//
// thread  16 bytes
// block   4,096 bytes of one block of k or v: 256 threads; gridDim = count * 2 * ceil(bytes / 4096)
// bytes   a pair: 4 * bytes; floor = those / memory bandwidth
//
// Pairs go side by side: no block may be written twice, or written by one pair and read by another.
#include "dependent.cuh"
#include "params.cuh"

constexpr u32 THREADS = 256;

__device__ __forceinline__ void copy_blocks_task(const CopyBlocks& p, u32 task) {
    const u32 parts = (p.bytes + 16 * THREADS - 1) / (16 * THREADS), copy = task / parts;
    const u32 at = (task % parts * THREADS + threadIdx.x) * 16;
    if (at >= p.bytes) return;
    u8* cache = copy % 2 ? p.v : p.k;
    const u64 from = p.pairs[copy / 2 * 2], to = p.pairs[copy / 2 * 2 + 1];
    *reinterpret_cast<uint4*>(cache + to * p.bytes + at) = *reinterpret_cast<const uint4*>(cache + from * p.bytes + at);
}

extern "C" __global__ void __launch_bounds__(THREADS) copy_blocks(const __grid_constant__ CopyBlocks p) {
    begin_dependents();
    wait_for_earlier();
    copy_blocks_task(p, blockIdx.x);
}
