// gemv over F32 weights: gemv.cuh and precise.cuh with the tiles of f32.cuh.
#include "f32.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 4) gemv_f32_bf16(const __grid_constant__ Linear p) { gemv<F32>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_f32_f32(const __grid_constant__ Linear p) { precise<F32>(p); }
