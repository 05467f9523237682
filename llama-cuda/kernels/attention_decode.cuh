// What a block of decode attention does: attention_decode.cu launches it, and the persistent kernel calls it.
#pragma once
#include "attention.cuh"
#include "dependent.cuh"

// Shared memory: the ring, whose third tile first holds q and the new k and v; p of a unit; each warp's maxima; a flag.
template <u32 D>
struct Shared {
    Ring<D> ring;
    Tile<D> q;     // 16 rows, then the new k and v
    Tile<UNIT> p;  // 16 rows
    float (*maxima)[TILE_ROWS];
    u32* flag;
    float4* weights; // of the fold, over the ring

    __device__ __forceinline__ explicit Shared(u8* bytes)
        : ring(Ring<D>::at(shared_address(bytes))), q(ring.next_k), p{ring.k.address + Ring<D>::BYTES},
          maxima(reinterpret_cast<float(*)[TILE_ROWS]>(bytes + Ring<D>::BYTES + TILE_ROWS * UNIT * 2)),
          flag(reinterpret_cast<u32*>(maxima + WARPS)), weights(reinterpret_cast<float4*>(bytes)) {}
};

// What a block does: units from begin to before end, of a context from unit first to last.
struct Work {
    u32 token, head, heads, kv_head; // heads: of this tile, from `head` on
    u32 arrival, runs;
    u32 begin, end, first, last;
    u64 slot;                        // of unit 0 in the workspace
    Visible visible;
    bool stores;                     // the new k and v, into the cache
    __device__ __forceinline__ bool has_newest() const { return end == last + 1; }
};

__device__ __forceinline__ Work work_of(const Attention& p, u32 run, u32 tile, u32 token) {
    const u32 group = p.shape.heads / p.shape.kv_heads, tiles = (group + TILE_ROWS - 1) / TILE_ROWS;
    const u32 sequence = p.sequence_of[token], within = tile % tiles * TILE_ROWS;
    Work work;
    work.token = token;
    work.kv_head = tile / tiles;
    work.head = work.kv_head * group + within;
    work.heads = min(group - within, TILE_ROWS);
    work.stores = within == 0;
    work.visible = visible_from(p.positions[token], p.window);
    work.first = work.visible.first / UNIT;
    work.last = work.visible.last / UNIT;
    work.runs = (work.last - work.first) / p.run + 1;
    work.begin = work.first + run * p.run;
    work.end = min(work.begin + p.run, work.last + 1);
    work.arrival = token * p.shape.kv_heads * tiles + tile;
    work.slot = p.kv_indptr[sequence] / (UNIT / BLOCK_TOKENS) + sequence;
    return work;
}

template <u32 D>
__device__ __forceinline__ void store_pair(const Tile<D>& tile, u32 row, const Pair& pair) {
    store_shared(tile.element(row, pair.first), __bfloat16_as_ushort(__float2bfloat16_rn(pair.a)));
    store_shared(tile.element(row, pair.second), __bfloat16_as_ushort(__float2bfloat16_rn(pair.b)));
}

// q's rows after the turn, times the token's factor, into shared memory, zeros where there is no head.
template <u32 D>
__device__ __forceinline__ void turn_queries(const Attention& p, const Work& work, const bf16* row, const float2* angles,
                                             const Tile<D>& q) {
    const float factor = factor_of(p, work.token);
    for (u32 i = threadIdx.x; i < TILE_ROWS * D / 2; i += THREADS) {
        const u32 r = i / (D / 2);
        Pair pair = {2 * (i % (D / 2)), 2 * (i % (D / 2)) + 1, 0.0f, 0.0f};
        if (r < work.heads) {
            const bf16* head = row + (work.head + r) * p.shape.head_dim;
            pair = times(turned_pair(head, i % (D / 2), p.shape, angles), factor);
        }
        store_pair(q, r, pair);
    }
}

// The new k (row 16 of q's tile) and v (row 17), as the cache keeps them, and into the cache.
template <class Kv, u32 D>
__device__ __forceinline__ void make_newest(const Attention& p, const Work& work, const bf16* row, const float2* angles,
                                            const Tile<D>& q) {
    if (threadIdx.x >= D) return;
    const bool is_v = threadIdx.x >= D / 2;
    const u32 i = threadIdx.x % (D / 2);
    const bf16* head = row + (p.shape.heads + work.kv_head + (is_v ? p.shape.kv_heads : 0)) * p.shape.head_dim;
    const Pair pair = is_v ? pair_of(head, i, p.shape) : turned_pair(head, i, p.shape, angles);
    store_pair(q, TILE_ROWS + is_v, {pair.first, pair.second, kept<Kv>(pair.a), kept<Kv>(pair.b)});
    if (work.stores) {
        store_pair(static_cast<Kv*>(is_v ? p.v : p.k) + cache_row(p.slots[work.token], work.kv_head, p.shape), pair);
    }
}

