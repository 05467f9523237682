// gemv over Q4_1 weights: gemv.cuh and precise.cuh with the tiles of q4_1.cuh.
#include "q4_1.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_q4_1_bf16(const __grid_constant__ Linear p) { gemv<Q4_1>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_q4_1_f32(const __grid_constant__ Linear p) { precise<Q4_1>(p); }
