// gemv over F16 weights: gemv.cuh and precise.cuh with the tiles of f16.cuh.
#include "f16.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 3) gemv_f16_bf16(const __grid_constant__ Linear p) { gemv<F16>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_f16_f32(const __grid_constant__ Linear p) { precise<F16>(p); }
