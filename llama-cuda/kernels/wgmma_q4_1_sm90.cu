// gemm by wgmma over Q4_1 weights: see wgmma.cuh.
#include "q4_1.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(q4_1, Q4_1)
