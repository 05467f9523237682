// A matrix times more than 8 columns by mma.sync, for sm_80 and up: the shared frame of every gemm_*.cu.
//
// Weights are the A operand in the tiles that gemv reads, activations the B operand; an output element goes through the
// same operations in the same order as in gemv, so the choice between the two, and between the two shapes here, is not seen
// in the bits.
//
// thread  of warp (r, c) of 4 x 2: the accumulators of ROW_GROUPS x COLUMN_GROUPS mma tiles, and their totals
// warp    16 ROW_GROUPS rows x 8 COLUMN_GROUPS columns: 32 x 64 in the wide shape, 16 x 32 in the narrow one
// block   128 x 128 or 64 x 64 outputs, 256 threads; a ring of chunks of 64 inputs, filled by cp.async: columns of x as
//         they are, weights as whole tiles (of 64 inputs or of 256, four chunks)
// grid    tasks; 16 column tiles side by side before the next row tile, so that a wave of blocks shares weights in L2
// bytes   a block: (rows * bytes a weight + columns * 2) * inputs, from L2; from memory the weights once for 16 column tiles
// floor   2 rows columns inputs / the tensor cores' rate. A warp's budget for 32 inputs in the wide shape: 32 mma (8 cycles
//         of a quarter of an A100's SM each: 256), 8 16-byte loads of x serving two mma steps each, 2 to 4 of weights,
//         dequantisation of 32 rows for 64 columns (about 50 instructions for nibbles), 64 fma for scales, 64 more for
//         minima: 160 to 260 to issue while the tensor core is busy for 256. All loads of shared memory together are
//         12 KiB x 8 warps = 384 to 400 of the 512 cycles that the SM's four quarters need.
// order   tiles in 8 segments as in gemv; `sum` runs through a segment, `total` adds the segments in order
//
// Where x lies in shared memory: a column's 64 inputs are 128 bytes, all banks, in 8 pieces of 16 bytes. Formats in groups
// of 32 read 16 bytes a lane (8 inputs, two steps), 8 lanes a pass: two columns x 4 pieces; those in groups of 16 read 8
// bytes a lane, 16 lanes a pass: four columns x 2 pieces. So pieces are turned by (column mod 2) * 4 or (column mod 4) * 2.
//
// A minimum multiplies the sum of a group's inputs, which gemv takes from the tensor core by a row of ones. Here every warp
// makes its share of those sums for the whole block, one chunk ahead, in shared memory.
#pragma once
#include "dependent.cuh"
#include "format.cuh"
#include "params.cuh"

constexpr u32 GEMM_WARPS = 8, SEGMENTS = 8, GEMM_THREADS = GEMM_WARPS * WARP, ROW_WARPS = 4, COLUMN_WARPS = 2;
constexpr u32 CHUNK = 64, CHUNK_BYTES = CHUNK * 2, PIECE = 16, PIECES = CHUNK_BYTES / PIECE;
constexpr u32 BAND = 16; // column tiles side by side

