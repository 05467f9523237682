// gemm by wgmma over Q4_K weights: see wgmma.cuh.
#include "q4_k.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(q4_k, Q4_K)
