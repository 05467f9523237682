// A barrier over all blocks of a cooperative launch, in two halves, so that a block can do something in between that needs
// nobody: what was written before any block's arrive is seen after every block's wait.
//
// order   A block meets (__syncthreads), so its first thread knows what all its threads wrote; that thread counts itself in
//         with one atomic that releases this and acquires what those before it released. The last to arrive finds all
//         others counted; it sets the count back to zero and then releases the next generation, which the others poll for
//         with acquiring loads; a second __syncthreads passes what they acquired on to their blocks. The chain of atomics
//         is what makes the last one's release speak for all (PTX ISA 8.0, memory consistency model, observation and
//         causality order). Acquiring at the device's scope also drops what the multiprocessor's L1 holds.
// state   Two words, zero before the first launch. The count returns to zero by wrapping at the last arrival, and the
//         generation goes on, modulo 2^32, from launch to launch: nothing has to be reset. Every block must read the
//         generation before it first arrives; until it has arrived, nobody can go on.
// cost    One atomic a block, all on one word of L2, and two trips to L2 for who arrives last and is told: between one and
//         two microseconds on a Hopper by the latencies that are published for it; not measured here.
//
// Source: grid.sync() of CUDA's cooperative groups, which has the same shape with fences and a bit that flips.
#pragma once
#include "common.cuh"

struct GridBarrier {
    u32 arrived, generation;
};

__device__ __forceinline__ u32 generation_of(const GridBarrier* barrier) {
    u32 generation;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(generation) : "l"(&barrier->generation) : "memory");
    return generation;
}

// By one thread of a block that has met: the block has arrived. `next`: the generation that this barrier begins.
__device__ __forceinline__ void arrive(GridBarrier* barrier, u32 next) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(&barrier->arrived), "r"(gridDim.x - 1)
                 : "memory");
    if (before == gridDim.x - 1) {
        asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(&barrier->generation), "r"(next) : "memory");
    }
}

// By the same thread, before its block meets again: all blocks have arrived.
__device__ __forceinline__ void wait(const GridBarrier* barrier, u32 next) {
    u32 generation;
    while (true) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(generation) : "l"(&barrier->generation) : "memory");
        if (generation == next) return;
        __nanosleep(32);
    }
}
