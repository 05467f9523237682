// gemm over bf16 weights: see gemm.cuh.
#include "bf16.cuh"
#include "gemm.cuh"

GEMM_KERNELS(bf16, BF16)
