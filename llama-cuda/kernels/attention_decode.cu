// Decode attention: one new token a sequence over its paged cache, from qkv as the linear left it to the output, in one
// launch: q and k are turned, the new k and v stored, the context attended to, and its parts folded.
//
// attention_decode_bf16_{bf16,e4m3}_{64,128,256} (by cache and padded head_dim)
//   thread  of the copies every 256th chunk of 16 bytes; of the arithmetic what mma gives a lane
//   warp    8 positions of every unit's scores, an eighth of the columns of its p v: the warps meet twice a unit, for the
//           maximum and for p
//   block   a run of `run` units of the context of one token, for up to 16 heads of one kv head: k and v are read once for
//           all of them. 256 threads; 384 D + 2576 bytes of shared memory
//   grid    (runs of the longest context, kv_heads * tiles of heads, tokens); runs past the end of a context do nothing, so
//           a launch recorded for longer contexts serves shorter ones. A tile of heads is 16 of the group's.
//   bytes   4 D (2 D of e4m3) a position and kv head; with several runs also 8 D / 64 a position and head: a sixteenth at a
//           group of 4; floor = those / memory bandwidth
//   order   attention.cuh's. A run's units leave their m, l and acc in memory, and the last block of a token and tile to
//           arrive folds them all, from the first; a context of one run is folded where it is. The same bits either way.
//
// Workspace, for B block ids and S sequences at most, in units U = B / 4 + S: a sequence's begin at kv_indptr / 4 + its number.
//   partials  U * heads * D f32       stats  U * heads f32 pairs       arrivals  tokens * kv_heads * tiles, zero; they
//   return to zero by themselves.
#include "attention_decode.cuh"

extern __shared__ __align__(1024) u8 shared_bytes[];

// One entry point a format of the cache and padded head_dim.
#define DECODE(kv, Kv, D) \
    extern "C" __global__ void __launch_bounds__(256, D == 256 ? 1 : 2) \
    attention_decode_bf16_##kv##_##D(const __grid_constant__ Attention p) { \
        begin_dependents(); \
        attention_decode<Kv, D>(p, blockIdx.x, blockIdx.y, blockIdx.z, shared_bytes); \
    }
DECODE(bf16, bf16, 64)
DECODE(bf16, bf16, 128)
DECODE(bf16, bf16, 256)
DECODE(e4m3, E4m3, 64)
DECODE(e4m3, E4m3, 128)
DECODE(e4m3, E4m3, 256)
