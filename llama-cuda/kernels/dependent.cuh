// Programmatic dependent launch (Hopper and later): a kernel may begin while the one before it in the stream still runs,
// and do everything that does not depend on it, above all fetch weights.
//
// `begin_dependents` lets the kernel after this one begin; it changes nothing about what that kernel may read.
// `wait_for_earlier` returns when everything earlier kernels wrote can be seen. Where the host did not ask for such a
// launch, and on older devices, both do nothing. Source: PTX ISA 9.7.13.13, griddepcontrol.
#pragma once

__device__ __forceinline__ void begin_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
