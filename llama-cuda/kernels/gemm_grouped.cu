// gemm over GROUPED weights: see gemm.cuh.
#include "grouped.cuh"
#include "gemm.cuh"

GEMM_KERNELS(grouped, GROUPED)
