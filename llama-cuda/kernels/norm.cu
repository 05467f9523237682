// RMSNorm, alone and with the residual addition before it: out = residual / sqrt(mean(residual^2) + eps) * gain.
//
// thread  every 256th group of 4 consecutive features of one row
// warp    folds its 32 partial sums of squares in a butterfly
// block   one row (token): 256 threads; the row is read again from L1 to be scaled; gridDim = rows
// bytes   a feature: residual 4 read (+ 4 written and x read where there is an x), gain 4 read (shared by all rows), out
//         2 or 4 written
// floor   12 bytes a feature / memory bandwidth; at one token the launch itself is the floor, hence the fusion
// order   norm.cuh
//
// Any number of features. The residual stream and every accumulator are f32.
#include "dependent.cuh"
#include "norm.cuh"

template <typename T>
__device__ __forceinline__ void norm_kernel(const Norm& p) {
    __shared__ float scratch[NORM_THREADS / WARP];
    begin_dependents();
    wait_for_earlier();
    norm_row<T>(p, blockIdx.x, scratch);
}

extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_bf16(const __grid_constant__ Norm p) {
    norm_kernel<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_f32(const __grid_constant__ Norm p) {
    norm_kernel<float>(p);
}
