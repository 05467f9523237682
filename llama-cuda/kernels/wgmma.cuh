// A matrix times many columns by wgmma, for sm_90a: the shared frame of every wgmma_*_sm90.cu.
//
// Weights are the A operand, dequantised into registers: the fragment of m64n128k16 is four warps' fragments of m16n8k16,
// so the tiles that gemv reads serve as they are. Activations are the B operand in shared memory, packed beforehand by
// pack_sm90.cu in the order of those tiles and with the 128-byte swizzle, so that a chunk of 64 inputs of 128 columns is
// one bulk copy; `p.input` is what it packed, `p.gather` is not looked at. An output element goes through the same
// operations in the same order as in gemv and gemm.
//
// thread  128 producers (one of which works) and 256 consumers
// warp    a consumer has 16 rows x 128 columns: 64 sums, and 64 dots where there are scales
// block   128 rows x 128 columns at a time: two warpgroups of 64 rows. One block an SM; it takes every gridDim-th task, and
//         the producer runs ahead into the next task while the consumers write
// grid    min(tasks, multiprocessors); tasks as in gemm.cuh, 16 column tiles side by side
// bytes   as gemm's wide shape
// floor   2 rows columns inputs / the rate of wgmma: a warpgroup's m64n128k16 keeps the SM's tensor cores for 64 cycles.
//         For 32 inputs of nibbles a warp issues about 35 instructions to dequantise 16 rows for 128 columns and 64 fma for
//         scales (64 more for minima) in the 256 cycles that both warpgroups' wgmma take: while one warpgroup scales, the
//         other multiplies. B is read by each warpgroup: 4 KiB in 64 cycles, half of what shared memory delivers.
// order   tiles in 8 segments as in gemv; the sum of a segment in registers, the total in shared memory. The bits are gemv's
//         as far as a device's wgmma adds 16 products as its mma does, which the ISA leaves open: to be seen on each device
#pragma once
#include "bulk.cuh"
#include "dependent.cuh"
#include "format.cuh"
#include "packed.cuh"
#include "params.cuh"

constexpr u32 WARPGROUP = 128, CONSUMERS = 2, WGMMA_THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr u32 WGMMA_ROWS = 128, ROW_GROUPS = WGMMA_ROWS / TILE_ROWS, SUMS = PACKED_COLUMNS / 2;
constexpr u32 SEGMENTS = 8, BAND = 16;

// Sizes for a format, and the block's shared memory. The host asks for SHARED bytes.
template <typename F>
struct Sizes {
    static constexpr u32 CHUNKS = F::INPUTS / CHUNK, GROUPS = CHUNK / F::GROUP;
    static constexpr u32 WEIGHT_BYTES = ROW_GROUPS * F::TILE_BYTES, INPUT_BYTES = packed_bytes(F::GROUP, F::MIN);
    static constexpr u32 TOTAL_BYTES = CONSUMERS * WARPGROUP * SUMS * 4, BARRIER_BYTES = 512;
    static constexpr u32 ROOM = 227 * 1024 - TOTAL_BYTES - BARRIER_BYTES;
    static constexpr u32 FIT =
        CHUNKS > 1 ? (ROOM - 2 * WEIGHT_BYTES) / INPUT_BYTES : ROOM / (WEIGHT_BYTES + INPUT_BYTES);
    static constexpr u32 STAGES = FIT < 6 ? FIT : 6, WEIGHT_STAGES = CHUNKS > 1 ? 2 : STAGES;
    static constexpr u32 WEIGHTS_AT = STAGES * INPUT_BYTES, TOTALS_AT = WEIGHTS_AT + WEIGHT_STAGES * WEIGHT_BYTES;
    static constexpr u32 BARRIERS_AT = TOTALS_AT + TOTAL_BYTES, SHARED = BARRIERS_AT + BARRIER_BYTES;
    // What is multiplied between two waits: a group where its dot is scaled, else a chunk.
    static constexpr u32 STEPS = F::SCALED ? F::GROUP / 16 : CHUNK / 16, UNITS = CHUNK / 16 / STEPS;
};

