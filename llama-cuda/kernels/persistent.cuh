// A whole step of decode in one launch: the operations of 1 to 4 sequences as a list in memory, interpreted by blocks that
// stay, so that no launch, no drain and no ramp lie between an operation and the next.
//
// persistent, persistent_wide (by what attention needs: see below)
//   thread  what it is in the kernel of the instruction's kind
//   warp    likewise
//   block   tasks blockIdx, blockIdx + gridDim, ... of every instruction, with the task functions of the kernels themselves:
//           the same bits as separate launches, by construction. 256 threads; dynamic shared memory: the most that any
//           instruction of the list wants
//   grid    as many blocks as the device holds at once (the barrier needs all of them alive: a cooperative launch)
//   bytes   those of the operations; the list itself is 208 bytes an instruction
//   floor   bytes of the weights / memory bandwidth; beside it an instruction costs a barrier and the work of its slowest
//           block, while memory is kept busy as below
//   order   the operations'; every instruction begins when all tasks of the one before are done
//
// Weights do not depend on anything that is computed. So when a block is done with a linear it asks for the weights that it
// will read first in the next linear, LEAD bytes of each warp's segment, and they come to L2 while the block waits at the
// barrier, while attention runs on the few blocks it has work for, and while the next linear stages its inputs. The next
// instruction, too, is fetched while this one runs.
//
// Registers. The kernel has as many as its hungriest kind. `persistent` keeps to 128, so that two blocks fit a
// multiprocessor; the kinds of attention that spill there (heads of 256, and of 128 in e4m3) are in `persistent_wide`, which
// has one block. And whatever is alive over the switch is alive over all of its kinds. Three things were, and are not:
//   - a register that is written under one condition and read under another counts as alive from the kernel's beginning;
//     the weights on their way (Stream) are therefore zero before they are fetched;
//   - what the loop itself needs to know is kept in shared memory;
//   - arithmetic on the lane's number, the same in every turn, would be lifted out of the loop, for all kinds at once. A
//     loop that can also be entered in its middle is no loop to an optimiser, so it has a second way in: see `interpret`.
//
// Source: "Look Ma, No Bubbles!" (Hazy Research 2025): a Llama in one kernel that interprets instructions, one kind of which
// is enough for a layer's operation; theirs counts dependencies finely, ours has a barrier an instruction.
#pragma once
#include "bf16.cuh"
#include "f16.cuh"
#include "f32.cuh"
#include "gemv.cuh"
#include "grid_barrier.cuh"
#include "grouped.cuh"
#include "norm.cuh"
#include "q4_0.cuh"
#include "q4_1.cuh"
#include "q4_k.cuh"
#include "q5_k.cuh"
#include "q6_k.cuh"
#include "q8_0.cuh"
#include "rope.cuh"
#include "swiglu_task.cuh"
#include "take_rows.cuh"

// Attention and linears have names in common, of different things.
namespace attention {
#include "attention_decode.cuh"
}

// src/persistent.rs has the same numbers and fields.
enum Kind : u32 {
    KIND_NORM = 0,
    KIND_SWIGLU = 1,
    KIND_TAKE_ROWS = 2,
    KIND_ATTENTION_BF16_64 = 3,
    KIND_ATTENTION_BF16_128 = 4,
    KIND_ATTENTION_E4M3_64 = 5,
    KIND_ATTENTION_E4M3_128 = 6, // from here on in persistent_wide
    KIND_ATTENTION_BF16_256 = 7,
    KIND_ATTENTION_E4M3_256 = 8,
    KIND_LINEAR = 16, // + the format
};

// Formats by number; those with groups of 16 come last.
enum Form : u32 {
    FORM_F32 = 0,
    FORM_F16 = 1,
    FORM_BF16 = 2,
    FORM_Q8_0 = 3,
    FORM_Q4_0 = 4,
    FORM_Q4_1 = 5,
    FORM_Q4_K = 6,
    FORM_Q5_K = 7,
    FORM_Q6_K = 8,
    FORM_GROUPED = 9,
};

