// How a block of attention moves k and v: whole units of 64 positions, through the block table, into tiles of bf16 in shared
// memory, a unit ahead of their use.
//
// Three tiles go round: while a unit's k is used its v is under way, and while its v is used the next unit's k is. Of bf16
// each thread copies 16-byte chunks with cp.async, a group of copies a tile. Of e4m3 it holds the next unit's chunks in
// registers and writes them as bf16 when they are due. Either way:
//
//     finish(k); barrier; begin(next k); use k; finish(v); barrier; begin(next v); use v
//
// and a tile is written only after a barrier that follows its last use. Positions that no row may see are zeros: they get
// no weight, but zero times whatever an old block holds might be NaN.
#pragma once
#include "rope.cuh"

constexpr u32 UNIT = 64, THREADS = 256, WARPS = 8, TILES = 3, NOWHERE = 0xffffffffu, NO_SEQUENCE = 0xffffffffu;

// Addresses of shared memory are 32 bits here: half the registers of a pointer.
__device__ __forceinline__ u32 shared_address(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

// The same value, which the compiler takes for another: what was computed from the first is not kept for the second.
__device__ __forceinline__ u32 anew(u32 value) {
    asm volatile("" : "+r"(value));
    return value;
}

__device__ __forceinline__ void store_shared(u32 at, u16 value) {
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(value) : "memory");
}
__device__ __forceinline__ void store_shared(u32 at, u32 value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(value) : "memory");
}
__device__ __forceinline__ void store_shared(u32 at, const uint4& value) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
                 : "memory");
}
__device__ __forceinline__ void store_shared_if(bool wanted, u32 at, uint2 low, uint2 high) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.shared.v4.u32 [%1], {%2,%3,%4,%5}; }" ::"r"((u32)wanted),
                 "r"(at), "r"(low.x), "r"(low.y), "r"(high.x), "r"(high.y)
                 : "memory");
}
__device__ __forceinline__ uint4 load_shared(u32 at) {
    uint4 value;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(at)
                 : "memory");
    return value;
}

