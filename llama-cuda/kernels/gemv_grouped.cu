// gemv over GROUPED weights: gemv.cuh with the tiles of grouped.cuh.
#include "gemv.cuh"
#include "grouped.cuh"

extern "C" __global__ void __launch_bounds__(256, 4) gemv_grouped_bf16(const __grid_constant__ Linear p) { gemv<GROUPED>(p); }
