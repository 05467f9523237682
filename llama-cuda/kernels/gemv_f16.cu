// gemv over F16 weights: gemv.cuh with the tiles of f16.cuh.
#include "gemv.cuh"
#include "f16.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_f16_bf16(const __grid_constant__ Linear p) { gemv<F16>(p); }