// Copies 16 bytes, or zeros if they are not inside; nothing at all if that is not wanted. Predicates, not branches: the
// instructions around a copy can move past it.
__device__ __forceinline__ void copy_16_bytes_if(bool wanted, u32 shared, const void* global, bool inside) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p cp.async.cg.shared.global [%1], [%2], 16, %3; }" ::"r"(
                     (u32)wanted),
                 "r"(shared), "l"(global), "r"(inside ? 16 : 0)
                 : "memory");
}
// 16 bytes from L2, or zeros.
__device__ __forceinline__ uint4 load_16_bytes_if(bool inside, const void* global) {
    uint4 value;
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %4, 0; mov.u32 %0, 0; mov.u32 %1, 0; mov.u32 %2, 0; mov.u32 %3, 0; "
                 "@p ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%5]; }"
                 : "=&r"(value.x), "=&r"(value.y), "=&r"(value.z), "=&r"(value.w)
                 : "r"((u32)inside), "l"(global)
                 : "memory");
    return value;
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_for_all_but_the_last_group() {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

// Rows of D bf16 in shared memory. Chunks of 16 bytes are permuted by the row's number, so that one chunk of 8 rows, which is
// what ldmatrix reads at a time, lies in different banks. A tile lies at a multiple of 2 D bytes, so the chunks of a row are
// an exclusive or away from its first.
template <u32 D>
struct Tile {
    u32 address;
    __device__ __forceinline__ u32 row(u32 row) const { return address + row * (2 * D) + row % 8 * 16; }
    __device__ __forceinline__ u32 chunk(u32 r, u32 chunk) const { return row(r) ^ chunk * 16; }
    __device__ __forceinline__ u32 element(u32 r, u32 column) const {
        return chunk(r, column / 8) + column % 8 * 2;
    }
};

// The tiles of k and v that a unit uses, and a third.
template <u32 D>
struct Ring {
    Tile<D> k, v, next_k;
    __device__ __forceinline__ Tile<D> next_v() const { return k; }
    __device__ __forceinline__ Ring turned() const { return {next_k, k, v}; }
    static constexpr u32 BYTES = TILES * UNIT * D * 2;
    static __device__ __forceinline__ Ring at(u32 address) {
        return {{address}, {address + UNIT * D * 2}, {address + 2 * UNIT * D * 2}};
    }
};

// The positions of a sequence that are read: from first to before end. The row of `fresh` is put into its tile by others.
struct Context {
    const u32* table;
    u32 first, end, fresh;
};

// One kv head of k and v as the threads of a block share them.
template <class Kv, u32 D>
struct Reader {
    static constexpr u32 CHUNK = 16 / sizeof(Kv), CHUNKS = D / CHUNK, ROWS = THREADS / CHUNKS, COPIES = UNIT / ROWS;
    static constexpr u32 IDS = COPIES < 4 ? COPIES : 4, EACH = COPIES / IDS;
    Context context;
    const Kv *k, *v;      // of the kv head, in block 0
    u32 block_elements;
    u32 ids[IDS];         // the blocks that hold this thread's rows of the unit located last

    __device__ __forceinline__ Reader(const Attention& p, const Context& context, u32 kv_head)
        : context(context), block_elements(p.shape.kv_heads * BLOCK_TOKENS * D) {
        k = static_cast<const Kv*>(p.k) + kv_head * BLOCK_TOKENS * D;
        v = static_cast<const Kv*>(p.v) + kv_head * BLOCK_TOKENS * D;
    }

    static __device__ __forceinline__ u32 row(u32 i) { return threadIdx.x / CHUNKS + i * ROWS; }
    static __device__ __forceinline__ u32 chunk() { return threadIdx.x % CHUNKS; }

    // Looks up a unit's blocks, so that its copies need not wait for them.
    __device__ __forceinline__ void locate(u32 unit) {
#pragma unroll
        for (u32 i = 0; i < IDS; i++) {
            const u32 index = (unit * UNIT + row(i * EACH)) / BLOCK_TOKENS;
            ids[i] = index * BLOCK_TOKENS < context.end ? __ldg(context.table + index) : 0;
        }
    }

    __device__ __forceinline__ bool inside(u32 position) const {
        return (position >= context.first) & (position < context.end);
    }
    __device__ __forceinline__ const Kv* address(const Kv* head, u32 i, u32 block_elements) const {
        return head + ((u64)ids[i / EACH] * block_elements + row(i) % BLOCK_TOKENS * D + chunk() * CHUNK);
    }
};

template <class Kv, u32 D>
struct Loader;

template <u32 D>
struct Loader<bf16, D> : Reader<bf16, D> {
    typedef Reader<bf16, D> Base;
    using Base::Base;
    static constexpr bool HOLDS = false; // the next unit in registers
    struct Held {};

    // Begins to copy a unit of k or v (`head`), if there is one.
    __device__ __forceinline__ void begin(Held&, const bf16* head, u32 unit, bool exists, Tile<D> to) const {
        const u32 elements = anew(this->block_elements), first = anew(unit * UNIT);
#pragma unroll
        for (u32 i = 0; i < Base::COPIES; i++) {
            const u32 position = first + Base::row(i);
            copy_16_bytes_if(exists & (position != this->context.fresh), to.chunk(Base::row(i), Base::chunk()),
                             this->address(head, i, elements), this->inside(position));
        }
        commit_copies();
    }
    // This thread's copies of the tile begun before the last one are complete.
    __device__ __forceinline__ void finish(const Held&, u32, Tile<D>) const { wait_for_all_but_the_last_group(); }
};

template <u32 D>
struct Loader<E4m3, D> : Reader<E4m3, D> {
    typedef Reader<E4m3, D> Base;
    using Base::Base;
    static constexpr bool HOLDS = true;
    struct Held {
        uint4 codes[Base::COPIES];
    };

    __device__ __forceinline__ void begin(Held& held, const E4m3* head, u32 unit, bool exists, Tile<D>) const {
        const u32 elements = anew(this->block_elements), first = anew(unit * UNIT);
#pragma unroll
        for (u32 i = 0; i < Base::COPIES; i++) {
            const bool inside = exists & this->inside(first + Base::row(i));
            held.codes[i] = load_16_bytes_if(inside, this->address(head, i, elements));
        }
    }
    __device__ __forceinline__ void finish(const Held& held, u32 unit, Tile<D> to) const {
#pragma unroll
        for (u32 i = 0; i < Base::COPIES; i++) {
            const u32 row = Base::row(i), chunk = 2 * Base::chunk();
            const bool wanted = unit * UNIT + row != this->context.fresh;
            const uint2 a = bf16_of_e4m3(held.codes[i].x), b = bf16_of_e4m3(held.codes[i].y);
            const uint2 c = bf16_of_e4m3(held.codes[i].z), d = bf16_of_e4m3(held.codes[i].w);
            store_shared_if(wanted, to.chunk(row, chunk), a, b);
            store_shared_if(wanted, to.chunk(row, chunk + 1), c, d);
        }
    }
};
