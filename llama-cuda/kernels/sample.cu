// From logits to a token, as llama-core's sampler does it: the same token for the same logits, always.
//
// sample_adjust  refuses what is not finite, adds biases, applies penalties, finds the greatest; a greedy draw ends here
// sample_bin     for a cut by top-k or top-p: how much of the measure (tokens, or weight) lies in which bin of logits
// sample_gather  the keys of the bin that the cut falls into, and the key at which it falls
// sample_draw    weights above the cut, added up chunk by chunk; the token at the random number
//
// thread  8 tokens of a row, 256 apart
// warp    folds its greatest key
// block   one chunk of 2,048 tokens: 256 threads; gridDim = draws * ceil(vocab / 2048), a row's chunks together. The last
//         block of a row to arrive finishes what the launch is for; blocks pass on by atomics alone
// grid    sample_adjust always; sample_draw where a temperature is above 0; sample_bin and sample_gather before it, once
//         for top-k and once for top-p, where these cut. A row that needs no part in a launch leaves at once
// bytes   4 a logit and launch, from L2 but for the first; floor = those / memory bandwidth, or the launches themselves
// order   sums are of integers, so none matters. Cuts keep the greatest keys (logit, then the lower id), draws go by id
//
// Salmon et al. 2011 for the random number (Philox4x32-10). The cut is a radix selection over 64-bit keys of what the bins
// left; if more than 2,048 keys lie in one bin, it reads them from the row every time.
#include "dependent.cuh"
#include "sample.cuh"

using namespace sample;

constexpr u32 PICKED = 0, NOT_FINITE = 1, NOTHING_ALLOWED = 2;

// ---- adjusting ----

// The complement of the first of a thread's tokens that is not finite, with its bits; 0 if all are.
__device__ __forceinline__ u64 not_finite(const float (&values)[EACH], u32 vocab, u32 chunk) {
    u64 bad = 0;
#pragma unroll
    for (u32 j = 0; j < EACH; j++) {
        const u32 token = token_at(chunk, j), bits = __float_as_uint(values[j]);
        const bool finite = token >= vocab || (bits & 0x7f800000u) != 0x7f800000u;
        bad = max(bad, finite ? 0 : ~((u64)token << 32 | bits));
    }
    return bad;
}

// Bit 0 of a tally: seen; the rest: how often it was generated.
__device__ __forceinline__ float penalised(float logit, const Draw& draw, u32 generated) {
    logit = logit < 0.0f ? __fmul_rn(logit, draw.repetition) : __fdiv_rn(logit, draw.repetition);
    logit = __fsub_rn(logit, __fmul_rn(draw.frequency, (float)generated));
    if (generated > 0) logit = __fsub_rn(logit, draw.presence);
    return fminf(logit, 3.402823466e38f);
}

// A token's biases lie side by side: the thread that has the first of them adds all, in order.
__device__ __forceinline__ void add_biases(float* values, const Sample& p, const Draw& draw, u32 first) {
    for (u32 i = draw.bias + threadIdx.x; i < draw.bias_end; i += THREADS) {
        const u32 token = p.biases[i].token, at = token - first;
        if (at >= SAMPLE_CHUNK || (i > draw.bias && p.biases[i - 1].token == token)) continue;
        u32 j = i;
        do {
            values[at] = __fadd_rn(values[at], p.biases[j++].value);
        } while (j < draw.bias_end && p.biases[j].token == token);
    }
}

__device__ __forceinline__ void count_history(u32* tally, const Sample& p, const Draw& draw, u32 first) {
    for (u32 i = draw.history + threadIdx.x; i < draw.history_end; i += THREADS) {
        const u32 at = p.tokens[i] - first;
        if (at >= SAMPLE_CHUNK) continue;
        if (i >= draw.generated) atomicAdd(&tally[at], 2);
        else atomicOr(&tally[at], 1);
    }
}

