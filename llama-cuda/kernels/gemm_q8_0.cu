// gemm over Q8_0 weights: see gemm.cuh.
#include "q8_0.cuh"
#include "gemm.cuh"

GEMM_KERNELS(q8_0, Q8_0)
