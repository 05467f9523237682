// gemm over Q5_K weights: see gemm.cuh.
#include "q5_k.cuh"
#include "gemm.cuh"

GEMM_KERNELS(q5_k, Q5_K)
