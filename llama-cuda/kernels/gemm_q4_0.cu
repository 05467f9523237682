// gemm over Q4_0 weights: see gemm.cuh.
#include "q4_0.cuh"
#include "gemm.cuh"

GEMM_KERNELS(q4_0, Q4_0)