// The chunk's logits after bias and penalties; in the row too.
__device__ __forceinline__ void adjust(float (&values)[EACH], float* row, const Sample& p, const Draw& draw, u32 chunk) {
    __shared__ float shared[SAMPLE_CHUNK];
    __shared__ u32 tally[SAMPLE_CHUNK];
    const u32 first = chunk * SAMPLE_CHUNK;
#pragma unroll
    for (u32 j = 0; j < EACH; j++) {
        shared[j * THREADS + threadIdx.x] = values[j];
        tally[j * THREADS + threadIdx.x] = 0;
    }
    __syncthreads();
    add_biases(shared, p, draw, first);
    count_history(tally, p, draw, first);
    __syncthreads();
#pragma unroll 1
    for (u32 at = threadIdx.x; at < SAMPLE_CHUNK; at += THREADS) {
        if (tally[at]) shared[at] = penalised(shared[at], draw, tally[at] >> 1);
        if (first + at < p.vocab) row[first + at] = shared[at];
    }
#pragma unroll
    for (u32 j = 0; j < EACH; j++) values[j] = shared[j * THREADS + threadIdx.x];
}

// ---- finishing a launch: the last block of a row ----

__device__ __forceinline__ void finish_adjust(const Sample& p, const Draw& draw, DrawState& state, Pick* pick) {
    const u64 best = atomicExch(&state.best, 0), bad = atomicExch(&state.bad, 0);
    const bool picked = best >= ALLOWED;
    if (bad != 0) {
        *pick = Pick{NOT_FINITE, (u32)(~bad >> 32), (u32)~bad, 0};
    } else {
        *pick = Pick{picked ? PICKED : NOTHING_ALLOWED, picked ? token_of(best) : 0, 0, 0};
    }
    state.live = bad == 0 && picked && draw.temperature > 0.0f;
    state.greatest = logit_of(best);
    state.floors[0] = state.floors[1] = ALLOWED;
}

// How much of its measure a cut keeps: top-k's tokens, or top-p's share of all weight.
__device__ __forceinline__ u64 wanted(const Draw& draw, bool by_weight, u64 all) {
    if (!by_weight) return draw.top_k;
    const u64 share = __double2ull_rz(__dmul_rn((double)draw.top_p, __ull2double_rn(all)));
    return share > 0 ? share : 1;
}

// The key at which a cut falls: digit by digit, over the keys of its bin. `list` holds them, or is null if they are too
// many: then the row is searched.
__device__ __forceinline__ u64 last_needed(const Row& row, const u64* list, u32 count, u32 bin, u64 need, bool by_weight) {
    __shared__ u64 bins[SAMPLE_BINS], warps[THREADS / WARP];
    __shared__ Found found;
    u64 prefix = 0;
    for (u32 shift = 64; shift > 0;) {
        shift -= 8;
        bins[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < count; i += THREADS) {
            const u64 key = list ? list[i] : sample::key(row.logits[i], i);
            const float logit = logit_of(key);
            const bool inside = shift == 56 || key >> (shift + 8) == prefix;
            if (!inside || !(list || (key >= row.floor && row.bin(logit) == bin))) continue;
            atomicAdd(&bins[255 - (key >> shift & 255)], by_weight ? row.units(row.weight(logit)) : 1);
        }
        __syncthreads();
        const u64 value = bins[threadIdx.x];
        const Found here = find(block_scan(value, warps), value, need, &found);
        need = here.need;
        prefix = prefix << 8 | (255 - here.at);
    }
    return prefix;
}

// 64 random bits from seed and position.
__device__ __forceinline__ u64 random_bits(const Draw& draw) {
    u32 a = draw.position_low, b = draw.position_high, c = 0, d = 0;
    u32 x = draw.seed_low, y = draw.seed_high;
#pragma unroll
    for (u32 round = 0; round < 10; round++) {
        const u64 left = (u64)0xD2511F53u * a, right = (u64)0xCD9E8D57u * c;
        a = (u32)(right >> 32) ^ b ^ x;
        b = (u32)right;
        c = (u32)(left >> 32) ^ d ^ y;
        d = (u32)left;
        x += 0x9E3779B9u;
        y += 0xBB67AE85u;
    }
    return (u64)a << 32 | b;
}

// What a token adds to the draw.
__device__ __forceinline__ u64 share(const Row& row, float logit, u32 token) {
    if (key(logit, token) < row.floor) return 0;
    const float weight = row.weight(logit);
    return weight >= row.min_p ? row.units(weight) : 0;
}