// The new token's row of a tile, from the threads that hold it: the first D / 8 hold k, as many again v.
template <u32 D>
__device__ __forceinline__ void place_newest(const Tile<D>& to, u32 position, const uint4& newest, bool is_v) {
    if (threadIdx.x / (D / 8) == is_v) store_shared(to.chunk(position % UNIT, threadIdx.x % (D / 8)), newest);
}

// The maximum of a tile's rows g and g + 8 over all warps' positions; a barrier lies between the two halves.
__device__ __forceinline__ void share_maxima(const float (&s)[4], float (*maxima)[TILE_ROWS]) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float low = quad_max(fmaxf(s[0], s[1])), high = quad_max(fmaxf(s[2], s[3]));
    if (lane % 4 == 0) {
        maxima[warp][lane / 4] = low;
        maxima[warp][lane / 4 + 8] = high;
    }
}
__device__ __forceinline__ void take_maxima(float (&m)[2], const float (*maxima)[TILE_ROWS]) {
    const u32 g = threadIdx.x % WARP / 4;
    m[0] = m[1] = minus_infinity();
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        m[0] = fmaxf(m[0], maxima[w][g]);
        m[1] = fmaxf(m[1], maxima[w][g + 8]);
    }
}

// Scores of this warp's 8 positions, -inf where they are not seen.
template <u32 D>
__device__ __forceinline__ void score_positions(float (&s)[4], const u32 (&q)[D / 16][4], const Tile<D>& k,
                                                const Visible& visible, u32 unit, float scale) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    score<D>(s, q, k, 8 * warp);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        s[i] = visible.sees(unit * UNIT + 8 * warp + lane % 4 * 2 + i % 2) ? s[i] * scale : minus_infinity();
    }
}

__device__ __forceinline__ void share_weights(const float (&s)[4], const float (&m)[2], const Tile<UNIT>& p) {
    const u32 lane = threadIdx.x % WARP, column = threadIdx.x / WARP * 8 + lane % 4 * 2;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        store_shared(p.element(lane / 4 + 8 * i, column),
                     pack_bf16(power_of_2(s[2 * i] - m[i]), power_of_2(s[2 * i + 1] - m[i])));
    }
}

// What a warp has of a unit or of a total: rows g and g + 8 of its columns.
template <u32 D>
struct Part {
    static constexpr u32 NS = D / 8 / WARPS;
    float acc[NS][4];
};

template <u32 D>
__device__ __forceinline__ void fold_part(Part<D>& total, const Part<D>& unit, const Weights (&weights)[2]) {
#pragma unroll
    for (u32 n = 0; n < Part<D>::NS; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) total.acc[n][i] = folded(total.acc[n][i], unit.acc[n][i], weights[i / 2]);
    }
}

// Calls store(row of the tile, column, two values) for what this lane has.
template <u32 D, class Store>
__device__ __forceinline__ void for_each_pair(const Part<D>& part, u32 heads, Store store) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const u32 r = lane / 4 + 8 * i;
        if (r >= heads) continue;
#pragma unroll
        for (u32 n = 0; n < Part<D>::NS; n++) {
            store(r, 8 * (warp * Part<D>::NS + n) + lane % 4 * 2, part.acc[n][2 * i], part.acc[n][2 * i + 1]);
        }
    }
}

// A unit's m, l and acc into the workspace.
template <u32 D>
__device__ __forceinline__ void leave(const Attention& p, const Work& work, u32 unit, const float (&m)[2],
                                      const float (&sums)[4], const Part<D>& part) {
    const u64 at = (work.slot + unit) * p.shape.heads + work.head;
    const u32 g = threadIdx.x % WARP / 4;
    if (threadIdx.x < WARP && threadIdx.x % 4 == 0) {
        if (g < work.heads) p.stats[at + g] = make_float2(m[0], sums[0]);
        if (g + 8 < work.heads) p.stats[at + g + 8] = make_float2(m[1], sums[2]);
    }
    for_each_pair<D>(part, work.heads, [&](u32 r, u32 column, float a, float b) {
        *reinterpret_cast<float2*>(p.partials + (at + r) * D + column) = make_float2(a, b);
    });
}

