// Prefill attention: a ragged batch of chunks and single tokens over their paged caches, after RoPE has turned q and stored
// the new k and v. The bits are those of attention_decode.cu.
//
// attention_prefill_bf16_{bf16,e4m3}_{64,128,256} (by cache and padded head_dim)
//   thread  of the copies every 256th chunk of 16 bytes; of the arithmetic what mma gives a lane
//   warp    16 rows: scores of a unit's 64 positions, softmax and fold in registers, p v eight columns at a time, so that a
//           unit's acc needs no registers of its own. At 256 columns two warps share 16 rows: both make the scores, each
//           has half of the columns
//   block   128 rows (64 at 256 columns) of one kv head of one sequence, whose k and v they share through shared memory; a
//           row is a query token and a head of the group, token by token. 256 threads; 384 D bytes of shared memory
//   grid    (row tiles, kv_heads); the host lists row tiles, the longest contexts first
//   bytes   4 D (2 D of e4m3) a position, kv head and row tile, mostly from L2; floor = 4 D flops a visible (row, position)
//           on the matrix unit, a half more at 256 columns
//   order   attention.cuh's. Units that no row of the block sees are not read, those that no row of a warp sees are not
//           computed, and those that all see whole need no mask.
#include "attention.cuh"
#include "dependent.cuh"

template <u32 D>
struct Split {
    static constexpr u32 WARPS_A_ROW = D == 256 ? 2 : 1, ROWS = TILE_ROWS * WARPS / WARPS_A_ROW, NS = D / 8 / WARPS_A_ROW;
};

// The rows of one sequence: of row r, query token r / group and head r % group of the kv head's. Rows past the last one are
// the last again, and not stored.
struct Rows {
    u32 first_token, first_position, group, count;
    __device__ __forceinline__ u32 token(u32 row) const { return first_token + row / group; }
    __device__ __forceinline__ u32 position(u32 row) const { return first_position + min(row, count - 1) / group; }
};

// A warp's positions, of its first and its last row. A warp without rows has none, which lie before the first unit.
struct Span {
    u32 low, high;
    __device__ __forceinline__ Span(const Rows& rows, u32 row, u32 count) {
        low = row < rows.count ? rows.position(row) : NOWHERE;
        high = row < rows.count ? rows.position(row + count - 1) : 0;
    }
    // Whether some row sees some of a unit; whether all rows see all of it.
    __device__ __forceinline__ bool any(u32 unit, u32 window) const {
        return (unit * UNIT <= high) & (unit * UNIT + UNIT > visible_from(low, window).first);
    }
    __device__ __forceinline__ bool all(u32 unit, u32 window) const {
        return (unit * UNIT + UNIT - 1 <= low) & (unit * UNIT >= visible_from(high, window).first);
    }
};

__device__ __forceinline__ Rows rows_of(const Attention& p, u32 sequence) {
    const u32 token = p.q_indptr[sequence], group = p.shape.heads / p.shape.kv_heads;
    return {token, p.positions[token], group, (p.q_indptr[sequence + 1] - token) * group};
}

// A's fragments of 16 rows of q from `first` on: zeros past head_dim, and the last row again past the last.
template <u32 D>
__device__ __forceinline__ void load_queries(u32 (&q)[D / 16][4], const Attention& p, const Rows& rows, u32 first,
                                             u32 kv_head) {
    const u32 lane = threadIdx.x % WARP;
    const u64 width = (p.shape.heads + 2 * p.shape.kv_heads) * p.shape.head_dim;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = min(first + lane / 4 + 8 * half, rows.count - 1), head = kv_head * rows.group + row % rows.group;
        const bf16* from = static_cast<const bf16*>(p.qkv) + rows.token(row) * width + head * p.shape.head_dim;
#pragma unroll
        for (u32 i = 0; i < D / 8; i++) {
            if (i % 8 == 0) __syncwarp();
            const u32 column = 8 * i + lane % 4 * 2;
            const u32 pair = __ldcg(reinterpret_cast<const u32*>(from + (column < p.shape.head_dim ? column : 0)));
            q[i / 2][i % 2 * 2 + half] = column < p.shape.head_dim ? pair : 0;
        }
    }
}

