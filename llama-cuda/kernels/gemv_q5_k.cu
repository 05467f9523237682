// gemv over Q5_K weights: gemv.cuh and precise.cuh with the tiles of q5_k.cuh.
#include "q5_k.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 2) gemv_q5_k_bf16(const __grid_constant__ Linear p) { gemv<Q5_K>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_q5_k_f32(const __grid_constant__ Linear p) { precise<Q5_K>(p); }
