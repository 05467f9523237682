// gemm by wgmma over GROUPED weights: see wgmma.cuh.
#include "grouped.cuh"
#include "wgmma.cuh"

WGMMA_KERNEL(grouped, GROUPED)