// Sizes of a shape for a format.
template <typename F, u32 ROW_GROUPS_, u32 COLUMN_GROUPS_>
struct Shape {
    static constexpr u32 ROW_GROUPS = ROW_GROUPS_, COLUMN_GROUPS = COLUMN_GROUPS_;
    static constexpr u32 ROWS = ROW_WARPS * ROW_GROUPS * TILE_ROWS, COLUMNS = COLUMN_WARPS * COLUMN_GROUPS * 8;
    static constexpr u32 CHUNKS = F::INPUTS / CHUNK; // of a tile
    static constexpr u32 GROUPS = CHUNK / F::GROUP;  // of scales, in a chunk
    static constexpr u32 WEIGHT_BYTES = ROWS / TILE_ROWS * F::TILE_BYTES, INPUT_BYTES = COLUMNS * CHUNK_BYTES;
    static constexpr u32 SUMS = F::MIN ? 2 * GROUPS * COLUMNS * 4 : 0, COLUMN_TABLE = COLUMNS * 8;
    // As many chunks as 99 KiB hold, four at most; six in the narrow shape, which is for few columns, where what counts is
    // how many weights are under way. Tiles of four chunks are held two or, with six chunks, three at a time.
    static constexpr u32 ROOM = 99 * 1024 - SUMS - COLUMN_TABLE, MOST = ROW_GROUPS == 1 ? 6 : 4, LARGE_TILES = MOST / 2;
    static constexpr u32 FIT =
        CHUNKS > 1 ? (ROOM - LARGE_TILES * WEIGHT_BYTES) / INPUT_BYTES : ROOM / (WEIGHT_BYTES + INPUT_BYTES);
    static constexpr u32 STAGES = FIT < MOST ? FIT : MOST, WEIGHT_STAGES = CHUNKS > 1 ? LARGE_TILES : STAGES;
    static constexpr u32 WEIGHTS_AT = STAGES * INPUT_BYTES, SUMS_AT = WEIGHTS_AT + WEIGHT_STAGES * WEIGHT_BYTES;
    static constexpr u32 TOGETHER = CHUNKS > 1 ? 2 : COLUMN_GROUPS / 2; // column groups without a branch between
    static constexpr u32 PITCH = ROWS + 4; // of outputs on their way through shared memory: no bank conflict
    static constexpr u32 TABLE_AT = SUMS_AT + SUMS;
    static constexpr u32 RING = TABLE_AT + COLUMN_TABLE, OUT = COLUMNS * PITCH * 4;
    static constexpr u32 SHARED = RING > OUT ? RING : OUT;
    // Copies that may be under way while a chunk is multiplied. Sums are made of the chunk after it, which must be there.
    static constexpr u32 PENDING = STAGES - (F::MIN ? 3 : 2);
    static_assert(STAGES >= (F::MIN ? 3 : 2), "no room to copy ahead");
};

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// 16 bytes to shared memory, the first `valid` of them read, the rest zero.
__device__ __forceinline__ void copy_piece(u32 to, const void* from, u32 valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 PENDING>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// How far the pieces of a column are turned.
template <typename F>
__device__ __forceinline__ u32 turn(u32 column) {
    return F::GROUP == 16 ? column % 4 * 2 : column % 2 * 4;
}

// The block's place in the output and what its threads copy.
template <typename F, typename S>
struct Task {
    const Linear& p;
    u8* shared;
    u32 lane, warp, tiles, chunks, first_row, first_column;
    const u8* weights; // this lane's first piece of the row group its warp copies

    __device__ __forceinline__ Task(const Linear& linear, u32 task, u8* memory) : p(linear), shared(memory) {
        lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        tiles = (p.inputs + F::INPUTS - 1) / F::INPUTS, chunks = tiles * S::CHUNKS;
        const u32 row_tiles = (p.rows + S::ROWS - 1) / S::ROWS, column_tiles = (p.columns + S::COLUMNS - 1) / S::COLUMNS;
        const u32 band = task / (BAND * row_tiles), within = task % (BAND * row_tiles);
        const u32 width = min(BAND, column_tiles - band * BAND);
        first_row = within / width * S::ROWS, first_column = (band * BAND + within % width) * S::COLUMNS;
    }

    // Row groups past the last one copy the last one again: their outputs are not written.
    __device__ __forceinline__ void find_weights() {
        constexpr u32 WARPS = GEMM_WARPS / (S::ROWS / TILE_ROWS); // that share a row group
        const u32 group = min(first_row / TILE_ROWS + warp / WARPS, (p.rows - 1) / TILE_ROWS);
        weights = p.weights + (u64)group * tiles * F::TILE_BYTES + (warp % WARPS * WARP + lane) * PIECE;
    }

    // Where each column's row of x begins, null past the last: in shared memory, because registers are scarce.
    __device__ __forceinline__ void find_inputs() const {
        const u32 column = first_column + threadIdx.x;
        if (threadIdx.x < S::COLUMNS) {
            const bf16* x = static_cast<const bf16*>(p.input);
            if (column < p.columns) x += (u64)(p.gather ? p.gather[column] : column) * p.inputs;
            column_table()[threadIdx.x] = column < p.columns ? x : nullptr;
        }
        __syncthreads();
    }

    __device__ __forceinline__ const bf16** column_table() const {
        return reinterpret_cast<const bf16**>(shared + S::TABLE_AT);
    }
    __device__ __forceinline__ u8* weight_slot(u32 tile) const {
        return shared + S::WEIGHTS_AT + tile % S::WEIGHT_STAGES * S::WEIGHT_BYTES;
    }
    __device__ __forceinline__ u8* input_slot(u32 chunk) const { return shared + chunk % S::STAGES * S::INPUT_BYTES; }
    __device__ __forceinline__ float* sum_slot(u32 chunk) const {
        return reinterpret_cast<float*>(shared + S::SUMS_AT) + chunk % 2 * (S::GROUPS * S::COLUMNS);
    }

    __device__ __forceinline__ void copy_weights(u32 tile) const {
        constexpr u32 WARPS = GEMM_WARPS / (S::ROWS / TILE_ROWS), STEP = WARPS * WARP * PIECE;
        const u32 start = (warp % WARPS * WARP + lane) * PIECE;
        const u8* from = weights + (u64)tile * F::TILE_BYTES;
        const u32 to = shared_address(weight_slot(tile)) + warp / WARPS * F::TILE_BYTES + start;
#pragma unroll
        for (u32 at = 0; at < F::TILE_BYTES; at += STEP)
            if (at + STEP <= F::TILE_BYTES || at + start < F::TILE_BYTES) copy_piece(to + at, from + at, PIECE);
    }

    // Inputs past the last and columns past the last are zero.
    __device__ __forceinline__ void copy_inputs(u32 chunk) const {
        const u32 piece = threadIdx.x % PIECES, column = threadIdx.x / PIECES, at = chunk * CHUNK + piece * 8;
        const u32 left = at < p.inputs ? min(p.inputs - at, 8u) : 0;
        u8* to = input_slot(chunk) + column * CHUNK_BYTES + (piece ^ turn<F>(column)) * PIECE;
        const bf16** columns = column_table() + column;
        if (!F::SCALED && p.inputs % 8 != 0) return store_pieces(to, columns, at, left);
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i += GEMM_THREADS / PIECES) {
            const u32 bytes = columns[i] ? 2 * left : 0;
            const bf16* from = bytes ? columns[i] + at : static_cast<const bf16*>(p.input);
            copy_piece(shared_address(to + i * CHUNK_BYTES), from, bytes);
        }
    }

    // Where rows of x are not aligned (scales come with 32 inputs, so theirs are): element by element, through registers.
    __device__ __forceinline__ static void store_pieces(u8* to, const bf16** columns, u32 at, u32 left) {
#pragma unroll 1
        for (u32 i = 0; i < S::COLUMNS; i += GEMM_THREADS / PIECES) {
            const u16* from = reinterpret_cast<const u16*>(columns[i] + at);
            const u32 count = columns[i] ? left : 0;
            u32 pairs[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const u32 low = 2 * j < count ? from[2 * j] : 0, high = 2 * j + 1 < count ? from[2 * j + 1] : 0;
                pairs[j] = low | high << 16;
            }
            *reinterpret_cast<uint4*>(to + i * CHUNK_BYTES) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }

    // A chunk's inputs, and the tile that begins with it.
    __device__ __forceinline__ void copy_chunk(u32 chunk, bool tile_there) const {
        if (chunk < chunks) {
            if (chunk % S::CHUNKS == 0 && !tile_there) copy_weights(chunk / S::CHUNKS);
            copy_inputs(chunk);
        }
        commit_copies();
    }
};

// The B operands of one group for 8 columns, this lane's part: of two steps where groups are of 32, of one where of 16.
template <typename F>
__device__ __forceinline__ uint4 load_inputs(const u8* columns, u32 lane, u32 group) {
    const u32 g = lane / 4, q = lane % 4;
    const u8* column = columns + g * CHUNK_BYTES;
    if (F::GROUP == 16) {
        const uint2 x = *reinterpret_cast<const uint2*>(column + ((group * 2) ^ turn<F>(g)) * PIECE + q * 8);
        return make_uint4(x.x, x.y, 0, 0);
    }
    return *reinterpret_cast<const uint4*>(column + ((group * 4 + q) ^ turn<F>(g)) * PIECE);
}

// This warp's share of the sums of inputs of every group of a chunk: a row of ones times them, as in gemv.
template <typename F, typename S>
__device__ __forceinline__ void add_up_inputs(const Task<F, S>& task, u32 chunk) {
    const u8* inputs = task.input_slot(chunk);
    float* sums = task.sum_slot(chunk);
#pragma unroll
    for (u32 first = 0; first < S::COLUMNS; first += GEMM_WARPS * 8) {
        const u32 column = first + task.warp * 8;
#pragma unroll
        for (u32 group = 0; group < S::GROUPS; group++) {
            const uint4 b = load_inputs<F>(inputs + column * CHUNK_BYTES, task.lane, group);
            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            mma_bf16(sum, ones(), b.x, b.y);
            if (F::GROUP == 32) mma_bf16(sum, ones(), b.z, b.w);
            float2* to = reinterpret_cast<float2*>(sums + group * S::COLUMNS + column + task.lane * 2);
            if (task.lane < 4) *to = make_float2(sum[0], sum[1]);
        }
    }
}

// What a warp has of one row group of weights for one group of inputs.
template <typename F>
struct Weights {
    static constexpr u32 STEPS = F::GROUP / 16;
    Fragment leading[STEPS], rest[F::SPLIT ? STEPS : 1];
    float2 scale, min;

    __device__ __forceinline__ Weights(const u8* tile, u32 lane, u32 group) {
        const typename F::Tile t = F::template load<Shared>(tile, lane);
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) {
            leading[i] = F::fragment(t, group * STEPS + i);
            if constexpr (F::SPLIT) rest[i] = F::rest(t, group * STEPS + i);
        }
        if constexpr (F::SCALED) scale = F::scale(t, group);
        if constexpr (F::MIN) min = F::min(t, group);
    }

    // sum += this . x, as gemv does it; `inputs` is the sum of the group's inputs for the lane's two columns.
    __device__ __forceinline__ void add_to(float (&sum)[4], uint4 b, float2 inputs) const {
        if constexpr (!F::SCALED) {
            chain(sum, b);
        } else {
            float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            chain(dot, b);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                sum[i] = fmaf(i < 2 ? scale.x : scale.y, dot[i], sum[i]);
                if constexpr (F::MIN) sum[i] = fmaf(i < 2 ? min.x : min.y, i % 2 ? inputs.y : inputs.x, sum[i]);
            }
        }
    }

    __device__ __forceinline__ void chain(float (&sum)[4], uint4 b) const {
        mma_bf16(sum, leading[0], b.x, b.y);
        if constexpr (F::SPLIT) mma_bf16(sum, rest[0], b.x, b.y);
        if constexpr (STEPS == 2) mma_bf16(sum, leading[1], b.z, b.w);
        if constexpr (STEPS == 2 && F::SPLIT) mma_bf16(sum, rest[1], b.z, b.w);
    }
};

