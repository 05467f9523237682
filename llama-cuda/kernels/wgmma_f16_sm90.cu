// gemm by wgmma over F16 weights: see wgmma.cuh.
#include "f16.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(f16, F16)