constexpr u32 PARAM_BYTES = 160;
constexpr u32 LEAD = 4096; // bytes of a warp's segment that are fetched ahead
constexpr u32 LINE = 128;   // bytes that one prefetch brings

// A launch as a separate kernel would get it, and what to fetch when it is done.
struct __align__(16) Instruction {
    u32 kind;
    u32 x, y, z;        // grid of the separate launch; of a linear, the blocks that have row groups
    const u8* ahead;    // the weights of the next linear, if it is this instruction's to fetch them, or null
    u32 ahead_groups;   // row groups that are some block's first
    u32 ahead_tiles;    // tiles of a row group
    u32 ahead_bytes;    // bytes of a tile
    u32 left;           // instructions that follow
    u32 unused[2];
    u8 params[PARAM_BYTES]; // of the separate kernel

    template <class P>
    __device__ __forceinline__ const P& as() const {
        static_assert(sizeof(P) <= PARAM_BYTES, "a parameter must fit");
        return *reinterpret_cast<const P*>(params);
    }
    __device__ __forceinline__ u32 tasks() const { return x * y * z; }
};

struct Program {
    const Instruction* list;
    GridBarrier* barrier;
    u32 count, unused;
};

// The formats' inputs differ in nothing but their groups.
template <u32 SIZE>
struct GroupsOf {
    static constexpr u32 GROUP = SIZE, INPUTS = 64;
    static constexpr bool SCALED = false;
};

// The block's row groups: gemv.cuh's kernel after its inputs. `column`: this lane's.
template <class F>
__device__ __forceinline__ void multiply(const Linear& p, const bf16* column, Meeting& meeting) {
    u32 row_group = blockIdx.x;
    Stream<F> stream = {}; // see the top
    open(stream, p, row_group);
    const u32 first = segment_start(threadIdx.x / WARP, tiles_of<F>(p)) * F::INPUTS;
    const bf16* x = column + first + first_input<F>(0, threadIdx.x % 4);
#pragma unroll 1
    for (; row_group < row_groups_of(p); row_group += gridDim.x) {
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        drain(sum, stream, x);
        open(stream, p, row_group + gridDim.x);
        leave(meeting, sum);
        meet(p, row_group, 0, meeting);
    }
}

__device__ __forceinline__ void linear(const Instruction& now, u8* bytes) {
    const Linear& p = now.as<Linear>();
    const u32 form = now.kind - KIND_LINEAR;
    Meeting& meeting = *reinterpret_cast<Meeting*>(bytes);
    bf16* staged = reinterpret_cast<bf16*>(bytes + sizeof(Meeting));
    const bf16* column = form < FORM_Q6_K ? take_column<GroupsOf<32>>(p, 0, meeting, staged)
                                          : take_column<GroupsOf<16>>(p, 0, meeting, staged);
    switch (form) {
    case FORM_F32: return multiply<F32>(p, column, meeting);
    case FORM_F16: return multiply<F16>(p, column, meeting);
    case FORM_BF16: return multiply<BF16>(p, column, meeting);
    case FORM_Q8_0: return multiply<Q8_0>(p, column, meeting);
    case FORM_Q4_0: return multiply<Q4_0>(p, column, meeting);
    case FORM_Q4_1: return multiply<Q4_1>(p, column, meeting);
    case FORM_Q4_K: return multiply<Q4_K>(p, column, meeting);
    case FORM_Q5_K: return multiply<Q5_K>(p, column, meeting);
    case FORM_Q6_K: return multiply<Q6_K>(p, column, meeting);
    case FORM_GROUPED: return multiply<GROUPED>(p, column, meeting);
    }
}

template <class Kv, u32 D>
__device__ __forceinline__ void attend(const Instruction& now, u32 task, u8* bytes) {
    const u32 run = task % now.x, tile = task / now.x % now.y, token = task / now.x / now.y;
    attention::attention_decode<Kv, D, true>(now.as<Attention>(), run, tile, token, bytes);
}

