// gemv over BF16 weights: gemv.cuh and precise.cuh with the tiles of bf16.cuh.
#include "bf16.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_bf16_bf16(const __grid_constant__ Linear p) { gemv<BF16>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_bf16_f32(const __grid_constant__ Linear p) { precise<BF16>(p); }