// Dots of a warp's rows with all positions of a unit: for each, the chain that score() makes.
template <u32 D>
__device__ __forceinline__ void score_all(float (&s)[UNIT / 8][4], const u32 (&q)[D / 16][4], const Tile<D>& k) {
    const u32 lane = threadIdx.x % WARP, row = k.chunk(lane % 8, lane / 8);
#pragma unroll
    for (u32 n = 0; n < UNIT / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
    for (u32 i = 0; i < D / 32; i++) {
        __syncwarp();
#pragma unroll
        for (u32 n = 0; n < UNIT / 8; n++) {
            u32 b[4];
            load_matrices(b, (row ^ i * 64) + n * (16 * D));
            mma(s[n], q[2 * i], b[0], b[1]);
            mma(s[n], q[2 * i + 1], b[2], b[3]);
        }
    }
    __syncwarp();
}

// Scores of a unit, in place of dots: scaled, and -inf where a row does not see a position.
__device__ __forceinline__ void mask(float (&s)[UNIT / 8][4], u32 unit, const u32 (&positions)[2], float scale,
                                     u32 window, bool all_seen) {
#pragma unroll
    for (u32 n = 0; n < UNIT / 8; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) s[n][i] *= scale;
    }
    if (all_seen) return;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const Visible visible = visible_from(positions[half], window);
        const u32 first = unit * UNIT + threadIdx.x % 4 * 2;
#pragma unroll
        for (u32 n = 0; n < UNIT / 8; n++) {
            if (!visible.sees(first + 8 * n)) s[n][2 * half] = minus_infinity();
            if (!visible.sees(first + 8 * n + 1)) s[n][2 * half + 1] = minus_infinity();
        }
    }
}

// Maxima of rows g and g + 8, and p in A's fragments. A row that sees nothing has m = -inf and p = 0.
__device__ __forceinline__ void weights_of_scores(u32 (&p)[UNIT / 16][4], float (&m)[2],
                                                  const float (&s)[UNIT / 8][4]) {
    float base[2];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        m[half] = minus_infinity();
#pragma unroll
        for (u32 n = 0; n < UNIT / 8; n++) m[half] = fmaxf(m[half], fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        m[half] = quad_max(m[half]);
        base[half] = m[half] == minus_infinity() ? 0.0f : m[half];
    }
#pragma unroll
    for (u32 n = 0; n < UNIT / 8; n++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            p[n / 2][n % 2 * 2 + half] = pack_bf16(power_of_2(s[n][2 * half] - base[half]),
                                                   power_of_2(s[n][2 * half + 1] - base[half]));
        }
    }
}

// Folds a unit into a warp's rows: p v of 8 columns at a time.
template <u32 D, u32 PERIOD>
__device__ __forceinline__ void fold_unit(float (&total)[Split<D>::NS][4], Softmax (&softmax)[2],
                                          const u32 (&p)[UNIT / 16][4], const float (&m)[2], const Tile<D>& v,
                                          u32 first_n) {
    float sums[4];
    add_weights(sums, p);
    const Weights weights[2] = {softmax[0].fold(m[0], sums[0]), softmax[1].fold(m[1], sums[2])};
#pragma unroll
    for (u32 n = 0; n < Split<D>::NS; n++) {
        if (n % PERIOD == 0) __syncwarp();
        float acc[4];
        weigh<D>(acc, p, v, first_n + n);
#pragma unroll
        for (u32 i = 0; i < 4; i++) total[n][i] = folded(total[n][i], acc[i], weights[i / 2]);
    }
}

// A warp's place in a row tile: its first row, and its first eight columns.
template <u32 D>
struct Place {
    u32 row, n;
    __device__ __forceinline__ explicit Place(u32 first_row) {
        const u32 warp = anew(threadIdx.x / WARP);
        row = first_row + warp / Split<D>::WARPS_A_ROW * TILE_ROWS;
        n = warp % Split<D>::WARPS_A_ROW * Split<D>::NS;
    }
};

// The output. What it needs is looked up again rather than held in registers all along.
template <u32 D>
__device__ __forceinline__ void store_rows(const Attention& p, u32 index, u32 kv_head,
                                           const float (&total)[Split<D>::NS][4], const Softmax (&softmax)[2]) {
    const RowTile tile = p.tiles[anew(index)];
    const Rows rows = rows_of(p, tile.sequence);
    const Place<D> place(tile.first);
    const u32 lane = anew(threadIdx.x % WARP);
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = place.row + lane / 4 + 8 * half, head = kv_head * rows.group + row % rows.group;
        if (row >= rows.count) continue;
        const float inverse = 1.0f / softmax[half].l;
#pragma unroll
        for (u32 n = 0; n < Split<D>::NS; n++) {
            store_output(p, rows.token(row), head, 8 * (place.n + n) + lane % 4 * 2, total[n][2 * half],
                         total[n][2 * half + 1], inverse);
        }
    }
}