// work.arrival made again where it is wanted: it need not be kept until then.
__device__ __forceinline__ u32 arrival_of(const Attention& p, const Work& work) {
    const u32 kv_heads = anew(p.shape.kv_heads), group = p.shape.heads / kv_heads;
    const u32 tiles = (group + TILE_ROWS - 1) / TILE_ROWS, tile = (work.head - work.kv_head * group) / TILE_ROWS;
    return (work.token * kv_heads + work.kv_head) * tiles + tile;
}

// Whether this block is the last of its token and tile to come here with its units left in memory. The counter returns to
// zero with the last.
template <bool AMONG_OTHERS>
__device__ __forceinline__ bool last_to_arrive(const Attention& p, const Work& work, u32* flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const u32 arrival = AMONG_OTHERS ? arrival_of(p, work) : work.arrival;
        *flag = atomicInc(p.arrivals + arrival, work.runs - 1) == work.runs - 1;
    }
    __syncthreads();
    __threadfence();
    return *flag != 0;
}

constexpr u32 FOLD = WARP, AHEAD = 8; // units whose weights are made together; whose partials are loaded together

// (weight of the total, weight of the unit, l of the unit) of up to 32 units from `unit` on, for every head: a warp takes
// every 8th head, a lane a unit, and a scan gives the maximum so far. `m` is the maximum before, then after.
__device__ __forceinline__ void make_weights(const Attention& p, const Work& work, u32 unit, float (&m)[2],
                                             float4* weights) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const u32 head = warp + WARPS * i;
        if (head >= work.heads) continue;
        const u64 at = (work.slot + unit + lane) * p.shape.heads + work.head + head;
        const float2 stat = unit + lane <= work.last ? __ldcg(p.stats + at) : make_float2(minus_infinity(), 0.0f);
        float next = fmaxf(m[i], stat.x);
#pragma unroll
        for (u32 step = 1; step < WARP; step *= 2) next = fmaxf(next, __shfl_up_sync(ALL_LANES, next, step));
        const float before = __shfl_up_sync(ALL_LANES, next, 1);
        const Weights w = weights_of(lane == 0 ? m[i] : before, stat.x, next);
        weights[head * FOLD + lane] = make_float4(w.total, w.unit, stat.y, 0.0f);
        m[i] = __shfl_sync(ALL_LANES, next, WARP - 1);
    }
}

// Folds up to 32 units into two columns of a head.
template <bool AMONG_OTHERS>
__device__ __forceinline__ void fold_units(float2& total, float& l, const float* partials, u64 stride, u32 units,
                                           const float4* weights) {
    for (u32 first = 0; first < units; first += AHEAD) {
        float2 parts[AHEAD];
        if constexpr (AMONG_OTHERS) {
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) parts[i] = make_float2(0.0f, 0.0f);
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            if (first + i < units) parts[i] = __ldcg(reinterpret_cast<const float2*>(partials + (first + i) * stride));
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            if (first + i >= units) continue;
            const float4 w = weights[first + i];
            total = make_float2(folded(total.x, parts[i].x, {w.x, w.y}), folded(total.y, parts[i].y, {w.x, w.y}));
            l = folded(l, w.z, {w.x, w.y});
        }
    }
}

// The output from the units in the workspace. In a pass a thread has two columns of a head.
template <u32 D, bool AMONG_OTHERS>
__device__ __forceinline__ void fold_all(const Attention& p, const Work& work, float4* weights) {
    const u64 stride = (u64)p.shape.heads * D;
    for (u32 first = 0; first < work.heads * D / 2; first += THREADS) {
        const u32 head = (first + threadIdx.x) / (D / 2), column = threadIdx.x % (D / 2) * 2;
        float2 total = {};
        float l = 0.0f, m[2] = {minus_infinity(), minus_infinity()};
        for (u32 unit = work.first; unit <= work.last; unit += FOLD) {
            __syncthreads();
            make_weights(p, work, unit, m, weights);
            __syncthreads();
            if (head >= work.heads) continue;
            const float* partials = p.partials + (work.slot + unit) * stride + (work.head + head) * D + column;
            fold_units<AMONG_OTHERS>(total, l, partials, stride, min(work.last + 1 - unit, FOLD), weights + head * FOLD);
        }
        if (head < work.heads) store_output(p, work.token, work.head + head, column, total.x, total.y, 1.0f / l);
    }
}