template <typename F>
struct Barriers {
    Ring<Sizes<F>::WEIGHT_STAGES> weights;
    Ring<Sizes<F>::STAGES> inputs;
};

// The tasks of a linear, in order.
struct Tasks {
    u32 row_tiles, column_tiles;

    __device__ __forceinline__ explicit Tasks(const Linear& p)
        : row_tiles((p.rows + WGMMA_ROWS - 1) / WGMMA_ROWS),
          column_tiles((p.columns + PACKED_COLUMNS - 1) / PACKED_COLUMNS) {}

    __device__ __forceinline__ u32 count() const { return row_tiles * column_tiles; }

    __device__ __forceinline__ uint2 tile(u32 task) const {
        const u32 band = task / (BAND * row_tiles), within = task % (BAND * row_tiles);
        const u32 width = min(BAND, column_tiles - band * BAND);
        return make_uint2(within / width, band * BAND + within % width);
    }
};

template <typename F>
__device__ __forceinline__ u32 tiles_along(const Linear& p) { return (p.inputs + F::INPUTS - 1) / F::INPUTS; }

// One thread copies everything, as soon as there is room.
template <typename F>
struct Producer {
    using S = Sizes<F>;
    const Linear& p;
    u8* shared;
    Barriers<F>* barriers;
    Place<S::WEIGHT_STAGES> weights;
    Place<S::STAGES> inputs;

    // Row groups past the last one copy the last one again: their outputs are not written.
    __device__ __forceinline__ void copy_weights(u32 row_tile, u32 tile) {
        u64* full = &barriers->weights.full[weights.slot];
        wait_for_phase(&barriers->weights.empty[weights.slot], weights.parity ^ 1);
        arrive_expecting(full, S::WEIGHT_BYTES);
        u8* slot = shared + S::WEIGHTS_AT + weights.slot * S::WEIGHT_BYTES;
        const u32 last = (p.rows - 1) / TILE_ROWS, tiles = tiles_along<F>(p);
#pragma unroll 1
        for (u32 i = 0; i < ROW_GROUPS; i++) {
            const u32 row_group = min(row_tile * ROW_GROUPS + i, last);
            const u8* from = p.weights + ((u64)row_group * tiles + tile) * F::TILE_BYTES;
            copy_bulk(slot + i * F::TILE_BYTES, from, F::TILE_BYTES, full);
        }
        weights.next();
    }

    __device__ __forceinline__ void copy_inputs(u32 column_tile, u32 chunk) {
        u64* full = &barriers->inputs.full[inputs.slot];
        wait_for_phase(&barriers->inputs.empty[inputs.slot], inputs.parity ^ 1);
        arrive_expecting(full, S::INPUT_BYTES);
        const u64 at = (u64)column_tile * tiles_along<F>(p) * S::CHUNKS + chunk;
        const u8* from = static_cast<const u8*>(p.input) + at * S::INPUT_BYTES;
        copy_bulk(shared + inputs.slot * S::INPUT_BYTES, from, S::INPUT_BYTES, full);
        inputs.next();
    }

    __device__ __forceinline__ void run() {
        const Tasks tasks(p);
        const u32 tiles = tiles_along<F>(p);
        bool waited = false;
        for (u32 task = blockIdx.x; task < tasks.count(); task += gridDim.x) {
            const uint2 at = tasks.tile(task);
            for (u32 tile = 0; tile < tiles; tile++) {
                copy_weights(at.x, tile);
                if (!waited) wait_for_earlier(), waited = true;
                for (u32 part = 0; part < S::CHUNKS; part++) copy_inputs(at.y, tile * S::CHUNKS + part);
            }
        }
    }
};

