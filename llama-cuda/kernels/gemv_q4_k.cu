// gemv over Q4_K weights: gemv.cuh and precise.cuh with the tiles of q4_k.cuh.
#include "q4_k.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256) gemv_q4_k_bf16(const __grid_constant__ Linear p) { gemv<Q4_K>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_q4_k_f32(const __grid_constant__ Linear p) { precise<Q4_K>(p); }