template <bool WIDE>
__device__ __forceinline__ void attend_by_kind(const Instruction& now, u32 task, u8* bytes) {
    if constexpr (WIDE) {
        if (now.kind == KIND_ATTENTION_E4M3_128) return attend<E4m3, 128>(now, task, bytes);
        if (now.kind == KIND_ATTENTION_BF16_256) return attend<bf16, 256>(now, task, bytes);
        if (now.kind == KIND_ATTENTION_E4M3_256) return attend<E4m3, 256>(now, task, bytes);
    } else {
        if (now.kind == KIND_ATTENTION_BF16_64) return attend<bf16, 64>(now, task, bytes);
        if (now.kind == KIND_ATTENTION_BF16_128) return attend<bf16, 128>(now, task, bytes);
        if (now.kind == KIND_ATTENTION_E4M3_64) return attend<E4m3, 64>(now, task, bytes);
    }
}

// One task of an instruction; a linear's are done at once.
template <bool WIDE>
__device__ __forceinline__ void perform(const Instruction& now, u32 task, u8* bytes) {
    switch (now.kind) {
    case KIND_NORM: return norm_row<bf16>(now.as<Norm>(), task, reinterpret_cast<float*>(bytes));
    case KIND_SWIGLU: return swiglu_task<bf16>(now.as<SwiGlu>(), task);
    case KIND_TAKE_ROWS: return take_rows_task<bf16>(now.as<TakeRows>(), task);
    }
    if (now.kind >= KIND_LINEAR) return linear(now, bytes);
    attend_by_kind<WIDE>(now, task, bytes);
}

// Begins to bring to L2 what this warp will read first of the next linear.
__device__ __forceinline__ void fetch_ahead(const Instruction& now) {
    if (now.ahead == nullptr || blockIdx.x >= now.ahead_groups) return;
    const u32 warp = threadIdx.x / WARP, first = segment_start(warp, now.ahead_tiles);
    const u32 bytes = (segment_start(warp + 1, now.ahead_tiles) - first) * now.ahead_bytes;
    const u8* segment = now.ahead + ((u64)blockIdx.x * now.ahead_tiles + first) * now.ahead_bytes;
    for (u32 at = threadIdx.x % WARP * LINE; at < min(bytes, LEAD); at += WARP * LINE) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(segment + at));
    }
}

// Begins to copy an instruction to shared memory.
__device__ __forceinline__ void fetch_instruction(Instruction& to, const Instruction* from) {
    const u32 at = threadIdx.x * 16;
    if (at < sizeof(Instruction)) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(&to) + at),
                     "l"(reinterpret_cast<const u8*>(from) + at)
                     : "memory");
    }
}

// Makes the instruction that was fetched the one to perform. It moves in shared memory, so that its address is a constant.
__device__ __forceinline__ void take_next(Instruction& now, const Instruction& next, u32& task) {
    const u32 i = threadIdx.x;
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    if (i < sizeof(Instruction) / 16) reinterpret_cast<uint4*>(&now)[i] = reinterpret_cast<const uint4*>(&next)[i];
    if (i == 0) task = blockIdx.x;
    __syncthreads();
}

template <bool WIDE>
__device__ __forceinline__ void interpret(const Program& program) {
    __shared__ Instruction now, next;
    __shared__ u32 task;       // here and not in a register, which would be alive in all kinds
    __shared__ u32 generation; // the first thread's
    extern __shared__ __align__(1024) u8 bytes[]; // attention's tiles begin at multiples of two of their rows
    if (threadIdx.x == 0) generation = generation_of(program.barrier);
    fetch_instruction(next, program.list);
    // Never taken, as there is an instruction: the second way into the loop.
    if (program.count == 0) goto step;
    while (true) {
        take_next(now, next, task);
        if (now.left > 0) fetch_instruction(next, program.list + (program.count - now.left));
        while (task < now.tasks()) {
            perform<WIDE>(now, task, bytes);
        step:
            __syncthreads();
            if (threadIdx.x == 0) task = now.kind >= KIND_LINEAR ? now.tasks() : task + gridDim.x;
            __syncthreads();
        }
        if (now.left == 0) return;
        if (threadIdx.x == 0) arrive(program.barrier, ++generation);
        fetch_ahead(now);
        if (threadIdx.x == 0) wait(program.barrier, generation);
    }
}
