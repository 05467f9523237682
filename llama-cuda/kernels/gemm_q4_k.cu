// gemm over Q4_K weights: see gemm.cuh.
#include "q4_k.cuh"
#include "gemm.cuh"

GEMM_KERNELS(q4_k, Q4_K)
