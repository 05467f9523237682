// gemm over Q4_1 weights: see gemm.cuh.
#include "q4_1.cuh"
#include "gemm.cuh"

GEMM_KERNELS(q4_1, Q4_1)
