// gemv over Q4_0 weights: gemv.cuh and precise.cuh with the tiles of q4_0.cuh.
#include "q4_0.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 4) gemv_q4_0_bf16(const __grid_constant__ Linear p) { gemv<Q4_0>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_q4_0_f32(const __grid_constant__ Linear p) { precise<Q4_0>(p); }
