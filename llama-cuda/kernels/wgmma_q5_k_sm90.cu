// gemm by wgmma over Q5_K weights: see wgmma.cuh.
#include "q5_k.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(q5_k, Q5_K)
