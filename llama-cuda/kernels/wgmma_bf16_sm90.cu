// gemm by wgmma over BF16 weights: see wgmma.cuh.
#include "bf16.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(bf16, BF16)