// A warp's outputs. Its column groups are every second of the block's, so that both warps of a row have as many columns
// left at the right edge.
template <typename F, typename S>
struct Outputs {
    float sum[S::ROW_GROUPS][S::COLUMN_GROUPS][4], total[S::ROW_GROUPS][S::COLUMN_GROUPS][4];

    __device__ __forceinline__ Outputs() {
        each([](float& s, float& t) { s = 0.0f, t = 0.0f; });
    }

    __device__ __forceinline__ void end_segment() {
        each([](float& s, float& t) { t += s, s = 0.0f; });
    }

    template <typename Do>
    __device__ __forceinline__ void each(Do f) {
#pragma unroll
        for (u32 r = 0; r < S::ROW_GROUPS; r++)
#pragma unroll
            for (u32 c = 0; c < S::COLUMN_GROUPS; c++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) f(sum[r][c][i], total[r][c][i]);
    }

    __device__ __forceinline__ static u32 column_group(u32 c, u32 warp) { return c * COLUMN_WARPS + warp % COLUMN_WARPS; }
    __device__ __forceinline__ static u32 row_group(u32 r, u32 warp) { return warp / COLUMN_WARPS * S::ROW_GROUPS + r; }

    // Chunk `part` of a tile.
    __device__ __forceinline__ void multiply(const Task<F, S>& task, u32 chunk, u32 part) {
        const u8* inputs = task.input_slot(chunk) + column_group(0, task.warp) * 8 * CHUNK_BYTES;
        const u8* tiles = task.weight_slot(chunk / S::CHUNKS) + row_group(0, task.warp) * F::TILE_BYTES;
        const float* sums = task.sum_slot(chunk) + column_group(0, task.warp) * 8 + task.lane % 4 * 2;
        // Parts that have no columns are left out. (The branches also keep ptxas from moving too many loads up.)
        const u32 left = task.p.columns - task.first_column;
#pragma unroll
        for (u32 group = 0; group < S::GROUPS; group++) {
            const Weights<F> w0(tiles, task.lane, part * S::GROUPS + group);
            const Weights<F> w1(tiles + (S::ROW_GROUPS - 1) * F::TILE_BYTES, task.lane, part * S::GROUPS + group);
            const auto columns = [&](u32 c) {
                const uint4 b = load_inputs<F>(inputs + c * COLUMN_WARPS * 8 * CHUNK_BYTES, task.lane, group);
                float2 of = make_float2(0.0f, 0.0f);
                const float* at = sums + group * S::COLUMNS + c * COLUMN_WARPS * 8;
                if constexpr (F::MIN) of = *reinterpret_cast<const float2*>(at);
                w0.add_to(sum[0][c], b, of);
                if constexpr (S::ROW_GROUPS == 2) w1.add_to(sum[S::ROW_GROUPS - 1][c], b, of);
            };
#pragma unroll
            for (u32 first = 0; first < S::COLUMN_GROUPS; first += S::TOGETHER) {
                if (left > first * COLUMN_WARPS * 8) {
#pragma unroll
                    for (u32 c = 0; c < S::TOGETHER; c++) columns(first + c);
                }
            }
        }
    }

