// gemv over Q8_0 weights: gemv.cuh and precise.cuh with the tiles of q8_0.cuh.
#include "q8_0.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 4) gemv_q8_0_bf16(const __grid_constant__ Linear p) { gemv<Q8_0>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_q8_0_f32(const __grid_constant__ Linear p) { precise<Q8_0>(p); }
