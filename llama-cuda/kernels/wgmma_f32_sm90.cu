// gemm by wgmma over F32 weights: see wgmma.cuh.
#include "f32.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(f32, F32)