    // Totals go through shared memory, [column][PITCH], so that a warp writes consecutive rows of a column.
    __device__ __forceinline__ void write(const Task<F, S>& task) const {
        float* staged = reinterpret_cast<float*>(task.shared);
        const u32 g = task.lane / 4, q = task.lane % 4;
        __syncthreads(); // the last chunk has been read
#pragma unroll
        for (u32 r = 0; r < S::ROW_GROUPS; r++)
#pragma unroll
            for (u32 c = 0; c < S::COLUMN_GROUPS; c++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const u32 column = column_group(c, task.warp) * 8 + q * 2 + i % 2;
                    staged[column * S::PITCH + row_group(r, task.warp) * TILE_ROWS + g + i / 2 * 8] = total[r][c][i];
                }
        __syncthreads();
        for (u32 column = task.warp; column < S::COLUMNS; column += TOGETHER * GEMM_WARPS) put(task, staged, column);
    }

    // Four columns of the warp, 8 apart, and all rows: for the residual, every load is under way before the first is used.
    static constexpr u32 TOGETHER = 4, LANE_ROWS = S::ROWS / WARP;

    __device__ __forceinline__ static void put(const Task<F, S>& task, const float* staged, u32 first_column) {
        const Linear& p = task.p;
        float value[TOGETHER][LANE_ROWS];
        u64 at[TOGETHER][LANE_ROWS]; // its place in out, or nowhere
        each_of_four([&](u32 c, u32 r) {
            const u32 column = first_column + c * GEMM_WARPS, row = r * WARP + task.lane;
            const bool inside = task.first_column + column < p.columns && task.first_row + row < p.rows;
            value[c][r] = staged[column * S::PITCH + row];
            if (p.bias && inside) value[c][r] += p.bias[task.first_row + row];
            at[c][r] = inside ? (u64)(task.first_column + column) * p.stride + task.first_row + row : NOWHERE;
        });
        if (p.sink == SINK_BF16) {
            bf16* out = static_cast<bf16*>(p.out);
            each_of_four([&](u32 c, u32 r) { if (at[c][r] != NOWHERE) out[at[c][r]] = __float2bfloat16_rn(value[c][r]); });
            return;
        }
        float* out = static_cast<float*>(p.out);
        if (p.sink == SINK_ADD)
            each_of_four([&](u32 c, u32 r) { if (at[c][r] != NOWHERE) value[c][r] = out[at[c][r]] + value[c][r]; });
        each_of_four([&](u32 c, u32 r) { if (at[c][r] != NOWHERE) out[at[c][r]] = value[c][r]; });
    }

