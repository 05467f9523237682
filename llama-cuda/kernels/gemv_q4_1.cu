// gemv over Q4_1 weights: gemv.cuh with the tiles of q4_1.cuh.
#include "gemv.cuh"
#include "q4_1.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_q4_1_bf16(const __grid_constant__ Linear p) { gemv<Q4_1>(p); }
