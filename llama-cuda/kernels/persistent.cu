// The persistent kernel whose registers leave room for two blocks on a multiprocessor: persistent.cuh.
#include "persistent.cuh"

extern "C" __global__ void __launch_bounds__(256, 2) persistent(const __grid_constant__ Program program) {
    interpret<false>(program);
}