// A task: one row tile of one kv head.
template <class Kv, u32 D>
__device__ __forceinline__ void attention_prefill(const Attention& p, u32 index, u32 kv_head, u8* bytes) {
    const RowTile tile = p.tiles[index];
    if (tile.sequence == NO_SEQUENCE) return;
    const Rows rows = rows_of(p, tile.sequence);
    const Span span(rows, tile.first, Split<D>::ROWS);
    const u32 first_position = visible_from(span.low, p.window).first;
    const Context context = {p.block_ids + p.kv_indptr[tile.sequence], first_position, span.high + 1, NOWHERE};
    Loader<Kv, D> loader(p, context, kv_head);
    typename Loader<Kv, D>::Held k_held, v_held;
    Ring<D> ring = Ring<D>::at(shared_address(bytes));
    const u32 begin = first_position / UNIT, end = span.high / UNIT + 1;
    loader.locate(begin);
    loader.begin(k_held, loader.k, begin, true, ring.k);
    if (!Loader<Kv, D>::HOLDS) {
        loader.begin(v_held, loader.v, begin, true, ring.v);
        loader.locate(begin + 1);
    }

    const u32 first = Place<D>(tile.first).row, g = threadIdx.x % WARP / 4;
    const Span warp_span(rows, first, TILE_ROWS);
    const u32 positions[2] = {rows.position(first + g), rows.position(first + g + 8)};
    u32 q[D / 16][4];
    load_queries<D>(q, p, rows, first, kv_head);

    float total[Split<D>::NS][4] = {};
    Softmax softmax[2];
    for (u32 unit = begin; unit < end; unit++, ring = ring.turned()) {
        const bool computes = warp_span.any(unit, p.window);
        float m[2];
        u32 weights[UNIT / 16][4];
        loader.finish(k_held, unit, ring.k);
        __syncthreads();
        if (Loader<Kv, D>::HOLDS) {
            loader.begin(v_held, loader.v, unit, true, ring.v);
            loader.locate(unit + 1);
        } else {
            if (D == 256) loader.locate(unit + 1);
            loader.begin(k_held, loader.k, unit + 1, unit + 1 < end, ring.next_k);
        }
        if (computes) {
            float s[UNIT / 8][4];
            score_all<D>(s, q, ring.k);
            mask(s, unit, positions, p.scale, p.window, warp_span.all(unit, p.window));
            weights_of_scores(weights, m, s);
        }
        loader.finish(v_held, unit, ring.v);
        __syncthreads();
        if (Loader<Kv, D>::HOLDS) {
            loader.begin(k_held, loader.k, unit + 1, unit + 1 < end, ring.next_k);
        } else {
            if (D == 256) loader.locate(unit + 1); // again, rather than hold what it finds in registers
            loader.begin(v_held, loader.v, unit + 1, unit + 1 < end, ring.next_v());
            if (D != 256) loader.locate(unit + 2);
        }
        if (computes) fold_unit<D, D == 256 ? (Loader<Kv, D>::HOLDS ? 4 : 16) : 8>(total, softmax, weights, m, ring.v, Place<D>(0).n);
    }
    store_rows<D>(p, index, kv_head, total, softmax);
}

extern __shared__ __align__(1024) u8 shared_bytes[];

// One entry point a format of the cache and padded head_dim.
#define PREFILL(kv, Kv, D) \
    extern "C" __global__ void __launch_bounds__(256, 1) \
    attention_prefill_bf16_##kv##_##D(const __grid_constant__ Attention p) { \
        begin_dependents(); \
        wait_for_earlier(); \
        attention_prefill<Kv, D>(p, blockIdx.x, blockIdx.y, shared_bytes); \
    }
PREFILL(bf16, bf16, 64)
PREFILL(bf16, bf16, 128)
PREFILL(bf16, bf16, 256)
PREFILL(e4m3, E4m3, 64)
PREFILL(e4m3, E4m3, 128)
PREFILL(e4m3, E4m3, 256)