// A task: `run` and `tile` of `token`. The cache before the new token, and the batch, were there before the step began, so
// they are fetched before earlier kernels are waited for. AMONG_OTHERS: in a kernel that does other things too, where a
// register that is kept for long, or that is not written on every path, is taken from all of them.
template <class Kv, u32 D, bool AMONG_OTHERS = false>
__device__ __forceinline__ void attention_decode(const Attention& p, u32 run, u32 tile, u32 token, u8* bytes) {
    const Work work = work_of(p, run, tile, token);
    if (work.begin > work.last) return; // nothing is read or written, so nothing is waited for
    Shared<D> shared(bytes);
    Ring<D> ring = shared.ring;
    const u32 position = work.visible.last, sequence = p.sequence_of[token];
    const Context context = {p.block_ids + p.kv_indptr[sequence], work.visible.first, position, position};
    Loader<Kv, D> loader(p, context, work.kv_head);
    typename Loader<Kv, D>::Held k, v;
    loader.locate(work.begin);
    loader.begin(k, loader.k, work.begin, true, ring.k);
    loader.begin(v, loader.v, work.begin, true, ring.v);
    loader.locate(work.begin + 1);
    if constexpr (!AMONG_OTHERS) wait_for_earlier();

    const u64 width = (p.shape.heads + 2 * p.shape.kv_heads) * p.shape.head_dim;
    const bf16* row = static_cast<const bf16*>(p.qkv) + token * width;
    const float2* angles = p.angles + (u64)token * p.shape.half;
    turn_queries<D>(p, work, row, angles, shared.q);
    if (work.has_newest()) make_newest<Kv, D>(p, work, row, angles, shared.q);
    __syncthreads();
    u32 q[D / 16][4];
#pragma unroll
    for (u32 i = 0; i < D / 16; i++) load_rows(q[i], shared.q, i);
    uint4 newest = {};
    if (work.has_newest() && threadIdx.x < D / 4) {
        newest = load_shared(shared.q.chunk(TILE_ROWS + threadIdx.x / (D / 8), threadIdx.x % (D / 8)));
    }
    if (work.begin == work.last) {
        place_newest(ring.k, position, newest, false);
        place_newest(ring.v, position, newest, true);
    }

    Softmax softmax[2];
    Part<D> total = {};
    for (u32 unit = work.begin; unit < work.end; unit++, ring = ring.turned()) {
        const bool more = unit + 1 < work.end, newest_is_next = unit + 1 == work.last && more;
        loader.finish(k, unit, ring.k);
        __syncthreads();
        loader.begin(k, loader.k, unit + 1, more, ring.next_k);
        if (newest_is_next) place_newest(ring.next_k, position, newest, false);
        float s[4], m[2], sums[4];
        score_positions<D>(s, q, ring.k, work.visible, unit, p.scale);
        share_maxima(s, shared.maxima);
        __syncthreads();
        take_maxima(m, shared.maxima);
        share_weights(s, m, shared.p);
        loader.finish(v, unit, ring.v);
        __syncthreads();
        loader.begin(v, loader.v, unit + 1, more, ring.next_v());
        if (newest_is_next) place_newest(ring.next_v(), position, newest, true);
        loader.locate(unit + 2);
        u32 weights[UNIT / 16][4];
#pragma unroll
        for (u32 i = 0; i < UNIT / 16; i++) load_rows(weights[i], shared.p, i);
        add_weights(sums, weights);
        Part<D> part;
#pragma unroll
        for (u32 n = 0; n < Part<D>::NS; n++) {
            weigh<D>(part.acc[n], weights, ring.v, threadIdx.x / WARP * Part<D>::NS + n);
        }
        if (work.runs > 1) {
            leave<D>(p, work, unit, m, sums, part);
        } else {
            const Weights fold[2] = {softmax[0].fold(m[0], sums[0]), softmax[1].fold(m[1], sums[2])};
            fold_part<D>(total, part, fold);
        }
    }
    if (work.runs == 1) {
        const float inverse[2] = {1.0f / softmax[0].l, 1.0f / softmax[1].l};
        for_each_pair<D>(total, work.heads, [&](u32 r, u32 column, float a, float b) {
            store_output(p, token, work.head + r, column, a, b, r < 8 ? inverse[0] : inverse[1]);
        });
    } else if (last_to_arrive<AMONG_OTHERS>(p, work, shared.flag)) {
        fold_all<D, AMONG_OTHERS>(p, work, shared.weights);
    }
}
