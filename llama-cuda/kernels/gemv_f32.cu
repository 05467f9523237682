// gemv over F32 weights: gemv.cuh with the tiles of f32.cuh.
#include "gemv.cuh"
#include "f32.cuh"

extern "C" __global__ void __launch_bounds__(256, 4) gemv_f32_bf16(const __grid_constant__ Linear p) { gemv<F32>(p); }
