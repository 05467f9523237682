// gemm by wgmma over Q6_K weights: see wgmma.cuh.
#include "q6_k.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(q6_k, Q6_K)
