// The persistent kernel for the kinds of attention that need more registers: persistent.cuh.
#include "persistent.cuh"

extern "C" __global__ void __launch_bounds__(256, 1) persistent_wide(const __grid_constant__ Program program) {
    interpret<true>(program);
}