// The `at`-th number of a search: chunks' sums, then tokens' shares.
__device__ __forceinline__ u64 number(const Row& row, u64* sums, bool tokens, u32 at) {
    if (tokens) return at < row.vocab ? share(row, row.logits[at], at) : 0;
    return at < chunks_of(row.vocab) ? atomicAdd(&sums[at], 0) : 0;
}

// The chunk in which the sum of all shares passes the random number, then the token in it: each thread adds up some
// neighbours (two or more), and the one in whose sum it happens walks through them.
__device__ __forceinline__ u32 search(const Row& row, const Draw& draw, u64* sums) {
    __shared__ u64 warps[THREADS / WARP];
    __shared__ Found found;
    u32 first = 0, each = 1 + (chunks_of(row.vocab) + THREADS - 1) / THREADS;
    u64 need = 0;
#pragma unroll 1
    for (u32 tokens = 0; tokens < 2; tokens++) {
        u32 at = first + threadIdx.x * each;
        u64 sum = 0;
#pragma unroll 1
        for (u32 j = 0; j < each; j++) sum += number(row, sums, tokens, at + j);
        const Scan scan = block_scan(sum, warps);
        if (tokens == 0) need = __umul64hi(random_bits(draw), scan.all) + 1;
        const u64 before = scan.up_to - sum;
        if (before < need && need <= scan.up_to) {
            need -= before;
            for (u64 own; (own = number(row, sums, tokens, at)) < need; at++) need -= own;
            found = Found{need, at};
        }
        __syncthreads();
        need = found.need;
        first = found.at * SAMPLE_CHUNK;
        each = EACH;
    }
    return found.at;
}

// ---- tasks ----

__device__ __forceinline__ void sample_adjust_task(const Sample& p, u32 task) {
    const u32 chunks = chunks_of(p.vocab), i = task / chunks, chunk = task % chunks;
    const Draw& draw = p.draws[i];
    DrawState& state = p.states[i];
    float* row = p.logits + (u64)draw.row * p.vocab;
    float values[EACH];
    load(values, row, p.vocab, chunk);
    const u64 bad = not_finite(values, p.vocab, chunk);
    if (bad != 0) atomicMax(&state.bad, bad);
    if (draw.bias < draw.bias_end || draw.history < draw.history_end) adjust(values, row, p, draw, chunk);
    u64 best = 0;
#pragma unroll
    for (u32 j = 0; j < EACH; j++) best = max(best, key(values[j], token_at(chunk, j)));
    const u32 high = __reduce_max_sync(ALL_LANES, (u32)(best >> 32));
    const u32 low = __reduce_max_sync(ALL_LANES, high == (u32)(best >> 32) ? (u32)best : 0);
    if (threadIdx.x % WARP == 0) atomicMax(&state.best, (u64)high << 32 | low);
    if (last_to_arrive(state, chunks) && threadIdx.x == 0) finish_adjust(p, draw, state, p.picks + i);
}

// Whether a draw has this cut to make.
__device__ __forceinline__ bool cuts(const Draw& draw, const DrawState& state, bool by_weight) {
    return state.live && (by_weight ? draw.top_p < 1.0f : draw.top_k > 0);
}

// The row as the cut finds it: top-p comes after top-k.
__device__ __forceinline__ Row row_to_cut(const Sample& p, u32 i) {
    return Row(p, i, p.by_weight ? p.states[i].floors[0] : ALLOWED);
}

