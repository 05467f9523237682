// SwiGLU: out = silu(gate) * up, where a row of gate_up is [gate | up].
//
// thread  4 consecutive features
// block   1,024 features of one row: 256 threads; gridDim = rows * ceil(ffn / 1024), a row's blocks together
// bytes   a feature: 6 (bf16) or 12 (f32); floor = those / memory bandwidth
//
// Any ffn. The arithmetic is f32 in both; see swiglu.cuh for what it costs and how exact it is.
#include "dependent.cuh"
#include "swiglu_task.cuh"

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS) swiglu_bf16(const __grid_constant__ SwiGlu p) {
    begin_dependents();
    wait_for_earlier();
    swiglu_task<bf16>(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS) swiglu_f32(const __grid_constant__ SwiGlu p) {
    begin_dependents();
    wait_for_earlier();
    swiglu_task<float>(p, blockIdx.x);
}
