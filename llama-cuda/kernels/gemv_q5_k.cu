// gemv over Q5_K weights: gemv.cuh with the tiles of q5_k.cuh.
#include "gemv.cuh"
#include "q5_k.cuh"

extern "C" __global__ void __launch_bounds__(256, 2) gemv_q5_k_bf16(const __grid_constant__ Linear p) { gemv<Q5_K>(p); }
