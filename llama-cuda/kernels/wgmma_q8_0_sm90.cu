// gemm by wgmma over Q8_0 weights: see wgmma.cuh.
#include "q8_0.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(q8_0, Q8_0)
