// gemm over Q6_K weights: see gemm.cuh.
#include "q6_k.cuh"
#include "gemm.cuh"

GEMM_KERNELS(q6_k, Q6_K)
