// gemm over F16 weights: see gemm.cuh.
#include "f16.cuh"
#include "gemm.cuh"

GEMM_KERNELS(f16, F16)