// d (+)= a b for 64 rows, 128 columns and 16 inputs, asynchronously.
template <bool FROM_ZERO>
__device__ __forceinline__ void wgmma(float (&d)[SUMS], const Fragment& a, u64 b) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.ne.b32 more, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, more, 1, 1, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "l"(b), "n"(FROM_ZERO ? 0 : 1));
}

// Registers written so far may be read by the wgmma that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// Inputs 16 step .. 16 step + 15 of a packed chunk: 128 columns, rows of 128 bytes, eight of them 1,024 bytes apart, 128-byte
// swizzle (PTX ISA 9.7.15.5.1, matrix descriptor).
__device__ __forceinline__ u64 inputs_descriptor(const u8* chunk, u32 step) {
    return (u64)((shared_address(chunk) & 0x3ffff) >> 4) + step * 2 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// A warp's weights of one unit.
template <typename F>
struct Unit {
    static constexpr u32 STEPS = Sizes<F>::STEPS;
    Fragment leading[STEPS], rest[F::SPLIT ? STEPS : 1];
    float2 scale, min;

    __device__ __forceinline__ void load(const u8* tile, u32 lane, u32 unit) {
        const typename F::Tile t = F::template load<Shared>(tile, lane);
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) {
            leading[i] = F::fragment(t, unit * STEPS + i);
            if constexpr (F::SPLIT) rest[i] = F::rest(t, unit * STEPS + i);
        }
        if constexpr (F::SCALED) scale = F::scale(t, unit);
        if constexpr (F::MIN) min = F::min(t, unit);
    }

    // Takes over another's fragments in instructions of their own: ptxas lets wgmma run on only if nothing else defines the
    // registers they read before they are waited for.
    __device__ __forceinline__ void take(const Unit& other) {
        *this = other;
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) {
            move(leading[i], other.leading[i]);
            if constexpr (F::SPLIT) move(rest[i], other.rest[i]);
        }
    }

    __device__ __forceinline__ static void move(Fragment& to, const Fragment& from) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) asm volatile("mov.b32 %0, %1;" : "=r"(to.pair[i]) : "r"(from.pair[i]));
    }

    // d = or += this . inputs; `step` is the unit's first in the chunk.
    __device__ __forceinline__ void multiply(float (&d)[SUMS], const u8* inputs, u32 step) const {
        wgmma_fence();
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) {
            const u64 b = inputs_descriptor(inputs, step + i);
            if (F::SCALED && i == 0) wgmma<true>(d, leading[i], b);
            else wgmma<false>(d, leading[i], b);
            if constexpr (F::SPLIT) wgmma<false>(d, rest[i], b);
        }
        wgmma_commit();
    }

    // sum += scale * dot + min * (sum of inputs), as gemv does it; `ones` are the sums of the lane's first two columns.
    __device__ __forceinline__ void add_scaled(float (&sum)[SUMS], const float (&dot)[SUMS], const float* ones) const {
#pragma unroll
        for (u32 j = 0; j < SUMS; j += 4) {
            float2 of = make_float2(0.0f, 0.0f);
            if constexpr (F::MIN) of = *reinterpret_cast<const float2*>(ones + j * 2);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                sum[j + i] = fmaf(i < 2 ? scale.x : scale.y, dot[j + i], sum[j + i]);
                if constexpr (F::MIN) sum[j + i] = fmaf(i < 2 ? min.x : min.y, i % 2 ? of.y : of.x, sum[j + i]);
            }
        }
    }
};

// A warp of a consumer warpgroup.
template <typename F>
struct Consumer {
    using S = Sizes<F>;
    const Linear& p;
    u8* shared;
    Barriers<F>* barriers;
    float4* totals; // of this thread, WARPGROUP * CONSUMERS apart
    u32 lane, row_group; // in the block
    Place<S::WEIGHT_STAGES> weights;
    Place<S::STAGES> inputs;
    float sum[SUMS], dot[F::SCALED ? SUMS : 1];

