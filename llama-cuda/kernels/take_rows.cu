// out[i] = x[index[i]]: the rows whose logits are wanted.
//
// thread  4 consecutive features
// block   1,024 features of one row: 256 threads; gridDim = rows * ceil(features / 1024), a row's blocks together
// bytes   a feature: 4 (bf16) or 8 (f32); floor = those / memory bandwidth
//
// Any number of features; indices are the host's to check.
#include "dependent.cuh"
#include "take_rows.cuh"

extern "C" __global__ void __launch_bounds__(TAKE_THREADS) take_rows_bf16(const __grid_constant__ TakeRows p) {
    begin_dependents();
    wait_for_earlier();
    take_rows_task<bf16>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(TAKE_THREADS) take_rows_f32(const __grid_constant__ TakeRows p) {
    begin_dependents();
    wait_for_earlier();
    take_rows_task<float>(p, blockIdx.x);
}
