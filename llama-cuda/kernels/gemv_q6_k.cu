// gemv over Q6_K weights: gemv.cuh and precise.cuh with the tiles of q6_k.cuh.
#include "q6_k.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_q6_k_bf16(const __grid_constant__ Linear p) { gemv<Q6_K>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_q6_k_f32(const __grid_constant__ Linear p) { precise<Q6_K>(p); }