    __device__ __forceinline__ Consumer(const Linear& linear, u8* memory, Barriers<F>* b)
        : p(linear), shared(memory), barriers(b) {
        const u32 thread = threadIdx.x - WARPGROUP;
        totals = reinterpret_cast<float4*>(memory + S::TOTALS_AT) + thread;
        lane = thread % WARP, row_group = thread / WARP;
#pragma unroll
        for (u32 i = 0; F::SCALED && i < SUMS; i++) dot[i] = 0.0f;
    }

    __device__ __forceinline__ void start_tile(Unit<F>& unit) {
        wait_for_phase(&barriers->weights.full[weights.slot], weights.parity);
        unit.load(tile(), lane, 0);
    }

    __device__ __forceinline__ const u8* tile() const {
        return shared + S::WEIGHTS_AT + weights.slot * S::WEIGHT_BYTES + row_group * F::TILE_BYTES;
    }

    // Every lane has read what it needs of a slot.
    __device__ __forceinline__ void release(u64* empty) const {
        __syncwarp();
        if (lane == 0) arrive(empty);
    }

    __device__ __forceinline__ void release_tile() {
        release(&barriers->weights.empty[weights.slot]);
        weights.next();
    }

    // One tile: while a unit is multiplied the next one is dequantised, at the end that of the next tile.
    __device__ __forceinline__ void multiply_tile(Unit<F>& unit, bool more) {
#pragma unroll
        for (u32 part = 0; part < S::CHUNKS; part++) {
            const u8* chunk = shared + inputs.slot * S::INPUT_BYTES;
            wait_for_phase(&barriers->inputs.full[inputs.slot], inputs.parity);
#pragma unroll
            for (u32 i = 0; i < S::UNITS; i++) {
                Unit<F> next = {}; // not `unit`, whose registers are being read
                unit.multiply(F::SCALED ? *reinterpret_cast<float(*)[SUMS]>(dot) : sum, chunk, i * S::STEPS);
                if (part * S::UNITS + i + 1 < S::CHUNKS * S::UNITS) {
                    next.load(tile(), lane, part * S::UNITS + i + 1);
                } else {
                    release_tile();
                    if (more) start_tile(next);
                }
                wgmma_wait();
                const float* sums = reinterpret_cast<const float*>(chunk + INPUT_TILE_BYTES);
                const float* ones = sums + i * PACKED_COLUMNS + lane % 4 * 2;
                if constexpr (F::SCALED) unit.add_scaled(sum, *reinterpret_cast<float(*)[SUMS]>(dot), ones);
                unit.take(next);
            }
            release(&barriers->inputs.empty[inputs.slot]);
            inputs.next();
        }
    }

    __device__ __forceinline__ void end_segment(bool first) {
#pragma unroll
        for (u32 i = 0; i < SUMS / 4; i++) {
            float4 t = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (!first) t = totals[i * WARPGROUP * CONSUMERS];
            t.x += sum[4 * i], t.y += sum[4 * i + 1], t.z += sum[4 * i + 2], t.w += sum[4 * i + 3];
            totals[i * WARPGROUP * CONSUMERS] = t;
            sum[4 * i] = sum[4 * i + 1] = sum[4 * i + 2] = sum[4 * i + 3] = 0.0f;
        }
    }

