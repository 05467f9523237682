// gemm by wgmma over Q4_0 weights: see wgmma.cuh.
#include "q4_0.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(q4_0, Q4_0)
