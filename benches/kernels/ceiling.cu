// Ceilings of a GPU, measured where and when a benchmark runs: how fast it reads memory, how fast its matrix unit is.
//
// read_ceiling: thread   eight loads of 16 bytes in flight, folded by exclusive or
//               block    256 threads; its words' fold goes to out[block], so that no load is without a use
//               grid     as many blocks as are resident at once; each strides over the whole buffer
//               bytes    the buffer, once. Floor: that over the memory's rate, which is what this measures
// mma_ceiling:  warp     eight chains of m16n8k16 in bf16, operands in registers: 4096 multiply-adds a chain and round
//               grid     as many warps as are resident at once. Floor: none, this is the ceiling of mma.sync
// Order: both are exact, in any order: exclusive or, and sums of ones.
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 LOADS = 8, CHAINS = 8;

extern "C" __global__ void __launch_bounds__(256) read_ceiling(const uint4* __restrict__ x, u64 count, u32* out) {
    const u64 threads = (u64)gridDim.x * blockDim.x, first = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 fold = 0;
    u64 at = first;
    for (; at + (LOADS - 1) * threads < count; at += LOADS * threads) {
        uint4 words[LOADS];
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) words[i] = __ldg(&x[at + i * threads]);
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) fold ^= words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
    }
    for (; at < count; at += threads) {
        const uint4 words = __ldg(&x[at]);
        fold ^= words.x ^ words.y ^ words.z ^ words.w;
    }
    __shared__ u32 folds[8];
    for (u32 step = 16; step > 0; step /= 2) fold ^= __shfl_xor_sync(0xffffffffu, fold, step);
    if (threadIdx.x % 32 == 0) folds[threadIdx.x / 32] = fold;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 i = 1; i < 8; i++) fold ^= folds[i];
        out[blockIdx.x] = fold;
    }
}

// Every operand is `ones`, two bf16 of 1.0: after `rounds` a lane's sums are 16 * rounds each.
extern "C" __global__ void __launch_bounds__(256) mma_ceiling(float* out, u32 ones, u32 rounds) {
    float sums[CHAINS][4] = {};
    for (u32 round = 0; round < rounds; round++) {
#pragma unroll
        for (u32 i = 0; i < CHAINS; i++) {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%4, %4},"
                         " {%0, %1, %2, %3};"
                         : "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
                         : "r"(ones));
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < CHAINS; i++) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
