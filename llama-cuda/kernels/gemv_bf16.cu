// gemv over BF16 weights: gemv.cuh with the tiles of bf16.cuh.
#include "gemv.cuh"
#include "bf16.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_bf16_bf16(const __grid_constant__ Linear p) { gemv<BF16>(p); }
