// gemm over F32 weights: see gemm.cuh.
#include "f32.cuh"
#include "gemm.cuh"

GEMM_KERNELS(f32, F32)
