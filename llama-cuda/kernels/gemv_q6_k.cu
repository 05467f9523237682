// gemv over Q6_K weights: gemv.cuh with the tiles of q6_k.cuh.
#include "gemv.cuh"
#include "q6_k.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_q6_k_bf16(const __grid_constant__ Linear p) { gemv<Q6_K>(p); }