    __device__ __forceinline__ void run() {
        const Tasks tasks(p);
        const u32 tiles = tiles_along<F>(p);
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) sum[i] = 0.0f;
        for (u32 task = blockIdx.x; task < tasks.count(); task += gridDim.x) {
            Unit<F> unit;
            start_tile(unit);
            bool first = true;
            u32 tile = 0, end = segment_end(0, tiles);
            do {
                multiply_tile(unit, tile + 1 < tiles);
                if (++tile == end) {
                    end_segment(first);
                    first = false, end = segment_end(tile, tiles);
                }
            } while (tile < tiles);
            write(tasks.tile(task));
        }
    }

    // The end of the segment that tile `tile` lies in: the first end s * tiles / 8 past it.
    __device__ __forceinline__ static u32 segment_end(u32 tile, u32 tiles) {
        u32 s = 1;
        while (s * tiles / SEGMENTS <= tile) s++;
        return s * tiles / SEGMENTS;
    }

    // Each store is of 8 rows of 4 columns: sectors of f32, halves of sectors of bf16.
    __device__ __forceinline__ void write(uint2 at) const {
        const u32 row = at.x * WGMMA_ROWS + row_group * TILE_ROWS + lane / 4;
        const u32 column = at.y * PACKED_COLUMNS + lane % 4 * 2;
#pragma unroll 1
        for (u32 i = 0; i < SUMS / 4; i += 4) {
            float value[16];
            bool inside[16];
            u64 to[16];
#pragma unroll
            for (u32 j = 0; j < 16; j++) {
                const float4 t = totals[(i + j / 4) * WARPGROUP * CONSUMERS];
                const u32 r = row + j / 2 % 2 * 8, c = column + (i + j / 4) * 8 + j % 2;
                value[j] = j % 4 == 0 ? t.x : j % 4 == 1 ? t.y : j % 4 == 2 ? t.z : t.w;
                inside[j] = r < p.rows && c < p.columns, to[j] = (u64)c * p.stride + r;
                if (p.bias && inside[j]) value[j] += p.bias[r];
            }
            put(value, inside, to);
        }
    }

    __device__ __forceinline__ void put(float (&value)[16], const bool (&inside)[16], const u64 (&to)[16]) const {
        if (p.sink == SINK_BF16) {
#pragma unroll
            for (u32 j = 0; j < 16; j++)
                if (inside[j]) static_cast<bf16*>(p.out)[to[j]] = __float2bfloat16_rn(value[j]);
            return;
        }
        float* out = static_cast<float*>(p.out);
        if (p.sink == SINK_ADD) {
#pragma unroll
            for (u32 j = 0; j < 16; j++)
                if (inside[j]) value[j] = out[to[j]] + value[j];
        }
#pragma unroll
        for (u32 j = 0; j < 16; j++)
            if (inside[j]) out[to[j]] = value[j];
    }
};

template <typename F>
__device__ __forceinline__ void init_barriers(Barriers<F>* barriers) {
    constexpr u32 READERS = CONSUMERS * WARPGROUP / WARP;
    for (u32 i = 0; i < Sizes<F>::WEIGHT_STAGES; i++) {
        init_barrier(&barriers->weights.full[i], 1);
        init_barrier(&barriers->weights.empty[i], READERS);
    }
    for (u32 i = 0; i < Sizes<F>::STAGES; i++) {
        init_barrier(&barriers->inputs.full[i], 1);
        init_barrier(&barriers->inputs.empty[i], READERS);
    }
    publish_barriers();
}

// Registers go from the producers to the consumers: 24 * 128 + 240 * 256 are those of 384 threads of 168.
template <typename F>
__device__ __forceinline__ void wgmma_block(const Linear& p, u8* shared) {
    Barriers<F>* barriers = reinterpret_cast<Barriers<F>*>(shared + Sizes<F>::BARRIERS_AT);
    if (threadIdx.x == 0) init_barriers<F>(barriers);
    __syncthreads();
    begin_dependents();
    if (threadIdx.x < WARPGROUP) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) Producer<F>{p, shared, barriers}.run();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        wait_for_earlier(); // for the residual
        Consumer<F>(p, shared, barriers).run();
    }
}

#define WGMMA_KERNEL(name, F)                                                                                          \
    extern "C" __global__ void __launch_bounds__(WGMMA_THREADS, 1) wgmma_##name##_bf16(const __grid_constant__ Linear p) { \
        extern __shared__ __align__(1024) u8 shared[];                                                                 \
        wgmma_block<F>(p, shared);                                                                                     \
    }