__device__ __forceinline__ void sample_bin_task(const Sample& p, u32 task) {
    __shared__ u64 bins[SAMPLE_BINS], warps[THREADS / WARP];
    __shared__ Found found;
    const u32 chunks = chunks_of(p.vocab), i = task / chunks, chunk = task % chunks;
    const Draw& draw = p.draws[i];
    DrawState& state = p.states[i];
    if (!cuts(draw, state, p.by_weight)) return;
    const Row row = row_to_cut(p, i);
    bins[threadIdx.x] = 0;
    __syncthreads();
    float logits[EACH];
    load(logits, row.logits, p.vocab, chunk);
#pragma unroll
    for (u32 j = 0; j < EACH; j++) {
        if (key(logits[j], token_at(chunk, j)) < row.floor) continue;
        atomicAdd(&bins[row.bin(logits[j])], p.by_weight ? row.units(row.weight(logits[j])) : 1);
    }
    __syncthreads();
    if (bins[threadIdx.x] != 0) atomicAdd(&state.bins[threadIdx.x], bins[threadIdx.x]);
    if (!last_to_arrive(state, chunks)) return;
    const u64 value = atomicExch(&state.bins[threadIdx.x], 0);
    const Scan scan = block_scan(value, warps);
    const u64 need = wanted(draw, p.by_weight, scan.all);
    const bool falls = need <= scan.all;
    const Found here = falls ? find(scan, value, need, &found) : Found{0, SAMPLE_BINS};
    if (threadIdx.x == 0) {
        state.bin = here.at;
        state.need = here.need;
    }
}

__device__ __forceinline__ void sample_gather_task(const Sample& p, u32 task) {
    __shared__ u64 list[SAMPLE_LIST];
    __shared__ u32 listed;
    const u32 chunks = chunks_of(p.vocab), i = task / chunks, chunk = task % chunks;
    const Draw& draw = p.draws[i];
    DrawState& state = p.states[i];
    if (!cuts(draw, state, p.by_weight) || state.bin == SAMPLE_BINS) return;
    const Row row = row_to_cut(p, i);
    float logits[EACH];
    load(logits, row.logits, p.vocab, chunk);
#pragma unroll
    for (u32 j = 0; j < EACH; j++) {
        const u64 found = key(logits[j], token_at(chunk, j));
        if (found < row.floor || row.bin(logits[j]) != state.bin) continue;
        const u32 at = atomicAdd(&state.listed, 1);
        if (at < SAMPLE_LIST) atomicExch(&state.list[at], found);
    }
    if (!last_to_arrive(state, chunks)) return;
    if (threadIdx.x == 0) listed = atomicExch(&state.listed, 0);
    __syncthreads();
    const bool fits = listed <= SAMPLE_LIST;
    for (u32 j = threadIdx.x; fits && j < listed; j += THREADS) list[j] = atomicExch(&state.list[j], 0);
    __syncthreads();
    const u32 count = fits ? listed : p.vocab;
    const u64 floor = last_needed(row, fits ? list : nullptr, count, state.bin, state.need, p.by_weight);
    if (threadIdx.x == 0) state.floors[p.by_weight] = floor;
}

__device__ __forceinline__ void sample_draw_task(const Sample& p, u32 task) {
    __shared__ u64 warps[THREADS / WARP];
    const u32 chunks = chunks_of(p.vocab), i = task / chunks, chunk = task % chunks;
    const Draw& draw = p.draws[i];
    DrawState& state = p.states[i];
    if (!state.live) return;
    const Row row(p, i, max(state.floors[0], state.floors[1]));
    u64* sums = p.sums + (u64)i * chunks;
    float logits[EACH];
    load(logits, row.logits, p.vocab, chunk);
    u64 sum = 0;
#pragma unroll
    for (u32 j = 0; j < EACH; j++) sum += share(row, logits[j], token_at(chunk, j));
    const u64 all = block_scan(sum, warps).all;
    if (threadIdx.x == 0) atomicExch(&sums[chunk], all);
    if (!last_to_arrive(state, chunks)) return;
    const u32 token = search(row, draw, sums);
    if (threadIdx.x == 0) p.picks[i] = Pick{PICKED, token, 0, 0};
}

extern "C" __global__ void __launch_bounds__(THREADS) sample_adjust(const __grid_constant__ Sample p) {
    begin_dependents();
    wait_for_earlier();
    sample_adjust_task(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) sample_bin(const __grid_constant__ Sample p) {
    begin_dependents();
    wait_for_earlier();
    sample_bin_task(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) sample_gather(const __grid_constant__ Sample p) {
    begin_dependents();
    wait_for_earlier();
    sample_gather_task(p, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS) sample_draw(const __grid_constant__ Sample p) {
    begin_dependents();
    wait_for_earlier();
    sample_draw_task(p, blockIdx.x);
}
