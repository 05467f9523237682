// gemv over GROUPED weights: gemv.cuh and precise.cuh with the tiles of grouped.cuh.
#include "grouped.cuh"
#include "precise.cuh"

extern "C" __global__ void __launch_bounds__(256, 4) gemv_grouped_bf16(const __grid_constant__ Linear p) { gemv<GROUPED>(p); }
extern "C" __global__ void __launch_bounds__(256) gemv_grouped_f32(const __grid_constant__ Linear p) { precise<GROUPED>(p); }