    static constexpr u64 NOWHERE = ~0ull;

    template <typename Do>
    __device__ __forceinline__ static void each_of_four(Do f) {
#pragma unroll
        for (u32 c = 0; c < TOGETHER; c++)
#pragma unroll
            for (u32 r = 0; r < LANE_ROWS; r++) f(c, r);
    }
};

// The end of the segment that tile `tile` lies in: the first end s * tiles / 8 past it.
__device__ __forceinline__ u32 segment_end(u32 tile, u32 tiles) {
    u32 s = 1;
    while (s * tiles / SEGMENTS <= tile) s++;
    return s * tiles / SEGMENTS;
}

template <typename F, typename S>
__device__ __forceinline__ void gemm_task(const Linear& p, u32 index, u8* shared) {
    Task<F, S> task(p, index, shared);
    task.find_weights();
    task.copy_weights(0);
    wait_for_earlier();
    task.find_inputs();
#pragma unroll 1
    for (u32 chunk = 0; chunk < S::STAGES - 1; chunk++) task.copy_chunk(chunk, chunk == 0);
    if constexpr (F::MIN) {
        wait_for_copies<S::STAGES - 2>();
        __syncthreads();
        add_up_inputs(task, 0);
    }
    Outputs<F, S> outputs;
    u32 chunk = 0, tile = 0, end = segment_end(0, task.tiles);
    do {
#pragma unroll
        for (u32 part = 0; part < S::CHUNKS; part++, chunk++) {
            wait_for_copies<S::PENDING>();
            __syncthreads();
            task.copy_chunk(chunk + S::STAGES - 1, false);
            if (F::MIN && chunk + 1 < task.chunks) add_up_inputs(task, chunk + 1);
            outputs.multiply(task, chunk, part);
        }
        if (++tile == end) {
            outputs.end_segment();
            end = segment_end(tile, task.tiles);
        }
    } while (tile < task.tiles);
    outputs.write(task);
}

// The two kernels of a format. Dynamic shared memory: Shape::SHARED, in the table of the host.
#define GEMM_KERNELS(name, F)                                                                                          \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1) gemm_##name##_bf16(const __grid_constant__ Linear p) { \
        extern __shared__ __align__(128) u8 shared[];                                                                  \
        begin_dependents();                                                                                            \
        gemm_task<F, Shape<F, 2, 8>>(p, blockIdx.x, shared);                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 2)                                                      \
        gemm_##name##_bf16_narrow(const __grid_constant__ Linear p) {                                                  \
        extern __shared__ __align__(128) u8 shared[];                                                                  \
        begin_dependents();                                                                                            \
        gemm_task<F, Shape<F, 1, 4>>(p, blockIdx.x, shared);                                                           \
    }
