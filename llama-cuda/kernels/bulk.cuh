// Hopper's asynchronous copies: mbarriers, and bulk copies from global to shared memory that count on them.
//
// A barrier's phase ends when all expected arrivals have come and all announced bytes have landed; it is waited for by its
// parity, 0 for the first phase. Bulk copies are the asynchronous proxy's: what they bring may be read after the wait. What
// was read before an arrival may be overwritten by a copy that is issued after the phase it ends.
// Source: PTX ISA 9.7.13.15 (mbarrier), 9.7.9.27 (cp.async.bulk).
#pragma once
#include "common.cuh"

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void init_barrier(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Initialised barriers become visible to the copies; a block-wide barrier shows them to the other threads.
__device__ __forceinline__ void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives and announces bytes.
__device__ __forceinline__ void arrive_expecting(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void wait_for_phase(u64* barrier, u32 parity) {
    u32 done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    } while (!done);
}

// `bytes`, a multiple of 16, from global to shared memory.
__device__ __forceinline__ void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}

// A ring of slots that one side fills and the other empties; each side walks it with its own Place.
template <u32 SLOTS>
struct Ring {
    u64 full[SLOTS], empty[SLOTS];
};

template <u32 SLOTS>
struct Place {
    u32 slot = 0, parity = 0;

    __device__ __forceinline__ void next() {
        if (++slot == SLOTS) slot = 0, parity ^= 1;
    }
};
